"""Model names and host names, which become part of a URL. Pure."""

import ipaddress
import re
from typing import Final

MODEL_NAME: Final = re.compile(r"(?!.*//)[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
"""A model or deployment name as providers and gateways write it, "provider/model" included."""

_CREDENTIAL: Final = re.compile(
    r"(?:openai|azure|ocpapim|x)?(?:api|access|auth|bearer|client|ephemeral|id|relay|secret|session|subscription)*"
    r"(?:key|token|secret)|openaiinsecureapikey.*|(?:x|proxy)?(?:authorization|auth|bearer)|jwt|password|credentials?"
)
"""The names of credentials, by their letters alone: clients write them in many ways."""
_PLAIN_NAME: Final = re.compile(r"[a-z_-]{1,64}")
_MAX_CREDENTIAL_NAME: Final = 512  # as long as a name that ends with the token, in the form of the subprotocol

_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<literal>[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._~-]{1,32})?)\]|(?P<name>[A-Za-z0-9._-]{1,255}))"
    r"(?::(?P<port>[0-9]{0,5}))?"
)


def credential_name(parameter: str) -> str | None:
    """The name of a credential that a query parameter bears, for messages; None if clients put none in it.

    The relay accepts none, because servers log URLs. The result is safe to show: it has letters, `-` and `_` only.
    """
    letters = "".join(sign for sign in parameter[:_MAX_CREDENTIAL_NAME].casefold() if "a" <= sign <= "z")
    if not _CREDENTIAL.fullmatch(letters):
        return None
    if letters.startswith("openaiinsecureapikey"):  # the token may follow
        return "openai-insecure-api-key"
    name = parameter.strip().lower()
    return name if _PLAIN_NAME.fullmatch(name) else letters


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
