"""The limit of a listener on open connections, which keeps descriptors free for probes, scrapes and dials.

Every connection uses a descriptor, also one that never sends a request, until aiohttp's keep-alive timeout closes it. Once
the descriptors run out, `accept` fails for every client.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

import structlog
from aiohttp import web
from prometheus_client import Counter

from service.telemetry.metrics import Metrics
from service.web.address_shares import AddressShares
from service.web.protocol import PublicProtocol
from service.web.unserved_requests import UnservedRequests

MAX_INTERNAL_CONNECTIONS: Final = 256
MIN_SHARE: Final = 16
"""Of one address, if half of the limit is less."""
_LOG_INTERVAL_SECONDS: Final = 10.0


class ConnectionLimit:
    """The protocol factory of a listener: a `PublicProtocol` below the limit, an abort above it.

    `maximum` is the number of descriptors that client connections may use together with those that `other_descriptors`
    counts (sockets of sessions and dials towards upstream); None is no limit. One address, behind trusted proxies that of
    a client, may have half of them open that are no WebSocket yet, so that it cannot keep out all others. Rejections are
    counted in `rejections`, and logged at most every 10 s.
    """

    def __init__(
        self,
        server: web.Server,
        unserved: UnservedRequests,
        other_descriptors: Callable[[], int],
        maximum: int | None,
        rejections: Counter,
    ) -> None:
        self._server = server
        self._unserved = unserved
        self._other_descriptors = other_descriptors
        self._maximum = maximum
        self._rejections = rejections
        self._shares = AddressShares(None if maximum is None else max(MIN_SHARE, maximum // 2), self._reject)
        self._accepted = 0  # connections that aiohttp does not count yet
        self._unlogged = 0
        self._logged_at = -_LOG_INTERVAL_SECONDS

    def __call__(self) -> asyncio.BaseProtocol:
        """Make the protocol of a new connection."""
        in_use = len(self._server.connections) + self._accepted + self._other_descriptors()
        if self._maximum is None or in_use < self._maximum:
            self._count_accepted()
            return PublicProtocol(self._server, self._unserved, self._shares)
        self._reject()
        return _AbortingProtocol()

    def _reject(self) -> None:
        self._rejections.inc()
        self._unlogged += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_INTERVAL_SECONDS:
            structlog.get_logger().warning(
                "connections.turned_away",
                message="New connections are aborted (behind a trusted proxy: refused with 429): the listener, or one "
                "address, is at its limit on open connections.",
                remedy="Find the clients that connect and send no request. On the public port, raise the limit on open files "
                "(ulimit -n), which sets the limit; half of it is for one address. The internal port serves 256.",
                connections=self._unlogged,
            )
            self._logged_at, self._unlogged = now, 0

    def _count_accepted(self) -> None:
        """Count connections from accept to `connection_made`, where aiohttp begins to count them.

        The loop may accept its whole backlog within one iteration, before the first `connection_made`.
        """
        if not self._accepted:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._reset_accepted)
        self._accepted += 1

    def _reset_accepted(self) -> None:
        self._accepted = 0


def internal_connections(server: web.Server, unserved: UnservedRequests, metrics: Metrics) -> ConnectionLimit:
    """The limit of the internal listener: scrapes and probes need a handful of connections."""
    return ConnectionLimit(server, unserved, int, MAX_INTERNAL_CONNECTIONS, metrics.turned_away)


class _AbortingProtocol(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()  # a cast: uvloop's transports do not subclass asyncio's
