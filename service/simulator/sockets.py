"""What aiohttp's WebSockets have no method for: bytes of a frame, one TCP segment, RST, and waiting for the peer's end."""

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds: close() becomes RST
_POLL_INTERVAL_SECONDS = 0.02
_TEXT_FRAME = 0x81
_SHORT_LENGTH, _LENGTH_16, _LENGTH_64, _MAX_16 = 125, 126, 127, 0xFFFF


def text_frame(payload: bytes) -> bytes:
    """RFC 6455 section 5.2: an unfragmented text frame without a mask."""
    size = len(payload)
    if size <= _SHORT_LENGTH:
        return struct.pack("!BB", _TEXT_FRAME, size) + payload
    if size <= _MAX_16:
        return struct.pack("!BBH", _TEXT_FRAME, _LENGTH_16, size) + payload
    return struct.pack("!BBQ", _TEXT_FRAME, _LENGTH_64, size) + payload


async def wait_for_disconnect(transport: asyncio.Transport) -> None:
    """Wait until the client has closed a connection on which the simulator sends nothing."""
    while not transport.is_closing():  # noqa: ASYNC110 - an asyncio transport has no event for this
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)


def reset(transport: asyncio.Transport) -> None:
    """Abort the connection with RST instead of FIN."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    transport.abort()


@contextmanager
def single_segment(transport: asyncio.Transport) -> Iterator[None]:
    """Send what is written within the context in one TCP segment, where the system can."""
    # The provider's error event and close frame arrive in one TCP segment. Two writes would make two segments;
    # TCP_CORK, which only Linux has, joins them.
    cork = getattr(socket, "TCP_CORK", None)
    tcp = transport.get_extra_info("socket")
    if cork is None or tcp is None or transport.is_closing():
        yield
        return
    tcp.setsockopt(socket.IPPROTO_TCP, cork, 1)
    try:
        yield
    finally:
        if not transport.is_closing():
            tcp.setsockopt(socket.IPPROTO_TCP, cork, 0)
