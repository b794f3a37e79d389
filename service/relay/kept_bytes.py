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
        """Free them, and end the session. It then keeps nothing: `change` need not be called."""


class KeptBytes:
    """The bytes of each keeper by client, of each in the order in which they began to keep."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._sizes: dict[str, dict[Keeper, int]] = {}
        self._totals: dict[str, int] = {}
        self.total = 0

    def change(self, client: str, keeper: Keeper, size: int) -> None:
        """Note what a keeper keeps now. Beyond the limit, keepers of the client that keeps the most give up.

        So no client can have sessions of others ended that keep less. Of one client those give up first that have kept for
        the longest: a message that arrives is complete soon; those that wait for nothing are the oldest.
        """
        sizes = self._sizes.setdefault(client, {})
        self._add(client, size - sizes.get(keeper, 0))
        if size:
            sizes[keeper] = size  # in its place
        else:
            sizes.pop(keeper, None)
        self._forget_if_empty(client)
        while self.total > self._limit:
            largest = max(self._totals, key=self._totals.__getitem__)
            oldest = next(iter(self._sizes[largest]))
            self._add(largest, -self._sizes[largest].pop(oldest))
            self._forget_if_empty(largest)
            oldest.give_up()

    def _add(self, client: str, size: int) -> None:
        self.total += size
        self._totals[client] = self._totals.get(client, 0) + size

    def _forget_if_empty(self, client: str) -> None:
        if not self._sizes[client]:
            del self._sizes[client], self._totals[client]


_kept: WeakKeyDictionary[asyncio.AbstractEventLoop, KeptBytes] = WeakKeyDictionary()


def kept_bytes() -> KeptBytes:
    """What the sessions of the running event loop share."""
    return _kept.setdefault(asyncio.get_running_loop(), KeptBytes(MAX_KEPT_BYTES))
