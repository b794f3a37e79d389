"""DNS for the dials: one lookup at a time for each name, remembered for a few seconds, in a thread that nobody waits for.

Not aiohttp's own, for three reasons. A request that waits there for another one's lookup is traced as if it had its answer,
so that a dial which DNS holds up would be told as one that cannot connect. `getaddrinfo` cannot be cancelled, and a hundred
dials must not take all threads of the loop's executor while a resolver is silent. And that executor is joined at the end of
the process: SIGTERM would take as long as the resolver is silent, 10 to 20 seconds, which a pod's grace does not allow.
"""

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

TTL_SECONDS: Final = 10.0
"""An address that has changed is used after this long at the latest."""

_Key = tuple[str, int, socket.AddressFamily]
Info = tuple[Any, Any, int, str, Any]
"""As `socket.getaddrinfo` gives it: family, type, protocol, canonical name, address."""


async def look_up(host: str, port: int, family: int = socket.AF_UNSPEC) -> list[Info]:
    """All stream addresses of a host, by the system's resolver; raises OSError. Cancelling leaves the thread to itself."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Info]] = loop.create_future()

    def tell(result: list[Info] | Exception) -> None:
        if answer.done():
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def ask() -> None:
        result: list[Info] | Exception
        try:
            result = list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
        except (OSError, UnicodeError) as exc:
            result = exc if isinstance(exc, OSError) else OSError(f"{host!r} is no name")
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=ask, name=f"dns {host}", daemon=True).start()
    return await answer


class SharedResolver(AbstractResolver):
    """The system's resolver, asked once for all who want the same."""

    def __init__(self) -> None:
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
        host = key[0]
        try:
            infos = await look_up(*key)
        finally:
            del self._pending[key]
        found = [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, protocol, _, address in infos
            if isinstance(address[0], str)  # not where Python was built without IPv6
        ]
        self._known[key] = (asyncio.get_running_loop().time(), found)
        return found

    async def close(self) -> None:
        """Wait for nobody; a lookup in its thread ends by itself."""
        for task in tuple(self._pending.values()):
            task.cancel()


def _retrieve(task: asyncio.Task[list[ResolveResult]]) -> None:
    """Whoever still waits is told; nobody may be left to."""
    if not task.cancelled():
        task.exception()
