"""A server of the tests' own: each connection in a task, and none left behind."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(
    serve: Serve,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    limit: int = 65_536,
    backlog: int = 512,
    tasks: set[asyncio.Future[None]] | None = None,
) -> AsyncIterator[int]:
    """Run `serve` for each connection: yields the port. What is under way is in `tasks`; the end of the server ends it."""
    under_way = tasks if tasks is not None else set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    server = await asyncio.start_server(accept, host, 0, ssl=tls, limit=limit, backlog=backlog)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(under_way):
            task.cancel()
        if under_way:
            await asyncio.wait(tuple(under_way))
