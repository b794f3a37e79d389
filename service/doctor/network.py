"""DNS, TCP and the proxy's tunnel, one at a time: what a dial does in one breath. Raises Broken.

Nothing is sent here but CONNECT to a proxy.
"""

import asyncio
import ipaddress
import os
import ssl
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from yarl import URL

from service.doctor.rungs import Broken, Found, Words, broken_by
from service.failures import Failure, Phase
from service.upstream import translate
from service.upstream.proxy import Proxy
from service.upstream.resolver import look_up

_MAX_ADDRESSES: Final = 8
_STRAGGLER_SECONDS: Final = 0.5
"""After the first address has answered, the others get this long; a dead IPv6 route must not cost the whole budget."""


@dataclass(frozen=True, slots=True)
class Route:
    """How a peer is reached: its URL, the proxy if one applies, and the words for what can go wrong."""

    url: URL
    proxy: Proxy | None = None
    seconds: float = 8.0
    words: Words | None = None
    hints: Sequence[str] = ()

    @property
    def host(self) -> str:
        """The peer's name."""
        return self.url.host or ""

    @property
    def port(self) -> int:
        """The peer's port."""
        return self.url.port or 443

    @property
    def is_tls(self) -> bool:
        """Whether the peer speaks TLS."""
        return self.url.scheme in {"https", "wss"}

    @property
    def first_hop(self) -> tuple[str, int]:
        """Where the TCP connection goes."""
        if self.proxy is None:
            return self.host, self.port
        url = URL(self.proxy.url)
        return url.host or "", url.port or 80

    def broken(self, failure: Failure, *notes: str) -> Broken:
        """A failure of this way, with its hints."""
        return broken_by(failure, *notes, *self.hints, words=self.words)


async def resolve(way: Route) -> tuple[Found, list[str]]:
    """All addresses of the first hop."""
    host, port = way.first_hop
    whose = f"the proxy {host}" if way.proxy is not None else host
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return Found(f"{whose} is an address; nothing to look up"), [host]
    try:
        async with asyncio.timeout(way.seconds):
            answers = await look_up(host, port)
    except TimeoutError:
        raise way.broken(translate.from_timeout(Phase.DNS)) from None
    except (OSError, UnicodeError) as exc:
        if way.proxy is not None:
            raise way.broken(
                Failure("proxy_failed", Phase.DNS, detail="the proxy's own name cannot be resolved")
            ) from None
        detail = (
            f"{host}: {exc.strerror}" if isinstance(exc, OSError) and exc.strerror else f"{host}: {type(exc).__name__}"
        )
        raise way.broken(Failure("dns_failed", Phase.DNS, detail=detail)) from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    notes = [] if way.proxy is None else [f"{way.host} itself is resolved by the proxy."]
    return Found(f"{whose} is {', '.join(addresses)}", notes), addresses


async def connect(way: Route, addresses: Sequence[str]) -> Found:
    """Connect to every address; one that answers is enough."""
    _, port = way.first_hop
    tried = list(addresses)[:_MAX_ADDRESSES]
    tasks = {asyncio.ensure_future(_connect_one(address, port, way.seconds)): address for address in tried}
    since = time.perf_counter()
    pending = set(tasks)
    reached: float | None = None
    while pending:
        left = way.seconds if reached is None else _STRAGGLER_SECONDS
        done, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if reached is None and any(task.result() is None for task in done):
            reached = time.perf_counter() - since
        if not done:
            break
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    results = {tasks[task]: None if task.cancelled() else task.result() for task in tasks if task not in pending}
    if reached is None:
        raise _unreachable(way, results)
    answered = [address for address, exc in results.items() if exc is None]
    notes = [
        f"{address} cannot be reached ({_name(exc)}); another address is used."
        for address, exc in results.items()
        if exc
    ]
    notes += [f"{tasks[task]} does not answer; another address is used." for task in pending]
    return Found(f"{answered[0]} port {port} answers", notes, seconds=reached)


def _unreachable(way: Route, results: dict[str, OSError | None]) -> Broken:
    host, port = way.first_hop
    notes = [f"{address} port {port}: {_name(exc)}." for address, exc in results.items() if exc is not None]
    first = next((exc for exc in results.values() if exc is not None), None)
    if way.proxy is not None:
        return way.broken(Failure("proxy_failed", Phase.CONNECT, detail=f"the proxy {host} cannot be reached"), *notes)
    if first is None:
        return way.broken(translate.from_timeout(Phase.CONNECT), *notes)
    return way.broken(translate.from_exception(first, Phase.CONNECT, tls=way.is_tls), *notes)


async def _connect_one(address: str, port: int, seconds: float) -> OSError | None:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as exc:  # TimeoutError is one
        return exc
    await hang_up(writer)
    return None


def _name(exc: OSError | None) -> str:
    return (os.strerror(exc.errno) if exc is not None and exc.errno else None) or "no answer in time"


# -- the tunnel -------------------------------------------------------------------------------------------------------


async def dig_tunnel(way: Route) -> Found:
    """Ask the proxy to CONNECT to the peer."""
    _, writer = await open_stream(way)
    await hang_up(writer)
    return Found(f"the proxy connects to {way.host} port {way.port}")


async def open_stream(way: Route) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Make a connection over which TLS can start; raises Broken or OSError."""
    host, port = way.first_hop
    is_tls_proxy = way.proxy is not None and way.proxy.url.startswith("https:")
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls_context() if is_tls_proxy else None)
        if way.proxy is not None:
            await _ask_proxy(way, way.proxy, reader, writer)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        if way.proxy is None:
            raise
        raise way.broken(
            Failure("proxy_failed", Phase.CONNECT, detail=f"no answer to CONNECT ({type(exc).__name__})")
        ) from None
    return reader, writer


async def _ask_proxy(way: Route, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = f"[{way.host}]:{way.port}" if ":" in way.host else f"{way.host}:{way.port}"
    lines = [f"CONNECT {peer} HTTP/1.1", f"Host: {peer}"]
    if proxy.user is not None:
        pair = f"{proxy.user}:{proxy.password.reveal() if proxy.password else ''}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        async with asyncio.timeout(way.seconds):
            head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
    except (ValueError, IndexError):
        status = 0
    except BaseException:
        await hang_up(writer)
        raise
    if status != 200:  # noqa: PLR2004 - RFC 9110 section 9.3.6
        await hang_up(writer)
        meaning = {407: "it wants other credentials", 403: "it does not allow this host or port"}.get(
            status, "it refused"
        )
        raise way.broken(
            Failure(
                "proxy_failed",
                Phase.CONNECT,
                http_status=status or None,
                detail=f"asked to CONNECT to {peer}, {meaning}",
            )
        )


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Drop a connection over which nothing was said that has to arrive, and wait a little for it."""
    writer.transport.abort()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(0.5):
            await writer.wait_closed()


def tls_context() -> ssl.SSLContext:
    """As a dial makes it: the system's trust store, or SSL_CERT_FILE."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
