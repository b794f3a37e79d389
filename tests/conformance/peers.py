"""The relay's peers: an upstream that echoes, a client that echoes, and a rewriting proxy before the fuzzing server."""

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
    """Send every message back with its type, until the peer closes."""
    with suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


@asynccontextmanager
async def echo_upstream() -> AsyncIterator[str]:
    """An upstream that echoes messages of any size, without compression; yields its base URL."""
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
    """Answer the relay's health check, which requests the model over REST."""
    return None if "Upgrade" in request.headers else connection.respond(HTTPStatus.OK, "{}")


async def echo_client(url: str) -> None:
    """Connect and echo until the server closes."""
    with suppress(WebSocketException, OSError):  # the fuzzing server judges the end
        async with connect(url, compression=None, max_size=None, ping_interval=None, proxy=None) as connection:
            await echo(connection)


class RewritingProxy:
    """A TCP proxy before the fuzzing server, which has a path per case, while the relay has one path.

    It rewrites request lines only: `?model=case-17` becomes `/runCase?case=17`. Everything else is unchanged, including ends
    of streams and resets.
    """

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self.server_port = 0
        """The fuzzing server's port; set before the first connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until both directions have ended."""
        server_writer: asyncio.StreamWriter | None = None
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if not _UPGRADE.search(head):  # the relay's health check
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                return
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
            server_writer.write(self._rewrite(head).encode("latin-1"))
            await asyncio.gather(_copy(reader, server_writer), _copy(server_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            writer.close()
            if server_writer is not None:
                server_writer.close()

    def _rewrite(self, head: str) -> str:
        return _CASE.sub(rf"GET /runCase?case=\1&agent={self._agent} HTTP/1.1\r\n", head, count=1)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except (OSError, RuntimeError):  # RuntimeError: the other direction has closed this one's writer
        writer.transport.abort()


@asynccontextmanager
async def rewriting_proxy(agent: str) -> AsyncIterator[tuple[RewritingProxy, int]]:
    """A rewriting proxy and its port."""
    proxy = RewritingProxy(agent)
    async with listening(proxy.serve) as port:
        yield proxy, port
