"""The REST calls around the socket: models, and short-lived client secrets.

Scenarios hold here as they do on the socket, where they would: a wrong key is 401, an empty balance is none of the
models' business. Source: the API reference "Models" and "Realtime client secrets"; bodies as seen on the wire 2026-09,
where the body of a wrong key is JSON called ``text/plain``.
"""

import json
import time
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from service.simulator import schema
from service.simulator.configuration import Configuration, session_object, transcription_object
from service.simulator.events import JSON, JSONObject, Mistake, encode, invalid_type, need_object, out_of_range
from service.simulator.faults import error_body, hang_before_101, http_answer, json_answer
from service.simulator.handshake import edge_headers, looks_wrong, read_key
from service.simulator.ids import new_client_secret, new_request_id
from service.simulator.options import SimulatorOptions
from service.simulator.refusals import missing_scopes, model_not_found, wrong_key
from service.simulator.scenarios import Scenario, scenario_for

_LEAST_TTL, _DEFAULT_TTL, _MOST_TTL = 10, 600, 7200
_MOST_SECRETS = 4096
_CREATED = 1_756_271_701  # a fixed birthday for every model: 2025-08-27
_UNAUTHORIZED = HTTPStatus.UNAUTHORIZED.value
_NOT_FOUND = HTTPStatus.NOT_FOUND.value
_BAD_REQUEST = HTTPStatus.BAD_REQUEST.value


@dataclass(frozen=True, slots=True)
class Secret:
    """A client secret: until when it opens sessions, and which."""

    expires_at: float
    session: JSONObject


@dataclass(slots=True)
class Rest:
    """The REST side of one simulator."""

    options: SimulatorOptions
    default: Scenario
    secrets: dict[str, Secret] = field(default_factory=dict)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one call, with the headers that every answer has."""
        began = time.perf_counter()
        key = read_key(request.headers.copy())
        scenario = scenario_for(key, self.default)
        if scenario is Scenario.HANG_BEFORE_101 and request.transport is not None:
            await hang_before_101(request.transport)
        response = http_answer(scenario, key or "", "gpt-realtime") or self._refusal(key, scenario)
        if response is None:
            response = await self._route(request, scenario)
            response.headers.update(_rate_limits())
        response.headers.update(edge_headers())
        response.headers["x-request-id"] = new_request_id()
        response.headers["openai-processing-ms"] = str(max(1, round((time.perf_counter() - began) * 1000)))
        response.headers["openai-version"] = "2020-10-01"
        return response

    def _refusal(self, key: str | None, scenario: Scenario) -> web.Response | None:
        if key is None or scenario is Scenario.KEY_MISSING:
            message = (
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY). You can obtain an API key from "
                "https://platform.openai.com/account/api-keys."
            )
            return _refused(_UNAUTHORIZED, Mistake(None, message))
        if scenario in (Scenario.KEY_REJECTED, Scenario.CLOSE_ONLY) or looks_wrong(key):
            body = encode(error_body(wrong_key(key), _UNAUTHORIZED))
            return web.Response(status=_UNAUTHORIZED, text=body, content_type="text/plain")
        if scenario in (Scenario.KEY_FORBIDDEN, Scenario.MODEL_REST_ONLY_401):
            return _refused(_UNAUTHORIZED, missing_scopes("model.request"))
        return None

    async def _route(self, request: web.Request, scenario: Scenario) -> web.Response:
        path = request.path.removeprefix("/v1")
        if request.method == "GET" and path == "/models":
            return json_answer(200, {"object": "list", "data": [_model(name) for name in sorted(self.options.models)]})
        if request.method == "GET" and path.startswith("/models/"):
            return self._one_model(path.removeprefix("/models/"), scenario)
        if request.method == "POST" and path == "/realtime/client_secrets":
            return await self._mint(request)
        if request.method == "GET" and path in ("/realtime", "/realtime/translations"):
            message = "This address speaks WebSocket; the request did not ask to upgrade."
            return _refused(_BAD_REQUEST, Mistake(None, message))
        return _refused(_NOT_FOUND, Mistake(None, f"Invalid URL ({request.method} {request.path})"))

    def _one_model(self, name: str, scenario: Scenario) -> web.Response:
        lost = scenario in (Scenario.MODEL_NOT_FOUND, Scenario.INVALID_MODEL)
        if lost or name not in self.options.models:
            return _refused(_NOT_FOUND, model_not_found(name))
        return json_answer(200, _model(name))

    async def _mint(self, request: web.Request) -> web.Response:
        try:
            asked = _parse_body(await request.text())
            lifetime = _lifetime(asked)
            session = _session(asked)
        except Mistake as mistake:
            return _refused(_BAD_REQUEST, mistake)
        value, expires_at = new_client_secret(), int(time.time() + lifetime)
        self._forget_expired()
        self.secrets[value] = Secret(expires_at, session)
        return json_answer(200, {"value": value, "expires_at": expires_at, "session": {**session, "expires_at": 0}})

    def _forget_expired(self) -> None:
        # An expired secret is remembered for as long as there is room, so that it is refused and not taken for a key.
        while len(self.secrets) >= _MOST_SECRETS:
            del self.secrets[next(iter(self.secrets))]


def _refused(status: int, mistake: Mistake) -> web.Response:
    return json_answer(status, error_body(mistake, status))


def _model(name: str) -> JSONObject:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "system"}


def _parse_body(text: str) -> JSONObject:
    try:
        body = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        message = "We could not parse the JSON body of your request."
        raise Mistake(None, message) from None
    if not isinstance(body, dict):
        raise invalid_type("body", "an object", body)
    return body


def _lifetime(asked: JSONObject) -> int:
    if asked.get("expires_after") is None:
        return _DEFAULT_TTL
    seconds: JSON = need_object(asked, "expires_after").get("seconds", _DEFAULT_TTL)
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise invalid_type("expires_after.seconds", "an integer", seconds)
    if not _LEAST_TTL <= seconds <= _MOST_TTL:
        raise out_of_range("expires_after.seconds", seconds, least=_LEAST_TTL, most=_MOST_TTL)
    return seconds


def _session(asked: JSONObject) -> JSONObject:
    default: JSONObject = {"type": "realtime"}
    wanted = need_object(asked, "session") if asked.get("session") is not None else default
    if wanted.get("type") == "transcription":
        configuration = Configuration(transcription_object(0), schema.TRANSCRIPTION_SESSION)
    else:
        configuration = Configuration(
            session_object(str(wanted.get("model") or "gpt-realtime"), 0), schema.REALTIME_SESSION
        )
    configuration.update(wanted)
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
