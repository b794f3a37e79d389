"""The opening handshake of GPT-Live: its paths, its credentials, and the responses that refuse an upgrade.

Unlike the Realtime API, a missing or wrong key is an HTTP 401, and a credential in a subprotocol is ignored (seen on the wire
in 2026-09). Azure's endpoint is recognised by its path: it takes `api-key` or an Entra token, and redirects an API key that
is sent as a bearer token to a URL that contains the key. A WebSocket session cannot be attached to, and none can be forked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from aiohttp import web
from multidict import CIMultiDict

from service.simulator.events import ApiError
from service.simulator.faults import error_body, json_response
from service.simulator.live.webrtc import WebRtcSessions
from service.simulator.refusals import invalid_key_error
from service.simulator.scenarios import Scenario

_PATH = re.compile(r"(?P<azure>/openai)?/v1/live/sessions(?:/(?P<session_id>[^/]+)/(?P<use>attach|fork))?")
_AZURE_PREFIX = "/openai/"
_TOKEN_PREFIX = "eyJ"  # noqa: S105 - how an access token (a JSON Web Token) begins
_CLIENT_SECRET_PREFIX = "ek_"  # noqa: S105 - of the Realtime API; GPT-Live has no client secrets
_UNAUTHORIZED, _NOT_FOUND, _REDIRECT = 401, 404, 307
_AZURE_UNAUTHORIZED = (
    "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active "
    "subscription and use a correct regional API endpoint for your resource."
)


@dataclass(frozen=True, slots=True)
class LiveEndpoint:
    """The endpoint of an upgrade request whose path is one of GPT-Live."""

    is_azure: bool
    exists: bool = True
    session_id: str | None = None  # of a session to attach to or to fork
    is_fork: bool = False

    @classmethod
    def parse(cls, path: str) -> Self | None:
        """Return the endpoint at a path; None if GPT-Live has none there."""
        found = _PATH.fullmatch(path)
        if found is not None:
            return cls(found["azure"] is not None, session_id=found["session_id"], is_fork=found["use"] == "fork")
        return cls(is_azure=True, exists=False) if path.startswith(_AZURE_PREFIX) and "/live" in path else None

    def key(self, headers: CIMultiDict[str], query: Mapping[str, str]) -> str | None:
        """Return the key of a request; None if there is none. An API key that Azure redirects is returned, too."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else None
        if self.is_azure:
            return headers.get("api-key") or query.get("api-key") or bearer or None
        return bearer or None


def refuse_live_upgrade(
    endpoint: LiveEndpoint, request: web.Request, key: str | None, scenario: Scenario, sessions: WebRtcSessions
) -> web.Response | None:
    """Return the response to an upgrade request that is refused; None if it is accepted."""
    if not endpoint.exists:
        return web.Response(status=_NOT_FOUND)
    if key is None or scenario is Scenario.KEY_MISSING:
        error = ApiError("missing_authorization", "Missing bearer authentication in header.")
        return _unauthorized(endpoint, error)
    if scenario is Scenario.KEY_REJECTED or _is_unusable(key):
        return _unauthorized(endpoint, invalid_key_error(key))
    if endpoint.is_azure and _is_redirected(request, key):
        return web.Response(status=_REDIRECT, headers={"Location": f"{request.path}?api-key={quote(key, safe='')}"})
    if endpoint.session_id is not None and (endpoint.is_fork or sessions.find(endpoint.session_id, key) is None):
        message = f"Session with ID '{endpoint.session_id}' not found."
        return _json_error(_NOT_FOUND, ApiError("session_id_not_found", message, param="session_id"))
    return None


def _is_unusable(key: str) -> bool:
    malformed = any(character.isspace() or character in "\"'" or not character.isascii() for character in key)
    return malformed or key.startswith(_CLIENT_SECRET_PREFIX)


def _is_redirected(request: web.Request, key: str) -> bool:
    by_header_or_query = request.headers.get("api-key") or request.query.get("api-key")
    return not by_header_or_query and not key.startswith(_TOKEN_PREFIX)


def _unauthorized(endpoint: LiveEndpoint, error: ApiError) -> web.Response:
    if not endpoint.is_azure:
        return _json_error(_UNAUTHORIZED, error)
    return json_response(_UNAUTHORIZED, {"error": {"code": str(_UNAUTHORIZED), "message": _AZURE_UNAUTHORIZED}})


def _json_error(status: int, error: ApiError) -> web.Response:
    return json_response(status, error_body(error, status))
