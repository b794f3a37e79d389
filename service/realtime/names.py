"""Model names and host names, which become part of a URL. Pure."""

import ipaddress
import re
from typing import Final

MODEL_NAME: Final = re.compile(r"(?!.*//)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
"""A model or deployment name as providers and gateways write it, "provider/model" included."""


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`. Other names are not resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
