"""Refuses requests to host names that a listener on loopback does not serve; `service.access.hosts` states why."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiohttp import web

from service.access.hosts import HostPolicy, all_on_loopback
from service.failures import Failure
from service.web import unserved


class HostRefused(web.HTTPMisdirectedRequest):
    """A request to another host. `UnservedRequests` answers it, as every refusal that is not a handler's."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


class HostCheck:
    """Checks the requests of one listener once `bound` has found that it listens on loopback only.

    `allowed` is RELAY_ALLOWED_HOSTS; None behind trusted proxies, which can send any name: then nothing is checked.
    """

    def __init__(self, allowed: Sequence[str] | None) -> None:
        self._allowed = allowed
        self._policy: HostPolicy | None = None

    def bound(self, host: str, addresses: Sequence[str]) -> None:
        """The listener is bound to `host`, which is resolved to these addresses."""
        if self._allowed is not None and all_on_loopback(addresses):
            self._policy = HostPolicy(self._allowed, host)

    def middleware(self) -> Any:  # noqa: ANN401 - aiohttp's middlewares are functions with an attribute
        """The check as aiohttp calls it, before the handler of a route and before the answer that there is none."""

        @web.middleware
        async def check_host(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._check(request)
            return await handler(request)

        return check_host

    def _check(self, request: web.Request) -> None:
        if self._policy is None or request.method == "CONNECT":  # a client of a forward proxy, which gets that answer
            return
        # Not request.host: aiohttp resolves the machine's own name where the header is missing, as HTTP/1.0 permits.
        for authority in request.headers.getall("Host", []):
            if not self._policy.allows(authority):
                raise HostRefused(unserved.host_refused(authority))
        target = request._message.url  # noqa: SLF001 - in absolute form it overrides Host (RFC 9112 section 3.2.2)
        if target.absolute and not self._policy.allows(target.raw_authority):
            raise HostRefused(unserved.host_refused(None))
