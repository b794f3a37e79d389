"""A listener: an aiohttp server on a socket of its own, with the limits that aiohttp leaves unset."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final

from aiohttp import web

from service.access.forwarded import parse_address
from service.upstream.resolver import look_up
from service.web.admission import NOTICE
from service.web.connection_limit import ConnectionLimit
from service.web.head_limiter import MAX_HEAD_BYTES
from service.web.host_check import HostCheck
from service.web.protocol import HEAD_SECONDS

RESOLVE_SECONDS: Final = 10.0
_BACKLOG: Final = 256
"""How many connections asyncio's own loop accepts in a turn; more would multiply its log lines when accept fails."""
_QUEUE: Final = 1024
"""Connections that the kernel keeps until they are accepted. It drops what arrives beyond, and the peer tries again after a
second: a probe that is lost in a flood of connections then takes that long."""
_ACCEPTS_PER_TURN: Final = 8
"""uvloop accepts one connection of a listener in each turn of the event loop. A probe would wait for hundreds of turns behind
clients that connect again as soon as they are turned away, so each listening socket has several listeners."""


async def listen(
    stack: AsyncExitStack,
    host: str,
    port: int,
    routes: Iterable[web.RouteDef],
    *,
    connection_limit: Callable[[web.Server], ConnectionLimit],
    allowed_hosts: Sequence[str] | None,
    on_bound: Callable[[Sequence[str]], object] = lambda _: None,
) -> int:
    """Serve routes until `stack` is closed; return the port. Raises OSError if the address cannot be listened on.

    `connection_limit` makes the protocol factory for aiohttp's server; `allowed_hosts` is described at `HostCheck`.
    `on_bound` receives the addresses that the listener is bound to, before the first request is handled.
    """
    host_check = HostCheck(allowed_hosts)
    runner = _runner(routes, host_check)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await _check_name(host, port)
    server = runner.server
    assert server is not None  # noqa: S101 - set by setup
    factory = connection_limit(server)
    listener = await asyncio.get_running_loop().create_server(factory, host, port, backlog=_BACKLOG)
    stack.callback(listener.close)
    addresses = [str(bound.getsockname()[0]) for bound in listener.sockets]
    host_check.bound(host, addresses)
    on_bound(addresses)
    for bound in listener.sockets:
        await _listen_again(stack, factory, bound.fileno())
    return int(listener.sockets[0].getsockname()[1])


def _runner(routes: Iterable[web.RouteDef], host_check: HostCheck) -> web.AppRunner:
    """An aiohttp application with these routes, and its server with limits."""
    app = web.Application(client_max_size=1024, middlewares=[host_check.middleware()])
    app.router.add_routes(
        [
            web.RouteDef(
                route.method, route.path, route.handler, {**route.kwargs, "expect_handler": _check_expectation}
            )
            for route in routes
        ]
    )
    app.on_response_prepare.append(_adjust_headers)
    return web.AppRunner(
        app,
        handle_signals=False,  # aiohttp's signal handler would close sessions instead of draining them
        access_log=None,  # it logs queries
        # aiohttp's 8 kB for a header refuse the cookies of a single sign-on; PublicProtocol limits their sum.
        max_line_size=MAX_HEAD_BYTES,
        max_field_size=MAX_HEAD_BYTES,
        keepalive_timeout=HEAD_SECONDS,  # also the only timeout for a client that never completes its request
        read_bufsize=MAX_HEAD_BYTES,  # bytes after an upgrade request that wait for its answer
        lingering_time=0,  # do not wait for the rest of a body that no handler reads
        shutdown_timeout=1,
        handler_cancellation=True,  # without it a dial goes on after its client has disconnected
    )


async def _listen_again(stack: AsyncExitStack, factory: Callable[[], asyncio.BaseProtocol], descriptor: int) -> None:
    """Add listeners to a listening socket, and lengthen its queue."""
    for _ in range(_ACCEPTS_PER_TURN - 1):
        duplicate = socket.socket(fileno=os.dup(descriptor))
        listener = await asyncio.get_running_loop().create_server(factory, sock=duplicate, backlog=_BACKLOG)
        stack.callback(listener.close)
    with socket.socket(fileno=os.dup(descriptor)) as duplicate:
        duplicate.listen(_QUEUE)


async def _check_name(host: str, port: int) -> None:
    """Resolve a host name with a deadline, and with a thread that the end of the process does not wait for.

    `create_server` has neither. Raises TimeoutError; `create_server` reports any other failure.
    """
    if parse_address(host) is None:
        async with asyncio.timeout(RESOLVE_SECONDS):
            with suppress(socket.gaierror):
                await look_up(host, port)


async def _adjust_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Remove `Server`, which would reveal library versions; add the notice of admission."""
    response.headers.popall("Server", None)
    if NOTICE in request:
        response.headers["Relay-Notice"] = request[NOTICE]
    if response.status == 101:  # noqa: PLR2004 - Switching Protocols has no body, so no content type
        response.headers.popall("Content-Type", None)


async def _check_expectation(request: web.Request) -> None:
    """Ignore `100-continue`: a handler that waits for a body answers it (RFC 9110 section 10.1.1).

    aiohttp's own handler repeats any other value in its answer, and fails with an internal error where that is not UTF-8.
    """
    if request.headers.get("Expect", "").strip().lower() != "100-continue":
        raise web.HTTPExpectationFailed(text="The server meets no expectation but 100-continue.")
