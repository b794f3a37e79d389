"""An HTTP server as upstream whose script writes the response, or anything else, to each request of the relay."""

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import ControlFrame
from tests.support import tcp_server
from tests.support.raw_websocket_server import CREATED
from tests.support.tcp_server import listening

PATH = "/v1/realtime?model=scripted"


@dataclass
class Exchange:
    """One request of the relay. Its head has been read; the script writes the response."""

    head: str
    number: int  # among the scripted requests, from 1
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def header(self, name: str) -> str | None:
        """The value of a request header, or None."""
        lines = (line.partition(": ") for line in self.head.split("\r\n")[1:])
        return next((value for key, _, value in lines if key.lower() == name.lower()), None)

    def answer(self, status: str, body: bytes = b"", **headers: str) -> None:
        """Write a complete response."""
        fields = {"Content-Length": str(len(body)), "Connection": "close"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1") + body)

    def upgrade(
        self, *events: bytes, headers: str = "Upgrade: websocket\r\nConnection: Upgrade\r\n", accept: str = ""
    ) -> None:
        """Write a 101 with these headers, followed by events."""
        text = (self.header("Sec-WebSocket-Key") or "") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        digest = hashlib.sha1(text.encode(), usedforsecurity=False)
        accept = accept or base64.b64encode(digest.digest()).decode()
        head = f"HTTP/1.1 101 Switching Protocols\r\n{headers}Sec-WebSocket-Accept: {accept}\r\n\r\n"
        self.writer.write(head.encode() + b"".join(build_frame(Opcode.TEXT, event) for event in events))

    async def wait_closed(self) -> None:
        """Read until the relay disconnects. Answer its close frame, so that it does not have to wait."""
        scanner = Scanner(masked=True, max_message_bytes=1 << 30)
        with suppress(ConnectionError):
            while data := await self.reader.read(65_536):
                for item in scanner.feed(data):
                    if isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                        self.writer.write(build_frame(Opcode.CLOSE, item.payload))
                        return

    def reset(self) -> None:
        """Abort the connection with RST."""
        tcp_server.reset(self.writer)


@dataclass
class RawHttp:
    """A listening upstream, and counts of what it has received."""

    url: str
    port: int
    requests: int = 0
    open: int = 0  # scripted requests whose script is running
    connections: int = 0  # including those without a request and those of health checks
    heads: list[str] = field(default_factory=list)


Script = Callable[[Exchange], Awaitable[None]]


def answering(status: str, body: bytes = b"", **headers: str) -> Script:
    """A script that answers every request with this response."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(status, body, **headers)

    return script


@asynccontextmanager
async def raw_http(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawHttp]:
    """Run `script` for each request whose model is `scripted`, and for those to GPT-Live. Other health checks pass."""
    upstream = RawHttp("", 0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            exchange = Exchange(head, upstream.requests + 1, reader, writer)
            if "model=scripted" not in head and "/live/sessions" not in head:
                await answer_health_check(exchange)
                return
            upstream.requests += 1
            upstream.open += 1
            upstream.heads.append(head)
            try:
                await script(exchange)
                await writer.drain()
            finally:
                upstream.open -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with listening(serve, host=host, tls=tls) as port:
        upstream.port = port
        upstream.url = f"{'https' if tls else 'http'}://{host}:{port}/v1"
        yield upstream


async def answer_health_check(exchange: Exchange) -> None:
    """Answer a health check as a working provider does."""
    if "upgrade: websocket" in exchange.head.lower():
        exchange.upgrade(CREATED)
        await exchange.wait_closed()
    else:
        exchange.answer("200 OK", b"{}")
