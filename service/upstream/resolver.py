"""DNS for dials: concurrent lookups of one name share a thread, and results are cached for a few seconds.

It replaces aiohttp's resolver for three reasons:

* aiohttp traces a request that waits for another one's lookup as if DNS had answered. A dial that DNS delays would be
  reported as one that cannot connect.
* `getaddrinfo` cannot be cancelled. While DNS does not answer, a hundred dials would occupy every thread of the event loop's
  executor.
* That executor is joined when the process ends. SIGTERM would take as long as the lookup, 10 to 20 seconds, which is longer
  than a pod's grace period allows.
"""

import asyncio
import socket
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from service.deadlines import Deadline

LOOKUP_SECONDS: Final = 30.0
"""A lookup that takes longer is abandoned, so that later dials do not join one that never ends. The system's resolver gives
up after as long by default: 5 s, twice, for each of three servers."""
TTL_SECONDS: Final = 10.0
"""Upper bound on how long a changed address stays unnoticed."""

_UNSPECIFIED: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound

_Key = tuple[str, int, socket.AddressFamily]
Info = tuple[Any, Any, int, str, Any]
"""An entry of `socket.getaddrinfo`: family, type, protocol, canonical name, address."""


class FilteredName(OSError):
    """A host name resolves to unspecified addresses only, as DNS filters answer for a blocked name."""

    def __init__(self, addresses: str) -> None:
        super().__init__("a DNS filter answers for this name")
        self.addresses = addresses


def check_addresses(host: str, addresses: Iterable[str]) -> None:
    """Raise FilteredName if a host name, not an address, resolves to 0.0.0.0 and :: only."""
    found = list(dict.fromkeys(addresses))
    if found and host not in found and all(address in _UNSPECIFIED for address in found):
        raise FilteredName(", ".join(found))


async def look_up(host: str, port: int, family: int = socket.AF_UNSPEC) -> list[Info]:
    """Resolve the stream addresses of a host with the system's resolver; raises OSError.

    Each call has a daemon thread of its own. When cancelled, it returns immediately and the thread ends by itself.
    """
    loop = asyncio.get_running_loop()
    addresses: asyncio.Future[list[Info]] = loop.create_future()

    def deliver(result: list[Info] | Exception) -> None:
        if addresses.done():
            return  # cancelled
        if isinstance(result, Exception):
            addresses.set_exception(result)
        else:
            addresses.set_result(result)

    def run() -> None:
        result: list[Info] | Exception
        try:
            result = list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
        except (OSError, UnicodeError) as exc:
            result = exc if isinstance(exc, OSError) else OSError(f"{host!r} is not a host name")
        with suppress(RuntimeError):  # the event loop has been closed
            loop.call_soon_threadsafe(deliver, result)

    threading.Thread(target=run, name=f"dns {host}", daemon=True).start()
    return await addresses


class CachingResolver(AbstractResolver):
    """The system's resolver with a short cache. Concurrent requests for one host share a lookup."""

    def __init__(self) -> None:
        self._cache: dict[_Key, tuple[float, list[ResolveResult]]] = {}
        self._pending: dict[_Key, asyncio.Task[list[ResolveResult]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Resolve all addresses of a host; raises OSError. Cancellation does not affect other callers of the same lookup."""
        key = (host, port, family)
        cached = self._cache.get(key)
        loop = asyncio.get_running_loop()
        if cached is not None and loop.time() - cached[0] < TTL_SECONDS:
            return list(cached[1])
        task = self._pending.get(key)
        if task is None:
            task = self._pending[key] = loop.create_task(self._look_up(key), name=f"dns {host}")
            task.add_done_callback(_mark_exception_as_retrieved)
        return list(await asyncio.shield(task))  # cancelling one caller must not cancel the lookup of the others

    async def _look_up(self, key: _Key) -> list[ResolveResult]:
        host = key[0]
        try:
            async with Deadline(LOOKUP_SECONDS):
                infos = await look_up(*key)
        except TimeoutError:
            raise OSError("the resolver does not answer") from None
        finally:
            del self._pending[key]
        results = [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for family, _, protocol, _, address in infos
            if isinstance(address[0], str)  # an int where Python was built without IPv6
        ]
        check_addresses(host, (result["host"] for result in results))
        self._cache[key] = (asyncio.get_running_loop().time(), results)
        return results

    async def close(self) -> None:
        """Cancel the pending lookups. Their threads end by themselves."""
        for task in tuple(self._pending.values()):
            task.cancel()


def _mark_exception_as_retrieved(task: asyncio.Task[list[ResolveResult]]) -> None:
    """If every caller was cancelled, asyncio would log the failure of the lookup as never retrieved."""
    if not task.cancelled():
        task.exception()
