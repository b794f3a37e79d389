"""Shapes of the names that become part of a URL: models and hosts. Pure."""

import ipaddress
import re
from typing import Final

MODEL_NAME: Final = re.compile(r"(?!.*//)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
"""A model or deployment as providers and gateways name them, "provider/model" included."""


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`. Other names are not resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
