"""Model names and host names, which become part of a URL. Pure."""

import ipaddress
import re
from typing import Final

MODEL_NAME: Final = re.compile(r"(?!.*//)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
"""A model or deployment name as providers and gateways write it, "provider/model" included."""

CREDENTIAL_PARAMETERS: Final = frozenset({"api-key", "api_key", "apikey", "token", "access_token", "key"})
"""Query parameters that clients put a credential in, in lower case. The relay accepts none: proxies and servers log URLs."""

_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~-]{1,32})?)\]|(?P<name>[A-Za-z0-9._-]{1,255}))"
    r"(?::(?P<port>[0-9]{0,5}))?"
)


def host_of(authority: str) -> str | None:
    """The host in a Host header (RFC 9110 section 7.2), without brackets and port; None if the header is malformed."""
    parts = split_authority(authority)
    return parts[0] if parts is not None else None


def split_authority(authority: str) -> tuple[str, str] | None:
    """Host and port in a Host header, the port empty if there is none; None if the header is malformed."""
    found = _AUTHORITY.fullmatch(authority.strip())
    return ((found["literal"] or found["name"]), found["port"] or "") if found else None


def reached_locally(host: str) -> str:
    """The host at which this machine reaches a listener on `host`: loopback if that is an unspecified address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if not address.is_unspecified else "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - IPv4


def url_host(host: str) -> str:
    """A host as it is written in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`. Other names are not resolved."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
