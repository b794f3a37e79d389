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

from service.doctor.steps import Explanations, Finding, StepFailed, step_failed
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
    words: Explanations | None = None
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

    def broken(self, failure: Failure, *notes: str) -> StepFailed:
        """A failure of this way, with its hints."""
        return step_failed(failure, *notes, *self.hints, words=self.words)


async def resolve(route: Route) -> tuple[Finding, list[str]]:
    """All addresses of the first hop."""
    host, port = route.first_hop
    whose = f"the proxy {host}" if route.proxy is not None else host
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return Finding(f"{whose} is an address; nothing to look up"), [host]
    try:
        async with asyncio.timeout(route.seconds):
            answers = await look_up(host, port)
    except TimeoutError:
        raise route.broken(translate.from_timeout(Phase.DNS)) from None
    except (OSError, UnicodeError) as exc:
        if route.proxy is not None:
            raise route.broken(
                Failure("proxy_failed", Phase.DNS, detail="the proxy's own name cannot be resolved")
            ) from None
        detail = (
            f"{host}: {exc.strerror}" if isinstance(exc, OSError) and exc.strerror else f"{host}: {type(exc).__name__}"
        )
        raise route.broken(Failure("dns_failed", Phase.DNS, detail=detail)) from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    notes = [] if route.proxy is None else [f"{route.host} itself is resolved by the proxy."]
    return Finding(f"{whose} is {', '.join(addresses)}", notes), addresses


async def connect(route: Route, addresses: Sequence[str]) -> Finding:
    """Connect to every address; one that answers is enough."""
    _, port = route.first_hop
    tried = list(addresses)[:_MAX_ADDRESSES]
    tasks = {asyncio.ensure_future(_connect_one(address, port, route.seconds)): address for address in tried}
    since = time.perf_counter()
    pending = set(tasks)
    reached: float | None = None
    while pending:
        left = route.seconds if reached is None else _STRAGGLER_SECONDS
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
        raise _unreachable(route, results)
    answered = [address for address, exc in results.items() if exc is None]
    notes = [
        f"{address} cannot be reached ({_name(exc)}); another address is used."
        for address, exc in results.items()
        if exc
    ]
    notes += [f"{tasks[task]} does not answer; another address is used." for task in pending]
    return Finding(f"{answered[0]} port {port} answers", notes, seconds=reached)


def _unreachable(route: Route, results: dict[str, OSError | None]) -> StepFailed:
    host, port = route.first_hop
    notes = [f"{address} port {port}: {_name(exc)}." for address, exc in results.items() if exc is not None]
    first = next((exc for exc in results.values() if exc is not None), None)
    if route.proxy is not None:
        return route.broken(
            Failure("proxy_failed", Phase.CONNECT, detail=f"the proxy {host} cannot be reached"), *notes
        )
    if first is None:
        return route.broken(translate.from_timeout(Phase.CONNECT), *notes)
    return route.broken(translate.from_exception(first, Phase.CONNECT, tls=route.is_tls), *notes)


async def _connect_one(address: str, port: int, seconds: float) -> OSError | None:
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as exc:  # TimeoutError is one
        return exc
    await abort_connection(writer)
    return None


def _name(exc: OSError | None) -> str:
    return (os.strerror(exc.errno) if exc is not None and exc.errno else None) or "no answer in time"


# -- the tunnel -------------------------------------------------------------------------------------------------------


async def open_tunnel(route: Route) -> Finding:
    """Ask the proxy to CONNECT to the peer."""
    _, writer = await open_connection(route)
    await abort_connection(writer)
    return Finding(f"the proxy connects to {route.host} port {route.port}")


async def open_connection(route: Route) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Make a connection over which TLS can start; raises Broken or OSError."""
    host, port = route.first_hop
    is_tls_proxy = route.proxy is not None and route.proxy.url.startswith("https:")
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls_context() if is_tls_proxy else None)
        if route.proxy is not None:
            await _ask_proxy(route, route.proxy, reader, writer)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        if route.proxy is None:
            raise
        raise route.broken(
            Failure("proxy_failed", Phase.CONNECT, detail=f"no answer to CONNECT ({type(exc).__name__})")
        ) from None
    return reader, writer


async def _ask_proxy(route: Route, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
    lines = [f"CONNECT {peer} HTTP/1.1", f"Host: {peer}"]
    if proxy.user is not None:
        pair = f"{proxy.user}:{proxy.password.reveal() if proxy.password else ''}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        async with asyncio.timeout(route.seconds):
            head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
    except (ValueError, IndexError):
        status = 0
    except BaseException:
        await abort_connection(writer)
        raise
    if status != 200:  # noqa: PLR2004 - RFC 9110 section 9.3.6
        await abort_connection(writer)
        meaning = {407: "it wants other credentials", 403: "it does not allow this host or port"}.get(
            status, "it refused"
        )
        raise route.broken(
            Failure(
                "proxy_failed",
                Phase.CONNECT,
                http_status=status or None,
                detail=f"asked to CONNECT to {peer}, {meaning}",
            )
        )


async def abort_connection(writer: asyncio.StreamWriter) -> None:
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
