"""A listener: aiohttp's server behind a socket of ours, with the bounds that aiohttp leaves open."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from service.web.admission import NOTICE
from service.web.connection_limit import ConnectionLimit

_BACKLOG: Final = 256
"""More would only queue what admission refuses, and would multiply asyncio's log lines when descriptors run out."""


async def listen(
    stack: AsyncExitStack,
    host: str,
    port: int,
    routes: Iterable[web.RouteDef],
    door: Callable[[web.Server], ConnectionLimit] | None,
) -> int:
    """Serve routes until the stack is closed; returns the port. Raises OSError if the address cannot be had."""
    app = web.Application(client_max_size=1024)
    app.router.add_routes(list(routes))
    app.on_response_prepare.append(_finish_headers)
    runner = web.AppRunner(
        app,
        handle_signals=False,  # aiohttp's own handler would cut sessions instead of draining them
        access_log=None,  # it would write queries
        keepalive_timeout=15,  # also the only bound on a client that never finishes its request
        shutdown_timeout=1,
        handler_cancellation=True,  # a client that gives up while we dial must not cost a session
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None  # noqa: S101 - there is one after setup
    factory: Callable[[], asyncio.BaseProtocol] = runner.server if door is None else door(runner.server)
    listener = await asyncio.get_running_loop().create_server(factory, host, port, backlog=_BACKLOG)
    stack.callback(listener.close)
    return int(listener.sockets[0].getsockname()[1])


async def _finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Versions of libraries are nobody's business; what a client should be told goes with every answer."""
    response.headers.popall("Server", None)
    if NOTICE in request:
        response.headers["Relay-Notice"] = request[NOTICE]
    if response.status == 101:  # noqa: PLR2004 - Switching Protocols has no body to describe
        response.headers.popall("Content-Type", None)
