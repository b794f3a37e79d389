"""The steps DNS, TCP and proxy tunnel, one at a time; a dial does them together. They raise StepFailed.

Only the tunnel sends data: a CONNECT request to the proxy.
"""

import asyncio
import ipaddress
import os
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from yarl import URL

from service.deadlines import Deadline
from service.doctor.steps import Explanations, Finding, StepFailed
from service.failures import Failure, Phase
from service.upstream import hints, translate
from service.upstream.proxy import HttpProxy
from service.upstream.resolver import FilteredName, check_addresses, look_up
from service.upstream.target import Target

_MAX_ADDRESSES: Final = 8
_OTHER_ADDRESSES_SECONDS: Final = 0.5
"""How long the other addresses may take after the first has answered: a dead IPv6 route must not use up the timeout."""
_ABORT_SECONDS: Final = 0.5
_LOOPBACKS: Final = ("127.0.0.1", "::1")
_PROXY_CHALLENGE: Final = re.compile(r"^proxy-authenticate:(.*)$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach a server: its URL and the proxy, if any. `notes` are added to every failure."""

    url: URL
    timeout_seconds: float
    proxy: HttpProxy | None = None
    explanations: Explanations | None = None
    notes: Sequence[str] = ()
    target: Target | None = None  # the provider, None if the server is a relay

    @property
    def host(self) -> str:
        """The host of the server."""
        return self.url.host or ""

    @property
    def port(self) -> int:
        """The port of the server."""
        return self.url.port or 443

    @property
    def is_tls(self) -> bool:
        """Whether the URL selects TLS."""
        return self.url.scheme in {"https", "wss"}

    @property
    def first_hop(self) -> tuple[str, int]:
        """Host and port of the TCP connection: those of the proxy, if there is one."""
        if self.proxy is None:
            return self.host, self.port
        url = URL(self.proxy.url)
        return url.host or "", url.port or 80

    def step_failed(self, failure: Failure, *notes: str) -> StepFailed:
        """Explain a failure of this route."""
        if self.target is not None:
            hints.add_hint(failure, self.target)
        return StepFailed.from_failure(failure, *notes, *self.notes, explanations=self.explanations)


async def resolve(route: Route) -> tuple[Finding, list[str]]:
    """Resolve the first hop; returns all its addresses."""
    host, port = route.first_hop
    name = f"the proxy {host}" if route.proxy is not None else host
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return Finding(f"{name} is an IP address; no lookup needed"), [host]
    try:
        async with Deadline(route.timeout_seconds):
            answers = await look_up(host, port)
    except TimeoutError:
        raise route.step_failed(translate.from_timeout(Phase.DNS)) from None
    except (OSError, UnicodeError) as exc:
        if route.proxy is not None:
            failure = Failure("proxy_failed", Phase.DNS, detail="the name of the proxy cannot be resolved")
            raise route.step_failed(failure) from None
        error = exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
        raise route.step_failed(Failure("dns_failed", Phase.DNS, detail=f"{host}: {error}")) from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    try:
        check_addresses(host, addresses)
    except FilteredName as exc:
        reason = "dns_filtered" if route.proxy is None else "proxy_failed"
        detail = f"{host} resolves to {exc.addresses}"
        raise route.step_failed(Failure(reason, Phase.DNS, detail=detail)) from None
    notes = [] if route.proxy is None else [f"The proxy resolves {route.host}."]
    return Finding(f"{name} resolves to {', '.join(addresses)}", notes), addresses


async def connect(route: Route, addresses: Sequence[str]) -> Finding:
    """Open a TCP connection to every address; passes if one of them answers."""
    _, port = route.first_hop
    tasks = {
        asyncio.ensure_future(_connect_one(address, port, route.timeout_seconds)): address
        for address in addresses[:_MAX_ADDRESSES]
    }
    started_at = time.perf_counter()
    pending = set(tasks)
    connected_after: float | None = None
    while pending:
        timeout = route.timeout_seconds if connected_after is None else _OTHER_ADDRESSES_SECONDS
        done, pending = await asyncio.wait(pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if connected_after is None and any(task.result() is None for task in done):
            connected_after = time.perf_counter() - started_at
        if not done:
            break
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    errors = {tasks[task]: None if task.cancelled() else task.result() for task in tasks if task not in pending}
    if connected_after is None:
        raise _unreachable(route, errors, await _other_loopback_notes(route, addresses))
    answered = next(address for address, error in errors.items() if error is None)
    notes = [
        f"{address} is unreachable ({_describe(error)}); another address is used."
        for address, error in errors.items()
        if error
    ]
    notes += [f"{tasks[task]} does not answer; another address is used." for task in pending]
    return Finding(f"{answered} port {port} accepts connections", notes, seconds=connected_after)


async def _other_loopback_notes(route: Route, addresses: Sequence[str]) -> list[str]:
    """Name the loopback address that answers where the one that the name resolves to refuses."""
    host, port = route.first_hop
    tried = {address for address in addresses if address in _LOOPBACKS}
    for address in _LOOPBACKS if tried else ():
        if address not in tried and await _connect_one(address, port, _OTHER_ADDRESSES_SECONDS) is None:
            refusing = ", ".join(sorted(tried))
            shown = f"[{address}]" if ":" in address else address
            note = (
                f"{host} resolves to {refusing} only, which refuses, while {address} port {port} answers. Use {shown} in "
                f"place of {host}, or let the server listen on {refusing}."
            )
            return [note]
    return []


def _unreachable(route: Route, errors: dict[str, OSError | None], other_notes: Sequence[str]) -> StepFailed:
    host, port = route.first_hop
    notes = [f"{address} port {port}: {_describe(error)}." for address, error in errors.items() if error is not None]
    first = next((error for error in errors.values() if error is not None), None)
    if route.proxy is not None:
        failure = Failure("proxy_failed", Phase.CONNECT, detail=f"the proxy {host} is unreachable")
    elif first is None:
        failure = translate.from_timeout(Phase.CONNECT)
    else:
        failure = translate.from_exception(first, Phase.CONNECT, tls=route.is_tls)
    return route.step_failed(failure, *notes, *other_notes)


async def _connect_one(address: str, port: int, timeout_seconds: float) -> OSError | None:
    try:
        async with Deadline(timeout_seconds):
            _, writer = await asyncio.open_connection(address, port)
    except OSError as exc:  # TimeoutError is a subclass
        return exc
    await abort_connection(writer)
    return None


def _describe(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else None) or "timeout"


# -- proxy tunnel -----------------------------------------------------------------------------------------------------


async def open_tunnel(route: Route) -> Finding:
    """Let the proxy open a tunnel to the server."""
    _, writer = await open_connection(route)
    await abort_connection(writer)
    return Finding(f"the proxy opened a tunnel to {route.host} port {route.port}")


async def open_connection(route: Route) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection to the server, through the proxy if there is one; raises StepFailed or OSError."""
    host, port = route.first_hop
    is_tls_proxy = route.proxy is not None and route.proxy.url.startswith("https:")
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls_context() if is_tls_proxy else None)
        if route.proxy is not None:
            await _request_tunnel(route, route.proxy, reader, writer)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as exc:
        if route.proxy is None:
            raise
        if isinstance(exc, ssl.SSLError):
            raise route.step_failed(translate.from_proxy_tls(exc, route.proxy)) from None
        detail = f"the proxy did not answer CONNECT ({type(exc).__name__})"
        raise route.step_failed(Failure("proxy_failed", Phase.CONNECT, detail=detail)) from None
    return reader, writer


async def _request_tunnel(
    route: Route, proxy: HttpProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    authority = f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.user is not None:
        credentials = f"{proxy.user}:{proxy.password.reveal() if proxy.password else ''}"
        lines.append(f"Proxy-Authorization: Basic {b64encode(credentials.encode()).decode()}")
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        async with Deadline(route.timeout_seconds):
            head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
    except (ValueError, IndexError):
        status = 0
    except BaseException:
        await abort_connection(writer)
        raise
    if status != 200:  # noqa: PLR2004 - RFC 9110 section 9.3.6
        await abort_connection(writer)
        failure = translate.from_proxy_status(status, _PROXY_CHALLENGE.findall(head.decode("latin-1")))
        failure.http_status = status or None
        failure.detail = f"the proxy refused CONNECT {authority}: {failure.detail}"
        raise route.step_failed(failure)


async def abort_connection(writer: asyncio.StreamWriter) -> None:
    """Abort a connection whose data need not arrive, and wait briefly until it is closed."""
    writer.transport.abort()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ABORT_SECONDS):
            await writer.wait_closed()


def tls_context() -> ssl.SSLContext:
    """A context as a dial uses it: trusts the system's certificates, or those of SSL_CERT_FILE."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
