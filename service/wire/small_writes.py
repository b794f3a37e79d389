"""Bounds the memory of small writes that wait for a peer.

uvloop 0.23 keeps 840 bytes for each write that the kernel did not take, whatever its size, so that 64 KiB of frames of six
bytes would be nine megabytes.
"""

import asyncio
from typing import Final

MAX_SMALL_WRITES: Final = 256
"""How many wait until their transport counts as full."""
SMALL_BYTES: Final = 512
"""A write below this is small: as many larger ones as `high` allows need less."""


class SmallWrites:
    """Counts the small writes of a transport since it was last seen without unsent bytes. `high`: its mark for bytes."""

    __slots__ = ("_high", "_transport", "_waiting")

    def __init__(self, transport: asyncio.Transport, high: int) -> None:
        self._transport = transport
        self._high = high
        self._waiting = 0
        transport.set_write_buffer_limits(high=high)

    def add(self) -> None:
        """Count a small write that follows. At the maximum the transport calls `pause_writing` at once."""
        if self._waiting < MAX_SMALL_WRITES and not self._transport.get_write_buffer_size():
            self._waiting = 0  # at the maximum `written` does that: it also restores the mark
            return
        self._waiting += 1
        if self._waiting == MAX_SMALL_WRITES:
            self._transport.set_write_buffer_limits(high=0)

    def written(self) -> None:
        """Begin again: the transport calls `resume_writing`."""
        if self._waiting >= MAX_SMALL_WRITES and not self._transport.is_closing():
            self._transport.set_write_buffer_limits(high=self._high)
        self._waiting = 0
