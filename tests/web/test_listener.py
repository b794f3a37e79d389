"""service/web/listener.py: how fast connections are accepted."""

import asyncio
import os
import socket
import struct
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Final, cast

from service.web.connection_limit import ConnectionLimit
from service.web.listener import listen
from tests.support.harness import eventually

_MAX_BACKLOG_OFFSET: Final = 28  # tcpi_sacked in Linux's struct tcp_info, which has this meaning for a listening socket


class Refusal(asyncio.Protocol):
    """Counts and aborts connections."""

    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        Refusal.made += 1
        cast("asyncio.Transport", transport).abort()


async def test_turn_accepts_several_connections() -> None:
    """A probe behind hundreds of clients that connect again and again does not wait for a turn of the loop for each."""
    waiting, turns, Refusal.made = 64, 0, 0
    async with AsyncExitStack() as stack:
        port = await listen(
            stack, "127.0.0.1", 0, [], connection_limit=lambda _: cast("ConnectionLimit", Refusal), allowed_hosts=None
        )
        with ExitStack() as clients:
            for _ in range(waiting):
                clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            while Refusal.made < waiting:
                turns += 1
                await asyncio.sleep(0)

            assert turns < waiting / 4


async def test_queue_of_connections_is_longer_than_a_flood_fills_at_once() -> None:
    """The kernel drops what arrives at a full queue, and a client tries again only after a second."""
    async with AsyncExitStack() as stack:
        port = await listen(
            stack, "127.0.0.1", 0, [], connection_limit=lambda _: cast("ConnectionLimit", Refusal), allowed_hosts=None
        )
        assert min(1024, longest_queue()) == queue_of(port)


async def test_listener_that_is_closed_accepts_nothing() -> None:
    """None of its listeners is left."""
    async with AsyncExitStack() as stack:
        port = await listen(
            stack, "127.0.0.1", 0, [], connection_limit=lambda _: cast("ConnectionLimit", Refusal), allowed_hosts=None
        )

    def is_refused() -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) != 0

    await eventually(is_refused)


def longest_queue() -> int:
    """The kernel's limit."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii"))


def queue_of(port: int) -> int:
    """How many connections the kernel keeps for the listening socket of this process on a port."""
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError), socket.socket(fileno=os.dup(int(link.name))) as sock:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and sock.getsockname()[1] == port:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
                return int(struct.unpack_from("I", info, _MAX_BACKLOG_OFFSET)[0])
    raise AssertionError("nothing listens")
