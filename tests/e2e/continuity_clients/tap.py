"""A listener between a client and a server that forwards every byte and keeps the events, each with its time.

So the same evidence exists for every SDK, whatever of it an SDK shows. It ends the client's TLS if it is given a context, and
removes the client's offer of compression, which the relay does not accept either; the simulator does.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from service.realtime.frames import Opcode
from tests.e2e.live_clients.outcome import ClientFailed

_OFFER: Final = b"sec-websocket-extensions:"
_READ: Final = 262_144
_SHORT, _LONG = 126, 127  # RFC 6455 section 5.2


@dataclass(frozen=True, slots=True)
class Seen:
    """One event on the client's connection; `at` is by time.monotonic()."""

    at: float
    is_from_client: bool
    type: str
    event: dict[str, Any]


@dataclass
class Tap:
    """What passed so far. `connections` counts those that the client opened."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    is_one_connection: bool = True  # its end is the end of the call
    closed_at: list[float] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def received(self, *types: str) -> list[Seen]:
        """The events of these types that the client received."""
        return [seen for seen in self.seen if not seen.is_from_client and seen.type in types]

    def sent(self, *types: str) -> list[Seen]:
        """The events of these types that the client sent."""
        return [seen for seen in self.seen if seen.is_from_client and seen.type in types]

    async def wait(self, is_reached: Callable[[], bool]) -> None:
        """Wait until something is true of what passed; it is asked after each event. Raises ClientFailed."""
        async with self._news:
            await self._news.wait_for(lambda: is_reached() or (self.is_one_connection and self.closed_at))
        if not is_reached():
            raise ClientFailed("the client's connection ended")

    async def wait_received(self, event_type: str, count: int = 1) -> Seen:
        """Wait for the count-th event of a type that the client receives."""
        await self.wait(lambda: len(self.received(event_type)) >= count)
        return self.received(event_type)[count - 1]

    async def add(self, message: bytes, *, is_from_client: bool) -> None:
        """Keep a message."""
        event = json.loads(message)
        async with self._news:
            self.seen.append(Seen(time.monotonic(), is_from_client, event.get("type", ""), event))
            self._news.notify_all()

    async def mark_closed(self) -> None:
        """A connection has ended, on either side."""
        async with self._news:
            self.closed_at.append(time.monotonic())
            self._news.notify_all()


class _Messages:
    """Decodes the text messages of one direction."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._message = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        messages = list[bytes]()
        while (frame := self._next_frame()) is not None:
            first, payload = frame
            if first & 0x0F in {Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION}:
                self._message += payload
                if first & 0x80:
                    messages.append(bytes(self._message))
                    self._message.clear()
        return messages

    def _next_frame(self) -> tuple[int, bytes] | None:
        data = self._buffer
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size >= _SHORT:
            at = 10 if size == _LONG else 4
            size = int.from_bytes(data[2:at], "big")
        key_size = 4 if data[1] & 0x80 else 0
        end = at + key_size + size
        if len(data) < at + key_size or len(data) < end:
            return None
        key, payload = bytes(data[at : at + key_size]), bytes(data[at + key_size : end])
        if key:
            pad = (key * (size // 4 + 1))[:size]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(size, "big")
        first = data[0]
        del data[:end]
        return first, payload


@asynccontextmanager
async def tap(port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Tap]:
    """Listen on loopback for clients of the server at `port`."""
    found = Tap()
    tasks = set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):  # at the end; asyncio reports a handler that is cancelled
            await _forward_both(found, reader, writer, port)
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context, limit=_READ)
    scheme = "https" if context else "http"
    found.url = f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield found
    finally:
        server.close()
        for task in [*tasks]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _forward_both(found: Tap, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, port: int) -> None:
    server, to_server = await asyncio.open_connection("127.0.0.1", port, limit=_READ)
    try:
        if await _forward_handshake(client, to_client, server, to_server):
            found.connections += 1
            directions = (
                asyncio.ensure_future(_forward(found, client, to_server, is_from_client=True)),
                asyncio.ensure_future(_forward(found, server, to_client, is_from_client=False)),
            )
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            await found.mark_closed()
            await asyncio.wait(directions, timeout=2)  # the rest of a closing handshake
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        for writer in (to_client, to_server):
            writer.transport.abort()


async def _forward_handshake(
    client: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
    server: asyncio.StreamReader,
    to_server: asyncio.StreamWriter,
) -> bool:
    request = await client.readuntil(b"\r\n\r\n")
    lines = [line for line in request.split(b"\r\n") if not line.lower().startswith(_OFFER)]
    to_server.write(b"\r\n".join(lines))
    response = await server.readuntil(b"\r\n\r\n")
    to_client.write(response)
    if response.split(b" ", 2)[1] == b"101":
        return True
    with suppress(OSError):
        to_client.write(await asyncio.wait_for(server.read(), 2))
        await to_client.drain()
    return False


async def _forward(
    found: Tap, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_from_client: bool
) -> None:
    messages = _Messages()
    with suppress(OSError):
        while data := await reader.read(_READ):
            writer.write(data)
            for message in messages.feed(data):
                await found.add(message, is_from_client=is_from_client)
            await writer.drain()
        writer.write_eof() if writer.can_write_eof() else writer.close()
