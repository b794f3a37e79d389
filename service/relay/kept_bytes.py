"""Bounds what unfinished large messages keep in all sessions together.

An event that is read whole, or that waits for a peer that does not read, has up to 4 MiB. Hundreds of them would be more
memory than a container has, and one client may open hundreds of sessions.
"""

import asyncio
from typing import Final, Protocol
from weakref import WeakKeyDictionary

MAX_KEPT_BYTES: Final = 32 << 20
"""Within the 100 MiB that are counted for the process beside its sessions."""
UNCOUNTED_BYTES: Final = 131_072
"""Of incomplete messages: a frame and fragments that every session may keep."""
UNCOUNTED_UNSENT_BYTES: Final = 393_216
"""Of what waits for a peer: what makes a leg full, and one read."""


class Keeper(Protocol):
    """What keeps bytes."""

    def give_up(self) -> None:
        """Free them, and end the session."""


class KeptBytes:
    """The bytes of each keeper, in the order in which they began to keep."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[Keeper, int] = {}
        self.total = 0

    def change(self, keeper: Keeper, size: int) -> None:
        """Note what a keeper keeps now. Beyond the limit those give up that have kept for the longest.

        A message that arrives is complete soon; those that wait for nothing are the oldest.
        """
        self.total += size - self._sizes.get(keeper, 0)
        if size:
            self._sizes[keeper] = size  # in its place
        else:
            self._sizes.pop(keeper, None)
        while self.total > self._limit:
            oldest = next(iter(self._sizes))
            self.total -= self._sizes.pop(oldest)
            oldest.give_up()


_kept: WeakKeyDictionary[asyncio.AbstractEventLoop, KeptBytes] = WeakKeyDictionary()


def kept_bytes() -> KeptBytes:
    """What the sessions of the running event loop share."""
    return _kept.setdefault(asyncio.get_running_loop(), KeptBytes(MAX_KEPT_BYTES))
