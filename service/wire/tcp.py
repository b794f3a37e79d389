"""What a leg asks of the kernel about its TCP connection: options, acknowledgements, unread bytes."""

import asyncio
import os
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Final

_TCP_INFO_BYTES: Final = 128
_BYTES_ACKED_OFFSET: Final = 120  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1

PEEK_BYTES: Final = 1 << 20
"""How many unread bytes are searched for a close frame: 16 seconds of speech."""

# A client may play slowly what arrived fast, with its window at zero meanwhile. Pings find one that has vanished (39 s).
CLIENT_TIMEOUT_MS: Final = 60_000
UPSTREAM_TIMEOUT_MS: Final = 20_000

_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 20),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
)


def enable_dead_peer_detection(transport: asyncio.Transport, user_timeout_ms: int) -> None:
    """Have the kernel reset the connection when the peer acknowledges nothing, or keeps its window at zero, for that long.

    The user timeout replaces the count of keepalive probes (tcp(7)), which applies where the option does not exist.
    """
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    for level, name, value in (*_KEEPALIVE, (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", user_timeout_ms)):
        with suppress(OSError):  # not a TCP socket, or already closed
            if hasattr(socket, name):
                sock.setsockopt(level, getattr(socket, name), value)


def acknowledged_bytes(transport: asyncio.Transport) -> int:
    """The number of bytes that the peer's kernel has acknowledged so far; 0 where the kernel does not count them."""
    if sys.platform != "linux":
        return 0
    sock = transport.get_extra_info("socket")
    with suppress(
        OSError, ValueError, AttributeError, struct.error
    ):  # a closed socket, of uvloop too, none, an old kernel
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(struct.unpack_from("Q", info, _BYTES_ACKED_OFFSET)[0])
    return 0


def peer_disconnected(transport: asyncio.Transport) -> bool:
    """Whether FIN or RST has arrived, including behind bytes that have not been read."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def peek_unread(transport: asyncio.Transport) -> bytes:
    """The bytes that the kernel has received and the transport has not read, left in place; empty on TLS (ciphertext)."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0 or transport.get_extra_info("sslcontext") is not None:
        return b""
    # asyncio's wrapper of a socket cannot receive; a duplicate of its descriptor can.
    with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
        return duplicate.recv(PEEK_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return b""
