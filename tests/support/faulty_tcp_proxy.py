"""A TCP proxy that makes a network bad without root: delay, jitter, a narrow line, stalls, half-closes and resets."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.support.tcp_server import listening

CHUNK_BYTES: Final = 4096
QUEUED_CHUNKS: Final = 64
"""What is on its way in one direction; more is left unread, as on a real line."""

Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What the line does to each direction. Seconds, and bytes per second; 0 bytes per second is no limit."""

    delay: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float = 0.0


@dataclass
class TcpProxy:
    """A listening proxy and what can be done to all that goes through it."""

    line: LinkProfile
    port: int = 0
    carried: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    ended: dict[Direction, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    """How many bytes were delivered, and how many streams their senders have ended, by FIN or RST."""
    _writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = field(default_factory=list)
    _flows: asyncio.Event = field(default_factory=asyncio.Event)

    def stall(self) -> None:
        """Carry nothing until `go_on`; what is sent meanwhile fills the kernel's buffers."""
        self._flows.clear()

    def go_on(self) -> None:
        """Carry again, from where it stopped."""
        self._flows.set()

    def half_close(self, direction: Direction) -> None:
        """Say FIN at the end of one direction and go on carrying the other."""
        for client, server in self._writers:
            (server if direction == "up" else client).write_eof()

    def reset(self) -> None:
        """Hang up with RST on both sides."""
        for pair in self._writers:
            for writer in pair:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: tuple[str, int]) -> None:
        """One connection through the proxy, until both directions have ended."""
        there, to_there = await asyncio.open_connection(*to, limit=CHUNK_BYTES)
        self._writers.append((writer, to_there))
        try:
            await asyncio.gather(self._carry(reader, to_there, "up"), self._carry(there, writer, "down"))
        finally:
            self._writers.remove((writer, to_there))
            writer.close()
            to_there.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        taking = asyncio.ensure_future(self._take(reader, under_way, direction))
        try:
            await self._deliver(under_way, writer, direction)
        finally:
            taking.cancel()

    async def _take(
        self, reader: asyncio.StreamReader, under_way: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        data = b"-"
        while data:
            await self._flows.wait()
            try:
                data = await reader.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
            # TCP keeps the order: a chunk that is lucky still waits for those before it.
            due = max(due, loop.time() + self.line.delay + random.uniform(0, self.line.jitter))
            await under_way.put((due, data))
        self.ended[direction] += 1

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError, RuntimeError):  # RuntimeError: this direction was half-closed by the test
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                await self._flows.wait()
                if not data:
                    if not writer.is_closing():
                        writer.write_eof()
                    return
                writer.write(data)
                self.carried[direction] += len(data)
                await writer.drain()
                if self.line.bytes_per_second:
                    await asyncio.sleep(len(data) / self.line.bytes_per_second)


@asynccontextmanager
async def tcp_proxy(port: int, line: LinkProfile | None = None, host: str = "127.0.0.1") -> AsyncIterator[TcpProxy]:
    """A proxy before a server's port, listening on 127.0.0.1."""
    proxy = TcpProxy(line or LinkProfile())
    proxy.go_on()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await proxy.serve(reader, writer, (host, port))

    async with listening(serve, limit=CHUNK_BYTES) as proxy.port:
        yield proxy
