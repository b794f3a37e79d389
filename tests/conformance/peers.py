"""Who stands beside the relay: an upstream that echoes, a client that echoes, and a front for the fuzzing server."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.http11 import Request, Response

from tests.support.tcp_server import listening

_CASE: Final = re.compile(r"GET \S*[?&]model=case-(\d+)\S* HTTP/1\.1\r\n")
_UPGRADE: Final = re.compile(r"^upgrade: *websocket\r$", re.IGNORECASE | re.MULTILINE)


async def echo(connection: ServerConnection | ClientConnection) -> None:
    """Send every message back, as text or binary as it came, until the other side has enough."""
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


@asynccontextmanager
async def echo_upstream() -> AsyncIterator[str]:
    """An upstream that echoes; yields its base URL. No compression, and messages of any size."""
    async with serve(
        echo,
        "127.0.0.1",
        0,
        compression=None,
        max_size=None,
        ping_interval=None,
        process_request=_answer_plain_requests,
    ) as server:
        yield f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1"


def _answer_plain_requests(connection: ServerConnection, request: Request) -> Response | None:
    """The relay's health asks for the model over REST: it exists."""
    return None if "Upgrade" in request.headers else connection.respond(HTTPStatus.OK, "{}")


async def echo_client(url: str) -> None:
    """Connect and echo until the server ends it."""
    with suppress(WebSocketException, OSError):  # the fuzzing server judges; here any end is an end
        async with connect(url, compression=None, max_size=None, ping_interval=None, proxy=None) as connection:
            await echo(connection)


class Front:
    """Stands before the fuzzing server, whose cases have a path each, while the relay knows one path.

    It rewrites request lines only: `?model=case-17` becomes `/runCase?case=17`. Everything else passes as it is, ends of
    streams and resets included.
    """

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self.server_port = 0
        """Where the fuzzing server listens; set before the first connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until both directions have ended."""
        there: asyncio.StreamWriter | None = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if not _UPGRADE.search(head):  # the relay's health, asking for the model
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                return
            from_there, there = await asyncio.open_connection("127.0.0.1", self.server_port)
            there.write(self._rewrite(head).encode("latin-1"))
            await asyncio.gather(_carry(reader, there), _carry(from_there, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()
            if there is not None:
                there.close()

    def _rewrite(self, head: str) -> str:
        return _CASE.sub(rf"GET /runCase?case=\1&agent={self._agent} HTTP/1.1\r\n", head, count=1)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError):  # RuntimeError: the other direction has hung up on this one's sink
        writer.transport.abort()


@asynccontextmanager
async def front(agent: str) -> AsyncIterator[tuple[Front, int]]:
    """A front and its port."""
    served = Front(agent)
    async with listening(served.serve) as port:
        yield served, port
