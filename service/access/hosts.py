"""Which host names requests to a port on loopback may have: the protection against DNS rebinding.

A web page can let its own name resolve to 127.0.0.1 after the browser has loaded it. Its requests then have the page's own
origin, so that the browser lets it read the answers, but the `Host` of every one is the page's name. Pure.
"""

import re
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from service.access.forwarded import parse_address
from service.realtime.names import split_authority

_PATTERN: Final = re.compile(
    r"(?P<host>(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_MAX_PORT: Final = 65_535
_DEFAULT_PORTS: Final = frozenset({"", "80", "443"})
"""A Host without a port has the default one of a scheme that the relay behind a proxy does not know."""


def parse_allowed_host(text: str) -> str | None:
    """Return an entry of RELAY_ALLOWED_HOSTS in its one form: lower case, no dot at the end; None if it is none."""
    name, colon, port = text.lower().partition(":") if "[" not in text else (text.lower(), "", "")
    entry = name.removesuffix(".") + colon + port
    found = _PATTERN.fullmatch(entry)
    if found is None or ".." in entry or int(found["port"] or 1) > _MAX_PORT:
        return None
    is_literal = found["host"].startswith("[")
    return None if is_literal and _address(found["host"].strip("[]")) is None else entry


def is_loopback_address(host: str) -> bool:
    """Whether a host is an address of loopback, in any notation."""
    address = _address(host)
    return address is not None and address.is_loopback


class HostPolicy:
    """Allows loopback, the hosts of RELAY_ALLOWED_HOSTS as `parse_allowed_host` returns them, and the bound host."""

    def __init__(self, allowed: Sequence[str], bound_host: str) -> None:
        self._allowed = [_PATTERN.fullmatch(entry) for entry in allowed]
        self._bound_host = _normal(bound_host)

    def allows(self, authority: str) -> bool:
        """Whether a request may have this value of `Host` (RFC 9110 section 7.2)."""
        parts = split_authority(authority)
        if parts is None:
            return False
        host, port = _normal(parts[0]), parts[1]
        return (
            host == "localhost"
            or host.endswith(".localhost")
            or is_loopback_address(host)
            or host == self._bound_host
            or any(_matches(entry["host"], entry["port"], host, port) for entry in self._allowed if entry is not None)
        )


def _matches(pattern: str, wanted_port: str | None, host: str, port: str) -> bool:
    if wanted_port is not None and port != wanted_port and not {port, wanted_port} <= _DEFAULT_PORTS:
        return False
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and len(host) >= len(pattern)
    if pattern.startswith("["):
        return _address(host) == _address(pattern.strip("[]"))
    return host == pattern


def _normal(host: str) -> str:
    return host.lower().removesuffix(".")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """An address in any notation that clients accept: also 127.1 and 0x7f000001, which a resolver never sees."""
    address = parse_address(host)
    if address is not None:
        return address
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def all_on_loopback(addresses: Iterable[str]) -> bool:
    """Whether a listener on these addresses can be reached from its own machine only."""
    return all(is_loopback_address(address) for address in addresses)
