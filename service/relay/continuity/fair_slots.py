"""Slots that clients take in turns: one with many sessions delays the others by one slot each."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairSlots:
    """At most `maximum` holders at the same time. A free slot goes to the next client, not to the next waiter."""

    def __init__(self, maximum: int) -> None:
        self._free = maximum
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # clients in the order of their turns

    @asynccontextmanager
    async def slot(self, client: str) -> AsyncIterator[None]:
        """Hold a slot until the context ends. Cancellation while it waits takes none."""
        await self._acquire(client)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, client: str) -> None:
        if self._free:  # then no client waits
            self._free -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, deque()).append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():  # the slot came in the same turn of the event loop
                self._release()
            raise

    def _release(self) -> None:
        while self._waiting:
            client, places = next(iter(self._waiting.items()))
            place = places.popleft()
            if not places:
                del self._waiting[client]
            if place.done():  # cancelled: its client keeps its turn
                continue
            if places:
                self._waiting[client] = self._waiting.pop(client)  # behind the others
            place.set_result(None)
            return
        self._free += 1
