"""The client's address behind trusted proxies, from X-Forwarded-For as proxies really write it. Pure; never raises.

Beside bare addresses, proxies write ports (Azure Application Gateway, IIS), brackets and quotes (RFC 7239 syntax),
IPv4-mapped addresses (dual-stack listeners), zones (`%eth0`; F5 writes route domains as `%1`), empty elements, and words in
place of an address: `unknown` (Squid) and identifiers that begin with `_` (RFC 7239 section 6.3).
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Literal

from service.realtime.escaping import escaped

Network = IPv4Network | IPv6Network
Problem = Literal["missing", "obfuscated", "unknown", "unreadable"]

_MAX_HOPS: Final = 64
"""Hops before these many are not read, so that a long header costs little even where every address is trusted."""
_MAX_HOP_CHARACTERS: Final = 256
_IDENTIFIER: Final = re.compile(r"_[A-Za-z0-9._-]{1,63}")
_PORT: Final = r"(?::(?:[0-9]{0,5}|_[A-Za-z0-9._-]{1,63}))?"  # RFC 7239 section 6: a port may be obfuscated too
_NODE: Final = re.compile(
    rf"\[(?P<bracketed>[^\[\]]*)\]{_PORT}|(?P<v6>[0-9A-Fa-f]*:[^\[\]]*:[^\[\]]*)|(?P<name>[^:\[\]]*){_PORT}"
)
_PAIR: Final = re.compile(
    r"for\s*=\s*(?P<node>\"[^\"]*\"|[^;\"]*)\s*(?:;.*)?", re.IGNORECASE
)  # of the header Forwarded


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """The address that identifies a client in logs and limits. `problem` states why it may not be the client's own."""

    address: str
    problem: Problem | None = None
    hop: str = ""  # the hop with the problem, escaped


def client_address(peer: str | None, forwarded: Sequence[str], trusted: Sequence[Network]) -> ClientAddress:
    """Return the socket's peer, or behind trusted proxies the last hop of X-Forwarded-For that is no trusted proxy.

    `forwarded` holds the values of all headers, in their order. A hop that is no address ends the search, because no address
    before it can be trusted: the client is then the proxy that sent it, or the proxy's identifier for the client.
    """
    address = parse_address(peer or "")
    if address is None:
        return ClientAddress(escaped(peer) if peer else "unknown")
    hops = _last_hops(forwarded)
    is_first = True
    while _is_in(address, trusted):
        hop = next(hops, None)
        if hop is None:
            return ClientAddress(str(address), "missing" if is_first else None)
        is_first = False
        node = _node(hop)
        parsed = parse_address(node)
        if parsed is None:
            return _without_address(str(address), node, hop)
        address = parsed
    return ClientAddress(str(address))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address without its zone, an IPv4-mapped one as IPv4; None if the text is no address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def address_block(address: str) -> str:
    """What the limits for each address count as one: an IPv4 address, or the /64 of an IPv6 one, which a host can own."""
    parsed = parse_address(address) if ":" in address else None
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), 64), strict=False))
    return address if parsed is None else str(parsed)


def _last_hops(forwarded: Sequence[str]) -> Iterator[str]:
    """The hops from the last one on. Empty elements are no hops (RFC 9110 section 5.6.1)."""
    count = 0
    for value in reversed(forwarded):
        rest = value
        while rest and count < _MAX_HOPS:
            rest, _, element = rest.rpartition(",")
            if hop := element.strip():
                count += 1
                yield hop


def _node(hop: str) -> str:
    """The address or word in a hop, without quotes, brackets and port; the hop itself if it has another shape."""
    text = hop[:_MAX_HOP_CHARACTERS]
    pair = _PAIR.fullmatch(text)
    text = (pair["node"] if pair else text).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace("\\", "").strip()
    found = _NODE.fullmatch(text)
    return (found["bracketed"] or found["v6"] or found["name"] or "") if found else text


def _without_address(proxy: str, node: str, hop: str) -> ClientAddress:
    if _IDENTIFIER.fullmatch(node):
        return ClientAddress(node, "obfuscated", escaped(hop))
    return ClientAddress(proxy, "unknown" if node.lower() == "unknown" else "unreadable", escaped(hop))


def _is_in(address: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    return any(address in network for network in networks)
