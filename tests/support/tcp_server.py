"""A TCP server for tests: one task for each connection, all of which end with the server."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def reset(writer: asyncio.StreamWriter) -> None:
    """Abort a connection with RST."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


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
    """Run `serve` for each connection; yields the port. `tasks` holds the running tasks, which are cancelled at the end."""
    running = tasks if tasks is not None else set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)
        task.add_done_callback(lambda _: writer.close())  # `serve` does not, where it is cancelled before it starts

    server = await asyncio.start_server(accept, host, 0, ssl=tls, limit=limit, backlog=backlog)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(running):
            task.cancel()
        if running:
            await asyncio.wait(tuple(running))
