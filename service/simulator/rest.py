"""The REST API beside the WebSocket endpoints: models and client secrets.

Scenarios apply as far as the provider's REST API would show them: a wrong key is 401, an exhausted balance has no effect.
Source: the API reference "Models" and "Realtime client secrets"; bodies as seen on the wire in 2026-09. The body for a
wrong key is JSON with the content type ``text/plain``.
"""

import json
import time
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from service.simulator import schema
from service.simulator.configuration import SessionConfiguration, session_object, transcription_object
from service.simulator.events import JSON, ApiError, JSONObject, encode, invalid_type, out_of_range, require_object
from service.simulator.faults import error_body, hang_until_disconnect, json_response, scenario_http_response
from service.simulator.handshake import edge_headers, is_malformed_key, key_from_headers
from service.simulator.ids import new_client_secret, new_request_id
from service.simulator.live.refusals import check_start
from service.simulator.live.webrtc import WebRtcSessions
from service.simulator.options import DEFAULT_MODEL, SimulatorOptions
from service.simulator.refusals import invalid_key_error, missing_scopes_error, model_not_found_error
from service.simulator.scenarios import Scenario, scenario_for_key

_MIN_TTL_SECONDS, _DEFAULT_TTL_SECONDS, _MAX_TTL_SECONDS = 10, 600, 7200
_MAX_CLIENT_SECRETS = 4096
_CREATED = 1_756_271_701  # 2025-08-27, for every model
_UNAUTHORIZED = HTTPStatus.UNAUTHORIZED.value
_NOT_FOUND = HTTPStatus.NOT_FOUND.value
_BAD_REQUEST = HTTPStatus.BAD_REQUEST.value
_FORBIDDEN = HTTPStatus.FORBIDDEN.value
_CREATED_STATUS = HTTPStatus.CREATED.value


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret: when it expires, and the session object for its sessions."""

    expires_at: float
    session: JSONObject


@dataclass(slots=True)
class RestApi:
    """The REST API of one simulator."""

    options: SimulatorOptions
    default_scenario: Scenario
    client_secrets: dict[str, ClientSecret] = field(default_factory=dict)
    live_sessions: WebRtcSessions = field(default_factory=WebRtcSessions)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Return the response to a request, with the provider's headers."""
        started = time.perf_counter()
        key = key_from_headers(request.headers.copy())
        scenario = scenario_for_key(key, self.default_scenario)
        if scenario is Scenario.HANG_BEFORE_101 and request.transport is not None:
            await hang_until_disconnect(request.transport)
        response = scenario_http_response(scenario, key or "", DEFAULT_MODEL) or self._refusal(key, scenario)
        if response is None:
            response = await self._route(request, scenario)
            response.headers.update(_rate_limits())
        response.headers.update(edge_headers())
        response.headers["x-request-id"] = new_request_id()
        response.headers["openai-processing-ms"] = str(max(1, round((time.perf_counter() - started) * 1000)))
        response.headers["openai-version"] = "2020-10-01"
        return response

    def _refusal(self, key: str | None, scenario: Scenario) -> web.Response | None:
        if key is None or scenario is Scenario.KEY_MISSING:
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from "
                "https://platform.openai.com/account/api-keys."
            )
            return _error_response(_UNAUTHORIZED, ApiError(None, message))
        if scenario in (Scenario.KEY_REJECTED, Scenario.CLOSE_ONLY) or is_malformed_key(key):
            body = encode(error_body(invalid_key_error(key), _UNAUTHORIZED))
            return web.Response(status=_UNAUTHORIZED, text=body, content_type="text/plain")
        if scenario in (Scenario.KEY_FORBIDDEN, Scenario.MODEL_REST_ONLY_401):
            return _error_response(_UNAUTHORIZED, missing_scopes_error("model.request"))
        return None

    async def _route(self, request: web.Request, scenario: Scenario) -> web.Response:
        path = request.path.removeprefix("/v1")
        if request.method == "GET" and path == "/models":
            return json_response(200, {"object": "list", "data": [_model(name) for name in sorted(self._models)]})
        if request.method == "GET" and path.startswith("/models/"):
            return self._model_response(path.removeprefix("/models/"), scenario)
        if request.method == "POST" and path == "/realtime/client_secrets":
            return await self._create_client_secret(request)
        if request.method == "POST" and path == "/live/sessions":
            return await self._create_live_session(request, scenario)
        if request.method == "GET" and path in ("/realtime", "/realtime/translations", "/live/sessions"):
            message = "This address speaks WebSocket; the request did not ask to upgrade."
            return _error_response(_BAD_REQUEST, ApiError(None, message))
        return _error_response(_NOT_FOUND, ApiError(None, f"Invalid URL ({request.method} {request.path})"))

    @property
    def _models(self) -> frozenset[str]:
        return self.options.models | self.options.live.models

    def _model_response(self, name: str, scenario: Scenario) -> web.Response:
        fails = scenario in (Scenario.MODEL_NOT_FOUND, Scenario.INVALID_MODEL)
        if fails or name not in self._models:
            return _error_response(_NOT_FOUND, model_not_found_error(name))
        return json_response(200, _model(name))

    async def _create_client_secret(self, request: web.Request) -> web.Response:
        try:
            body = _parse_body(await request.text())
            lifetime = _lifetime(body)
            session = _session(body)
        except ApiError as error:
            return _error_response(_BAD_REQUEST, error)
        value, expires_at = new_client_secret(), int(time.time() + lifetime)
        self._evict_oldest_secrets()
        self.client_secrets[value] = ClientSecret(expires_at, session)
        return json_response(200, {"value": value, "expires_at": expires_at, "session": {**session, "expires_at": 0}})

    async def _create_live_session(self, request: web.Request, scenario: Scenario) -> web.Response:
        key, live = key_from_headers(request.headers.copy()) or "", self.options.live
        try:
            body = _parse_body(await request.text())
            answer = self.live_sessions.create(
                body,
                key,
                live.session_seconds,
                lambda model: check_start(scenario, key, model, live, is_azure=False),
            )
        except ApiError as error:
            return _error_response(_FORBIDDEN if error.code == "forbidden" else _BAD_REQUEST, error)
        return json_response(_CREATED_STATUS, answer)

    def _evict_oldest_secrets(self) -> None:
        # Expired secrets are kept while there is room: a deleted secret would be accepted like any other key.
        while len(self.client_secrets) >= _MAX_CLIENT_SECRETS:
            del self.client_secrets[next(iter(self.client_secrets))]


