"""The public listener's door: connections that would take the last descriptors are turned away before they say a word.

A connection that says nothing costs a descriptor until aiohttp gives it up. Enough of them would leave none for probes,
scrapes and dials, and the kernel would refuse everybody without a line in any log.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

import structlog
from aiohttp import web
from prometheus_client import Counter

_TELL_SECONDS: Final = 10.0


class ConnectionLimit:
    """Makes the protocol of a new connection: aiohttp's, or one that hangs up.

    `others` is how many descriptors sessions and dials take beside the listener's own connections; `most` is how many all
    may take, None for no limit.
    """

    def __init__(self, server: web.Server, others: Callable[[], int], most: int | None, turned_away: Counter) -> None:
        self._server = server
        self._others = others
        self._most = most
        self._turned_away = turned_away
        self._arriving = 0
        self._untold = 0
        self._told_at = -_TELL_SECONDS

    def __call__(self) -> asyncio.BaseProtocol:
        """Called by the listener for each connection."""
        taken = len(self._server.connections) + self._arriving + self._others()
        if self._most is None or taken < self._most:
            self._count_arrival()
            return self._server()
        self._turned_away.inc()
        self._untold += 1
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            structlog.get_logger().warning(
                "connections.turned_away",
                message="So many connections are open that the limit on open files is near; new ones are cut off.",
                remedy="Raise the limit on open files (ulimit -n), or find out who opens connections and says nothing.",
                connections=self._untold,
            )
            self._told_at, self._untold = now, 0
        return _TurnedAway()

    def _count_arrival(self) -> None:
        """A loop may accept its whole backlog before aiohttp hears of the first: for that turn they are counted here, too."""
        if not self._arriving:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._all_have_arrived)
        self._arriving += 1

    def _all_have_arrived(self) -> None:
        self._arriving = 0


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hang up."""
        cast("asyncio.Transport", transport).abort()  # uvloop's own classes are no subclasses
