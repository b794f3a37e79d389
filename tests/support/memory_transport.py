"""A relay without sockets, on a clock that is turned by hand: cheap enough for a hundred thousand random lives.

aiohttp, the dial, the seam, legs, pipes and sessions are the real ones. Only the kernel is played: a `Line` is one TCP
connection as asyncio's transports show it (buffers, pauses, FIN, RST), and `HandClock` jumps over every wait.

`TEST_PROFILE=deep` chooses the Hypothesis profile of that size; see `tests/conftest.py`.
"""

import asyncio
import os
import selectors
from typing import Any, Final

from hypothesis import settings

from service.wire.leg import PEEK_BYTES, Leg

IS_DEEP: Final = os.environ.get("TEST_PROFILE") == "deep"
DEEP_SECONDS: Final = 3600
"""What a test may take in the deep profile."""
ROOM: Final = 4096
"""What the played kernel takes for a peer that does not read."""


def examples(usual: int) -> settings:
    """So many examples in the normal run, and as many as the profile says in the deep one."""
    return settings() if IS_DEEP else settings(max_examples=usual)


class _Jumps(selectors.SelectSelector):
    """Nothing ever comes from outside: instead of a wait, the time moves on."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for something that will never come"
        self.now += max(0.0, timeout)
        return []


class HandClock(asyncio.SelectorEventLoop):
    """A loop that never sleeps. Whatever it had to complain of is in `complaints`."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)
        self.complaints: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.complaints.append(context))

    def time(self) -> float:
        """Seconds that have been jumped over."""
        return self._jumps.now


class MemoryTransport(asyncio.Transport):
    """One connection of the relay; whoever holds it is the peer at its other end.

    The transport's half follows asyncio's `_SelectorSocketTransport`. `heard` is what the peer has read.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, read_bytes: int) -> None:
        super().__init__({"peername": ("127.0.0.1", 9), "sockname": ("127.0.0.1", 80)})
        self._loop = asyncio.get_running_loop()
        self._protocol: Any = protocol
        self._read_bytes = read_bytes
        self._unread = bytearray()  # sent by the peer, not yet read by the relay
        self._fin = self._rst = False
        self._unsent = bytearray()  # the transport's buffer
        self._high, self._low = 65_536, 16_384
        self._paused = self._full = self._closing = self._reads_soon = self._ended = False
        self._listens = True
        self._in_kernel = bytearray()  # sent, and not read by the peer
        self.heard = bytearray()
        self.lost = 0  # how often the protocol was told
        self.lost_at: float | None = None
        protocol.connection_made(self)

    # -- the peer -----------------------------------------------------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Send; nothing after FIN or RST."""
        if not (self._fin or self._rst):
            self._unread += data
            self._wake()

    def hang_up(self) -> None:
        """FIN: the peer has closed its socket, so that the first thing written to it after this is answered by RST."""
        self._fin = True
        self._wake()

    def reset(self) -> None:
        """RST: what was sent before it can still be read, nothing can be written."""
        self._rst = True
        self._wake()

    def deafen(self) -> None:
        """Read nothing."""
        self._listens = False

    def listen(self) -> None:
        """Read on."""
        self._listens = True
        self._loop.call_soon(self._flush)

    @property
    def is_over(self) -> bool:
        """Whether the peer has hung up, read or not."""
        return self._fin or self._rst

    def peek(self) -> bytes:
        """What the kernel would show without handing it over."""
        return bytes(self._unread[:PEEK_BYTES])

    # -- reading ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if not (self._reads_soon or self._paused or self._closing):
            self._reads_soon = True
            self._loop.call_soon(self._read_ready)

    def _read_ready(self) -> None:
        self._reads_soon = False
        if self._paused or self._closing:
            return
        if self._unread:
            data = bytes(self._unread[: self._read_bytes])
            del self._unread[: len(data)]
            self._protocol.data_received(data)
            self._wake()
        elif self._rst:
            self._die(ConnectionResetError())
        elif self._fin and not self._protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """As asyncio's."""
        self._paused = self._paused or not self._closing

    def resume_reading(self) -> None:
        """As asyncio's."""
        if not self._closing and self._paused:
            self._paused = False
            self._wake()

    def is_reading(self) -> bool:
        """As asyncio's."""
        return not (self._paused or self._closing)

    # -- writing ------------------------------------------------------------------------------------------------------

    def can_write_eof(self) -> bool:
        """As asyncio's."""
        return True

    def write_eof(self) -> None:
        """As asyncio's: FIN behind what is sent, and nothing after it."""
        self._ended = True

    def write(self, data: Any) -> None:
        """As asyncio's: to the kernel while it takes it, the rest to the buffer."""
        if self._ended:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.lost or (self._closing and not self._unsent):
            return
        self._unsent += data
        self._send()
        if len(self._unsent) > self._high and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        """As asyncio's."""
        self.write(b"".join(list_of_data))

    def _send(self) -> None:
        if self._unsent and self.is_over:
            self._rst = True
            self._die(BrokenPipeError())
            return
        taken = len(self._unsent) if self._listens else max(0, ROOM - len(self._in_kernel))
        self._in_kernel += self._unsent[:taken]
        del self._unsent[:taken]
        if self._listens:
            self.heard += self._in_kernel
            self._in_kernel.clear()

    def _flush(self) -> None:
        self._send()
        if len(self._unsent) <= self._low and self._full:
            self._full = False
            self._protocol.resume_writing()
        if self._closing and not self._unsent:
            self._die(None)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's."""
        self._high = 65_536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """As asyncio's."""
        return len(self._unsent)

    # -- the end ------------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """As asyncio's."""
        return self._closing

    def close(self) -> None:
        """As asyncio's: once the buffer is empty."""
        if not self._closing:
            self._closing = True
            if not self._unsent:
                self._die(None)

    def abort(self) -> None:
        """As asyncio's: now."""
        self._die(None)

    def _die(self, exc: Exception | None) -> None:
        self._unsent.clear()
        self._closing = True
        if not self.lost:
            self.lost = 1
            self._loop.call_soon(self._tell, exc)

    def _tell(self, exc: Exception | None) -> None:
        self.lost_at = self._loop.time()
        self._protocol.connection_lost(exc)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As asyncio's."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As asyncio's."""
        return self._protocol  # type: ignore[no-any-return]  # Any, since it is told of data, too


class MemoryLeg(Leg):
    """A leg that asks the played kernel what it asks of the real one."""

    def peer_disconnected(self) -> bool:
        """Whether the peer has hung up."""
        line = self._transport
        assert isinstance(line, MemoryTransport)
        return self._eof or line.is_closing() or line.is_over

    def peek(self) -> bytes:
        """What was not read yet."""
        line = self._transport
        assert isinstance(line, MemoryTransport)
        return line.peek()
