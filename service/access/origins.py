"""Which web pages may connect.

A page's origin is checked also where a token is asked for: without this, any page that a person visits could talk to a
relay on that person's own machine and spend its credit (cross-site WebSocket hijacking). Clients that are no browsers
send no Origin and are not held up here.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from service.failures import Failure
from service.realtime.names import is_loopback


class OriginPolicy:
    """Exact origins, `*` for any; with an empty list only pages served from this machine's loopback."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)

    def admit(self, origins: list[str]) -> None:
        """Look at all Origin headers of a request; raises Failure with origin_refused."""
        if not origins:
            return
        if len(origins) > 1 or not self._is_allowed(origins[0]):
            raise Failure("origin_refused")

    def _is_allowed(self, origin: str) -> bool:
        if "*" in self._allowed or origin in self._allowed:
            return True
        if self._allowed:
            return False
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in {"http", "https"} and is_loopback(parts.hostname or "")
