"""Which web pages may open a WebSocket to the relay.

Browsers apply no same-origin policy to WebSockets. Without this check, any page that a user opens could connect to a relay
on that user's machine and spend its credit (cross-site WebSocket hijacking), so the origin is checked in addition to the
token. Clients other than browsers mostly send no Origin header and pass. Admission makes no check for a client with a valid
token in a header, which no page can set on a WebSocket.
"""

import re
from collections.abc import Iterable
from typing import Final

from service.failures import Failure
from service.realtime.escaping import escaped
from service.realtime.names import is_loopback

_OPAQUE: Final = "null"
"""The origin of a sandboxed frame, a `data:` URL or a file. Any page can make a frame of it (RFC 6454 section 7)."""
LOOPBACK: Final = "loopback"
"""In a list of allowed origins: every page served from loopback."""
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,63})://(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{0,253})"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?/?"
)
_NOT_A_PAGE: Final = (
    " An app that is not a web page can send its client token in the header 'Authorization' or 'api-key': with "
    "RELAY_ACCESS=tokens the relay then does not check the origin."
)


def parse_origin(text: str) -> str | None:
    """Return an origin in its one form: lower case, no default port, no slash at the end; None if it is no origin.

    Beside http and https, app shells have schemes of their own (`capacitor://localhost`, `app://obsidian.md`), some without a
    host (`file://`).
    """
    if text == _OPAQUE:
        return text
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host, port = found["scheme"].lower(), found["host"].lower(), found["port"]
    is_web = scheme in _DEFAULT_PORTS
    if (is_web and not host) or (port and (not host or int(port) > 65_535)):  # noqa: PLR2004 - the highest port
        return None
    return f"{scheme}://{host}" + (f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


class OriginPolicy:
    """Allows the listed origins, or every origin with `*`. An empty list allows only pages served from loopback.

    `place` completes the sentence "Add the origin to ...": where the operator allows one.
    """

    def __init__(self, allowed: Iterable[str], place: str = "RELAY_ALLOWED_ORIGINS and restart the relay") -> None:
        self._allowed = frozenset(allowed)
        self._place = place

    def check(self, origins: list[str]) -> None:
        """Check the values of all Origin headers of a request; raises Failure with origin_refused, which names the origin."""
        if not origins:
            return
        if len(origins) > 1:
            raise Failure(
                "origin_refused",
                detail=f"{len(origins)} Origin headers: {escaped(', '.join(origins))}",
                hint=f"Send one Origin header: the request has {len(origins)}. Check the proxies in front of the relay.",
            )
        origin = parse_origin(origins[0])
        if "*" not in self._allowed and (origin is None or not self._is_allowed(origin)):
            raise Failure(
                "origin_refused", detail=f"Origin: {escaped(origins[0])}", hint=self._hint(origin, origins[0])
            )

    def _is_allowed(self, origin: str) -> bool:
        if origin in self._allowed:
            return True
        if self._allowed and LOOPBACK not in self._allowed:
            return False
        found = _ORIGIN.fullmatch(origin)
        return found is not None and found["scheme"] in _DEFAULT_PORTS and is_loopback(found["host"])

    def _hint(self, origin: str | None, sent: str) -> str:
        """What makes this origin allowed. It holds the origin in the form that the setting accepts."""
        if origin is None:
            return f"Send an origin of the form scheme://host[:port]; the request has '{escaped(sent)}'.{_NOT_A_PAGE}"
        default = (
            ""
            if self._allowed - {LOOPBACK}
            else " The list replaces the default, which allows pages served from loopback."
        )
        if origin == _OPAQUE:
            return (
                "Serve the page from an http or https address. If it must stay a file or a sandboxed frame, add null to "
                f"{self._place}; every web page can send this origin, so keep RELAY_ACCESS=tokens.{default}{_NOT_A_PAGE}"
            )
        return f"Add {origin} to {self._place}.{default}{_NOT_A_PAGE}"