def _error_response(status: int, error: ApiError) -> web.Response:
    return json_response(status, error_body(error, status))


def _model(name: str) -> JSONObject:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "system"}


def _parse_body(text: str) -> JSONObject:
    try:
        body = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        message = "We could not parse the JSON body of your request."
        raise ApiError(None, message) from None
    if not isinstance(body, dict):
        raise invalid_type("body", "an object", body)
    return body


def _lifetime(body: JSONObject) -> int:
    if body.get("expires_after") is None:
        return _DEFAULT_TTL_SECONDS
    seconds: JSON = require_object(body, "expires_after").get("seconds", _DEFAULT_TTL_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise invalid_type("expires_after.seconds", "an integer", seconds)
    if not _MIN_TTL_SECONDS <= seconds <= _MAX_TTL_SECONDS:
        raise out_of_range("expires_after.seconds", seconds, minimum=_MIN_TTL_SECONDS, maximum=_MAX_TTL_SECONDS)
    return seconds


def _session(body: JSONObject) -> JSONObject:
    default: JSONObject = {"type": "realtime"}
    patch = require_object(body, "session") if body.get("session") is not None else default
    if patch.get("type") == "transcription":
        configuration = SessionConfiguration(transcription_object(0), schema.TRANSCRIPTION_SESSION)
    else:
        model = str(patch.get("model") or DEFAULT_MODEL)
        configuration = SessionConfiguration(session_object(model, 0), schema.REALTIME_SESSION)
    configuration.update(patch)
    return configuration.session


def _rate_limits() -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "15000000",
        "x-ratelimit-remaining-tokens": "14999716",
        "x-ratelimit-reset-tokens": "1ms",
    }
