"""Small frames for a peer that does not read: a leg is full long before their bytes are."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import pytest

from service.realtime.frames import Opcode, build_frame
from service.wire.leg import WRITE_HIGH_BYTES, Leg
from service.wire.small_writes import MAX_SMALL_WRITES
from tests.support.certificates import Authority
from tests.support.harness import eventually

SMALL: Final = build_frame(Opcode.TEXT, b"{}")
KINDS: Final[dict[str, Callable[[Leg], object]]] = {
    "messages": lambda leg: leg.write(SMALL),
    "events": lambda leg: leg.send_event(b"{}"),
    "pieces of a frame": lambda leg: leg.write(b"x", mid_frame=True),
    "pings": lambda leg: leg.send_control(Opcode.PING, b""),
    "pongs": lambda leg: leg.send_control(Opcode.PONG, b""),
}


@asynccontextmanager
async def leg_and_peer() -> AsyncIterator[tuple[Leg, asyncio.Transport, socket.socket]]:
    """A leg, its transport, and the socket of its peer, which takes few bytes that are not read."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        listener.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, *listener.getsockname())
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        peer, _ = await loop.sock_accept(listener)
    leg = Leg(transport, asyncio.Protocol(), b"", masks=False)
    transport.set_protocol(leg)
    try:
        with peer:
            yield leg, transport, peer
    finally:
        leg.abort()
        await leg.closed


@pytest.mark.parametrize("kind", KINDS)
async def test_leg_with_many_small_writes_is_full(kind: str) -> None:
    """It is writable once they are read, none is lost, and the next ones count from the beginning."""
    async with leg_and_peer() as (leg, transport, peer):
        full_at: list[int] = []
        leg.on_full = lambda: full_at.append(leg.buffered_bytes)
        written = 0
        while not leg.buffered_bytes:
            leg.write(b"x" * 1000)
            written += 1000
            await asyncio.sleep(0)
        for _ in range(2 * MAX_SMALL_WRITES):
            KINDS[kind](leg)
            await asyncio.sleep(0)
        assert len(full_at) == 1
        assert 0 < full_at[0] < WRITE_HIGH_BYTES // 8

        received = 0
        while leg.buffered_bytes:
            received += len(await asyncio.get_running_loop().sock_recv(peer, 65_536))
        await eventually(lambda: leg.full_since is None)
        assert received >= written
        assert (WRITE_HIGH_BYTES // 4, WRITE_HIGH_BYTES) == transport.get_write_buffer_limits()


async def test_small_writes_that_the_kernel_takes_fill_nothing() -> None:
    """However many there are."""
    async with leg_and_peer() as (leg, _, peer):
        full: list[None] = []
        leg.on_full = lambda: full.append(None)
        for _ in range(4 * MAX_SMALL_WRITES):
            leg.write(SMALL)
            while leg.buffered_bytes:
                await asyncio.get_running_loop().sock_recv(peer, 65_536)
            await asyncio.sleep(0)
        assert full == []


class Peer(asyncio.Protocol):
    """Counts what it receives, once it reads."""

    def __init__(self) -> None:
        self.received = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read nothing yet."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not subclass asyncio's
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Count it."""
        self.received += len(data)


async def test_leg_over_tls_is_full_and_writable_again(tmp_path: Path) -> None:
    """TLS transports have marks of their own."""
    authority, loop, peer = Authority(tmp_path), asyncio.get_running_loop(), Peer()
    async with await loop.create_server(lambda: peer, "127.0.0.1", 0, ssl=authority.server_context()) as server:
        context = ssl.create_default_context(cafile=authority.bundle)
        transport, _ = await loop.create_connection(
            asyncio.Protocol, *server.sockets[0].getsockname(), ssl=context, server_hostname="localhost"
        )
        leg = Leg(transport, asyncio.Protocol(), b"", masks=True)
        transport.set_protocol(leg)
        await eventually(lambda: peer.transport is not None)
        full_at: list[int] = []
        leg.on_full = lambda: full_at.append(leg.buffered_bytes)
        written = 0
        while leg.buffered_bytes < WRITE_HIGH_BYTES // 8:
            leg.write(b"x" * 5000)
            written += 5000
            await asyncio.sleep(0)
        for _ in range(MAX_SMALL_WRITES + 1):
            leg.write(SMALL)
            written += len(SMALL)
            await asyncio.sleep(0)
        assert len(full_at) == 1
        assert full_at[0] < WRITE_HIGH_BYTES
        assert peer.transport is not None
        peer.transport.resume_reading()
        await eventually(lambda: leg.full_since is None and peer.received == written)
        leg.write(b"x" * 5000)
        await eventually(lambda: peer.received == written + 5000)
        assert len(full_at) == 1
        leg.abort()
        await leg.closed
