"""DNS for the dials: one lookup at a time for each name, remembered for a few seconds.

Not aiohttp's own cache, because a request that waits there for another one's lookup is traced as if it had its answer: a
dial that DNS holds up would be told as one that cannot connect. It matters in a thread's time, too: `getaddrinfo` cannot
be cancelled, and a hundred dials must not take all threads while a resolver is silent.
"""

import asyncio
import socket
from typing import Final

from aiohttp import ThreadedResolver
from aiohttp.abc import AbstractResolver, ResolveResult

TTL_SECONDS: Final = 10.0
"""An address that has changed is used after this long at the latest."""

_Key = tuple[str, int, socket.AddressFamily]


class SharedResolver(AbstractResolver):
    """The system's resolver, asked once for all who want the same."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()
        self._known: dict[_Key, tuple[float, list[ResolveResult]]] = {}
        self._pending: dict[_Key, asyncio.Task[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """All addresses of a host; raises OSError."""
        key = (host, port, family)
        known = self._known.get(key)
        loop = asyncio.get_running_loop()
        if known is not None and loop.time() - known[0] < TTL_SECONDS:
            return list(known[1])
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = loop.create_task(self._look_up(key), name=f"dns {host}")
            task.add_done_callback(_retrieve)
        # Shielded: a client that gives up must not take the answer from the others.
        return list(await asyncio.shield(task))

    async def _look_up(self, key: _Key) -> list[ResolveResult]:
        try:
            found = await self._inner.resolve(*key)
        finally:
            del self._pending[key]
        self._known[key] = (asyncio.get_running_loop().time(), found)
        return found

    async def close(self) -> None:
        """Wait for nobody; a lookup in a thread ends by itself."""
        for task in tuple(self._pending.values()):
            task.cancel()
        await self._inner.close()


def _retrieve(task: asyncio.Task[list[ResolveResult]]) -> None:
    """Whoever still waits is told; nobody may be left to."""
    if not task.cancelled():
        task.exception()
