"""Which web pages may open a WebSocket to the relay.

Browsers apply no same-origin policy to WebSockets. Without this check, any page that a user opens could connect to a relay
on that user's machine and spend its credit (cross-site WebSocket hijacking), so the origin is checked in addition to the
token. Clients other than browsers send no Origin header and pass.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from service.failures import Failure
from service.realtime.names import is_loopback


class OriginPolicy:
    """Allows exact origins, or every origin with `*`. An empty list allows only pages served from loopback."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)

    def check(self, origins: list[str]) -> None:
        """Check the values of all Origin headers of a request; raises Failure with origin_refused."""
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
