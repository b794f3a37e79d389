"""A TCP proxy that degrades a connection without root: delay, jitter, low bandwidth, stalls, half-closes, resets."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.support import tcp_server
from tests.support.tcp_server import listening

CHUNK_BYTES: Final = 4096
CHUNKS_IN_TRANSIT: Final = 64
"""The capacity of one direction; more is left unread, as by a real link."""

Direction = Literal["to_server", "to_client"]


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What the link does to each direction, in seconds and bytes per second; 0 bytes per second is no limit."""

    delay: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float = 0.0


@dataclass
class TcpProxy:
    """A listening proxy, and the faults that it can cause on all its connections.

    `forwarded_bytes` counts what was delivered, `ended_streams` the senders that have ended their stream by FIN or RST.
    """

    link: LinkProfile
    port: int = 0
    forwarded_bytes: dict[Direction, int] = field(default_factory=lambda: {"to_server": 0, "to_client": 0})
    ended_streams: dict[Direction, int] = field(default_factory=lambda: {"to_server": 0, "to_client": 0})
    _writers: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = field(default_factory=list)
    _forwards: asyncio.Event = field(default_factory=asyncio.Event)

    def stall(self) -> None:
        """Forward nothing until `resume`; what is sent meanwhile fills the kernel's buffers."""
        self._forwards.clear()

    def resume(self) -> None:
        """Forward from where it stalled."""
        self._forwards.set()

    def half_close(self, direction: Direction) -> None:
        """Send FIN in one direction and go on forwarding the other."""
        for client, server in self._writers:
            (server if direction == "to_server" else client).write_eof()

    def reset(self) -> None:
        """Send RST to both sides."""
        for pair in self._writers:
            for writer in pair:
                tcp_server.reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: tuple[str, int]) -> None:
        """Forward one connection until both directions have ended."""
        server_reader, server_writer = await asyncio.open_connection(*to, limit=CHUNK_BYTES)
        self._writers.append((writer, server_writer))
        try:
            await asyncio.gather(
                self._forward(reader, server_writer, "to_server"), self._forward(server_reader, writer, "to_client")
            )
        finally:
            self._writers.remove((writer, server_writer))
            writer.close()
            server_writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        in_transit: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_IN_TRANSIT)
        reading = asyncio.ensure_future(self._read(reader, in_transit, direction))
        try:
            await self._deliver(in_transit, writer, direction)
        finally:
            reading.cancel()

    async def _read(
        self, reader: asyncio.StreamReader, in_transit: asyncio.Queue[tuple[float, bytes]], direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        due = 0.0
        data = b"-"
        while data:
            await self._forwards.wait()
            try:
                data = await reader.read(CHUNK_BYTES)
            except ConnectionError:
                data = b""
            # TCP keeps the order: a chunk with little jitter still waits for those before it.
            due = max(due, loop.time() + self.link.delay + random.uniform(0, self.link.jitter))
            await in_transit.put((due, data))
        self.ended_streams[direction] += 1

    async def _deliver(
        self, in_transit: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        loop = asyncio.get_running_loop()
        with suppress(ConnectionError, RuntimeError):  # RuntimeError: the test has half-closed this direction
            while True:
                due, data = await in_transit.get()
                await asyncio.sleep(due - loop.time())
                await self._forwards.wait()
                if not data:
                    if not writer.is_closing():
                        writer.write_eof()
                    return
                writer.write(data)
                self.forwarded_bytes[direction] += len(data)
                await writer.drain()
                if self.link.bytes_per_second:
                    await asyncio.sleep(len(data) / self.link.bytes_per_second)


@asynccontextmanager
async def tcp_proxy(port: int, link: LinkProfile | None = None, host: str = "127.0.0.1") -> AsyncIterator[TcpProxy]:
    """Run a proxy in front of a server's port, listening on 127.0.0.1."""
    proxy = TcpProxy(link or LinkProfile())
    proxy.resume()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await proxy.serve(reader, writer, (host, port))

    async with listening(serve, limit=CHUNK_BYTES) as proxy.port:
        yield proxy
