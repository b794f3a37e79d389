"""A WebSocket server that answers the opening handshake and then runs a script of raw bytes."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from service.realtime.closing import close_payload, parse_close
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, MessageEnd
from tests.support import tcp_server
from tests.support.messages import pop_payload
from tests.support.tcp_server import listening

CREATED = b'{"type":"session.created","event_id":"event_1","session":{"id":"sess_1"}}'


@dataclass
class ServerConnection:
    """One upgraded connection, as the script uses it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""

    def send(self, payload: bytes, opcode: Opcode = Opcode.TEXT) -> None:
        """Send a frame."""
        self.writer.write(build_frame(opcode, payload))

    def send_close(self, code: int | None, reason: str = "") -> None:
        """Send a close frame."""
        self.send(close_payload(code, reason), Opcode.CLOSE)

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield the payloads of the peer's messages to the end of the stream. Answers a close frame."""
        scanner = Scanner(masked=True, max_message_bytes=1 << 30)
        raw = bytearray()
        with suppress(ConnectionError):
            while data := await self.reader.read(65_536):
                for item in scanner.feed(data):
                    match item:
                        case Chunk():
                            raw += item.raw
                        case MessageEnd():
                            yield pop_payload(raw, masked=True)
                        case ControlFrame(Opcode.CLOSE, payload):
                            self.send(payload, Opcode.CLOSE)
                            return

    async def next_message(self) -> bytes:
        """The payload of the peer's next message; empty at the end of the stream."""
        async for payload in self.messages():
            return payload
        return b""

    async def until_close(self) -> tuple[int | None, str] | None:
        """Read to the peer's close frame; returns its code and reason, None if the stream ends without one."""
        scanner = Scanner(masked=True, max_message_bytes=1 << 30)
        with suppress(ConnectionError):
            while data := await self.reader.read(65_536):
                for item in scanner.feed(data):
                    if isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                        return parse_close(item.payload)
        return None

    async def wait_closed(self) -> None:
        """Read to the peer's close frame and answer it, or to the end of the stream."""
        close = await self.until_close()
        if close is not None:
            with suppress(ConnectionError):
                self.send_close(close[0])

    async def read_until_eof(self) -> None:
        """Read to the end of the stream, without answering a close frame."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass

    def reset(self) -> None:
        """Reset the connection."""
        tcp_server.reset(self.writer)


Script = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    """Echo every message."""
    connection.send(CREATED)
    async for payload in connection.messages():
        connection.send(payload)
        await connection.writer.drain()


@dataclass
class RawUpstream:
    """A listening server. `upgrades` and `open` count the scripted connections."""

    url: str
    upgrades: int = 0
    open: int = 0
    tasks: set[asyncio.Future[None]] = field(default_factory=set)


@asynccontextmanager
async def raw_upstream(script: Script, *, behind_101: bytes = b"") -> AsyncIterator[RawUpstream]:
    """Run `script` for GPT-Live and for the model `scripted`; others, health checks, get a first event only."""
    upstream = RawUpstream("")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            if "upgrade: websocket" not in head.lower():
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                await writer.drain()
                return
            is_scripted = "model=scripted" in head or "/live/sessions" in head
            key = next(
                line.split(": ")[1] for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key")
            )
            digest = hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324 - RFC 6455
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                + base64.b64encode(digest)
                + b"\r\n\r\n"
                + (behind_101 if is_scripted else b"")
            )
            connection = ServerConnection(reader, writer, head)
            if not is_scripted:
                connection.send(CREATED)
                if (close := await connection.until_close()) is not None:
                    connection.send_close(close[0])
                return
            upstream.upgrades += 1
            upstream.open += 1
            try:
                await script(connection)
            finally:
                upstream.open -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with listening(serve, limit=1 << 20, tasks=upstream.tasks) as port:
        upstream.url = f"http://127.0.0.1:{port}/v1"
        yield upstream
