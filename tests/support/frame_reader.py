"""Reads a peer's frames at a chosen rate, or not at all."""

import asyncio

from service.realtime.closing import parse_close
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame
from tests.support.harness import RawClient
from tests.support.raw_websocket_server import ServerConnection


def pause_reading(peer: RawClient | ServerConnection) -> None:
    """Stop reading."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read


def resume_reading(peer: RawClient | ServerConnection) -> None:
    """Resume reading."""
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read


class FrameReader:
    """Reads a peer's data frames at any rate, and answers the pings between them."""

    def __init__(self, peer: RawClient | ServerConnection) -> None:
        self._peer = peer
        self._is_client = isinstance(peer, RawClient)
        self._scanner = Scanner(masked=not self._is_client, max_message_bytes=1 << 24)
        self._data = bytearray()
        self.pings = 0
        self.close: tuple[int | None, str] | None = None

    async def read(self, size: int, *, limit: int = 65_536, pause: float = 0.0) -> bytes:
        """The next `size` bytes of data frames, or fewer before a close frame; reads at most `limit` bytes in each `pause`.

        A busy machine makes pauses longer; then more is read after each, so that the rate stays.
        """
        loop = asyncio.get_running_loop()
        allowed, since = 0.0, loop.time()
        while len(self._data) < size and self.close is None:
            if pause and allowed <= 0:
                await asyncio.sleep(pause)
                now = loop.time()
                allowed, since = limit * (now - since) / pause, now
            data = await self._peer.reader.read(limit)
            allowed -= len(data)
            assert data, f"the stream ended after {len(self._data)} of {size} bytes"
            for item in self._scanner.feed(data):
                match item:
                    case Chunk(raw, _):
                        self._data += raw
                    case ControlFrame(Opcode.PING, payload):
                        self.pings += 1
                        key = b"abcd" if self._is_client else b""
                        self._peer.writer.write(build_frame(Opcode.PONG, payload, key))
                    case ControlFrame(Opcode.CLOSE, payload):
                        self.close = parse_close(payload)
        received = bytes(self._data[:size])
        del self._data[:size]
        return received
