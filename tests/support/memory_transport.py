"""TCP connections in memory and an event loop with virtual time, cheap enough for a hundred thousand random sessions.

Only the kernel is simulated: a `MemoryTransport` behaves as asyncio's socket transport (buffers, pauses, FIN, RST), and
`VirtualTimeLoop` skips every wait. aiohttp, the dial, legs, pipes and sessions are the real ones.

`TEST_PROFILE=deep` selects the large Hypothesis profile; see `tests/conftest.py`.
"""

import asyncio
import os
import selectors
from typing import Any, Final

from hypothesis import settings

from service.wire.leg import Leg
from service.wire.tcp import PEEK_BYTES

IS_DEEP: Final = os.environ.get("TEST_PROFILE") == "deep"
DEEP_SECONDS: Final = 3600
"""The timeout of a test in the deep profile."""
PEER_BUFFER_BYTES: Final = 4096
"""What the simulated kernel buffers for a peer that does not read."""


def examples(normal: int) -> settings:
    """Hypothesis settings with this number of examples, or the number of the deep profile or of TEST_EXAMPLES."""
    return settings() if IS_DEEP or "TEST_EXAMPLES" in os.environ else settings(max_examples=normal)


class _SkippingSelector(selectors.SelectSelector):
    """Advances the time instead of waiting: no event arrives from outside the process."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "deadlock: no callback and no timer is scheduled"
        self.now += max(0.0, timeout)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that skips waits. `errors` collects what it reports to its exception handler."""

    def __init__(self) -> None:
        self._skipping_selector = _SkippingSelector()
        super().__init__(self._skipping_selector)
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._skipping_selector.now


class MemoryTransport(asyncio.Transport):
    """One connection of the relay. The test acts as the peer at its other end, with the methods named `peer_...`.

    The transport follows asyncio's `_SelectorSocketTransport`. `peer_received` is what the peer has read.
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
        self._paused = self._full = self._closing = self._read_scheduled = self._eof_written = False
        self._peer_reads = True
        self._in_kernel = bytearray()  # sent, and not read by the peer
        self.peer_received = bytearray()
        self.is_lost = False  # connection_lost is scheduled or was called
        self.lost_at: float | None = None
        protocol.connection_made(self)

    # -- the peer -----------------------------------------------------------------------------------------------------

    def peer_send(self, data: bytes) -> None:
        """Send data. Has no effect after FIN or RST."""
        if not (self._fin or self._rst):
            self._unread += data
            self._schedule_read()

    def peer_close(self) -> None:
        """Close the peer's socket: FIN, and RST in answer to the next data."""
        self._fin = True
        self._schedule_read()

    def peer_reset(self) -> None:
        """Send RST: the relay can still read what was sent before it, and cannot write."""
        self._rst = True
        self._schedule_read()

    def peer_pause_reading(self) -> None:
        """Stop reading."""
        self._peer_reads = False

    def peer_resume_reading(self) -> None:
        """Resume reading."""
        self._peer_reads = True
        self._loop.call_soon(self._flush)

    @property
    def peer_disconnected(self) -> bool:
        """Whether the peer has sent FIN or RST, read or not."""
        return self._fin or self._rst

    def peek_unread(self) -> bytes:
        """The bytes that the relay has not read, as MSG_PEEK returns them."""
        return bytes(self._unread[:PEEK_BYTES])

    # -- reading ------------------------------------------------------------------------------------------------------

    def _schedule_read(self) -> None:
        if not (self._read_scheduled or self._paused or self._closing):
            self._read_scheduled = True
            self._loop.call_soon(self._read_ready)

    def _read_ready(self) -> None:
        self._read_scheduled = False
        if self._paused or self._closing:
            return
        if self._unread:
            data = bytes(self._unread[: self._read_bytes])
            del self._unread[: len(data)]
            self._protocol.data_received(data)
            self._schedule_read()
        elif self._rst:
            self._disconnect(ConnectionResetError())
        elif self._fin and not self._protocol.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """As asyncio's."""
        self._paused = self._paused or not self._closing

    def resume_reading(self) -> None:
        """As asyncio's."""
        if not self._closing and self._paused:
            self._paused = False
            self._schedule_read()

    def is_reading(self) -> bool:
        """As asyncio's."""
        return not (self._paused or self._closing)

    # -- writing ------------------------------------------------------------------------------------------------------

    def can_write_eof(self) -> bool:
        """As asyncio's."""
        return True

    def write_eof(self) -> None:
        """As asyncio's: FIN after what was written, and nothing after it."""
        self._eof_written = True

    def write(self, data: Any) -> None:
        """As asyncio's: into the kernel's buffer, the rest into the transport's."""
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.is_lost or (self._closing and not self._unsent):
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
        if self._unsent and self.peer_disconnected:
            self._rst = True
            self._disconnect(BrokenPipeError())
            return
        accepted = len(self._unsent) if self._peer_reads else max(0, PEER_BUFFER_BYTES - len(self._in_kernel))
        self._in_kernel += self._unsent[:accepted]
        del self._unsent[:accepted]
        if self._peer_reads:
            self.peer_received += self._in_kernel
            self._in_kernel.clear()

    def _flush(self) -> None:
        self._send()
        if len(self._unsent) <= self._low and self._full:
            self._full = False
            self._protocol.resume_writing()
        if self._closing and not self._unsent:
            self._disconnect(None)

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
                self._disconnect(None)

    def abort(self) -> None:
        """As asyncio's: now."""
        self._disconnect(None)

    def _disconnect(self, exc: Exception | None) -> None:
        self._unsent.clear()
        self._closing = True
        if not self.is_lost:
            self.is_lost = True
            self._loop.call_soon(self._call_connection_lost, exc)

    def _call_connection_lost(self, exc: Exception | None) -> None:
        self.lost_at = self._loop.time()
        self._protocol.connection_lost(exc)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As asyncio's."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As asyncio's."""
        return self._protocol  # type: ignore[no-any-return]  # Any, since it receives data, too


class MemoryLeg(Leg):
    """A leg that asks the simulated kernel instead of the real one."""

    def peer_disconnected(self) -> bool:
        """Whether the peer has disconnected."""
        transport = self._transport
        assert isinstance(transport, MemoryTransport)
        return self._eof or transport.is_closing() or transport.peer_disconnected

    def peek(self) -> bytes:
        """The bytes that are not delivered."""
        transport = self._transport
        assert isinstance(transport, MemoryTransport)
        return b"" if self._waits_for_turn else bytes(self.backlog) + transport.peek_unread()
