"""The REST API: models and client secrets."""

import json
import re
import time
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from service.simulator import Simulator
from tests.support.simulator_client import connect


async def _get(sim: Simulator, path: str, key: str | None = "sk-sim-good") -> tuple[int, Any, dict[str, str]]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession() as http, http.get(sim.url + path, headers=headers) as response:
        text = await response.text()
        response_headers = {name.lower(): value for name, value in response.headers.items()}
        return response.status, json.loads(text), response_headers


async def test_models_are_listed_and_retrieved(sim: Simulator) -> None:
    """REST calls are recorded apart from connections."""
    status, body, _ = await _get(sim, "/models")
    assert status == 200
    assert "gpt-realtime" in [model["id"] for model in body["data"]]
    assert (await _get(sim, "/models/gpt-realtime"))[1]["id"] == "gpt-realtime"
    assert sim.rest_calls == [("GET", "/v1/models"), ("GET", "/v1/models/gpt-realtime")]
    assert sim.connections == []


async def test_response_has_provider_headers(sim: Simulator) -> None:
    """Request id, processing time, API version and rate limits."""
    _, _, headers = await _get(sim, "/models/gpt-realtime")
    assert re.fullmatch(r"req_[0-9a-f]{32}", headers["x-request-id"])
    assert int(headers["openai-processing-ms"]) >= 1
    assert headers["openai-version"] == "2020-10-01"
    assert "x-ratelimit-remaining-requests" in headers
    assert headers["server"] == "cloudflare"


@pytest.mark.parametrize(
    ("key", "path", "status", "code"),
    [
        ("sk-sim-key-rejected", "/models", 401, "invalid_api_key"),
        ("sk-sim-close-only", "/models", 401, "invalid_api_key"),
        ('"sk-quoted"', "/models", 401, "invalid_api_key"),
        (None, "/models", 401, None),
        ("sk-sim-key-missing", "/models", 401, None),
        ("sk-sim-key-forbidden", "/models/gpt-realtime", 401, None),
        ("sk-sim-model-rest-only-401", "/models/gpt-realtime", 401, None),
        ("sk-sim-model-not-found", "/models/gpt-realtime", 404, "model_not_found"),
        ("sk-sim-good", "/models/gpt-unheard-of", 404, "model_not_found"),
        ("sk-sim-http-403-geo", "/models", 403, "unsupported_country_region_territory"),
        ("sk-sim-good", "/nothing/here", 404, None),
        ("sk-sim-good", "/realtime", 400, None),
    ],
)
async def test_rest_error_has_provider_body(
    sim: Simulator, key: str | None, path: str, status: int, code: str | None
) -> None:
    """Each error has its status, its code and the provider's envelope."""
    got, body, _ = await _get(sim, path, key)
    assert (got, body["status"], body["error"]["code"]) == (status, status, code)
    assert list(body["error"]) == ["message", "type", "param", "code"]


async def test_wrong_key_body_is_json_with_content_type_text(sim: Simulator) -> None:
    """The provider sends JSON as text/plain."""
    _, _, headers = await _get(sim, "/models", "sk-sim-key-rejected")
    assert headers["content-type"].startswith("text/plain")


async def test_missing_scope_is_named_in_rest_error(sim: Simulator) -> None:
    """WebSocket connections with the same key work."""
    _, body, _ = await _get(sim, "/models", "sk-sim-model-rest-only-401")
    assert "Missing scopes: model.request." in body["error"]["message"]
    async with connect(sim, key="sk-sim-model-rest-only-401"):
        pass


@pytest.mark.parametrize("scenario", ["quota-exhausted", "drop", "hang", "overloaded", "model-access-late"])
async def test_rest_ignores_websocket_scenarios(sim: Simulator, scenario: str) -> None:
    """An exhausted balance or a broken connection does not affect the models endpoint."""
    assert (await _get(sim, "/models/gpt-realtime", f"sk-sim-{scenario}"))[0] == 200


async def _create_client_secret(sim: Simulator, body: object) -> tuple[int, Any]:
    headers = {"Authorization": "Bearer sk-sim-good"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{sim.url}/realtime/client_secrets", headers=headers, json=body) as response,
    ):
        return response.status, await response.json()


async def test_client_secret_starts_its_session(sim: Simulator) -> None:
    """It is valid for ten minutes and for more than one session."""
    session = {"type": "realtime", "model": "gpt-realtime-2.1", "instructions": "Be brief."}
    status, body = await _create_client_secret(sim, {"session": session})
    assert status == 200
    assert re.fullmatch(r"ek_[0-9a-f]{32}", body["value"])
    assert abs(body["expires_at"] - time.time() - 600) < 60
    assert body["session"]["expires_at"] == 0
    for _ in range(2):
        async with connect(sim, "", key=body["value"], read_created=False) as client:
            created = (await client.next_event())["session"]
            assert (created["model"], created["instructions"]) == ("gpt-realtime-2.1", "Be brief.")
            assert created["expires_at"] > time.time()


async def test_expired_client_secret_is_refused(sim: Simulator) -> None:
    """The error is that of a wrong key."""
    _, body = await _create_client_secret(sim, {"expires_after": {"anchor": "created_at", "seconds": 10}})
    client_secrets = sim._rest_api.client_secrets
    client_secrets[body["value"]] = replace(client_secrets[body["value"]], expires_at=time.time() - 1)
    async with connect(sim, key=body["value"], read_created=False) as client:
        assert (await client.next_event())["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"expires_after": {"seconds": 9}}, "integer_below_min_value"),
        ({"expires_after": {"seconds": 7201}}, "integer_above_max_value"),
        ({"session": {"type": "realtime", "nonsense": 1}}, "unknown_parameter"),
        ([1], "invalid_type"),
    ],
)
async def test_invalid_client_secret_request_is_400(sim: Simulator, body: object, code: str) -> None:
    """Lifetimes outside 10 to 7200 seconds, unknown settings and a body that is no object are refused."""
    status, answer = await _create_client_secret(sim, body)
    assert (status, answer["error"]["code"]) == (400, code)


async def test_client_secret_determines_session_type(sim: Simulator) -> None:
    """The query does not repeat the type."""
    _, body = await _create_client_secret(sim, {"session": {"type": "transcription"}})
    async with connect(sim, "", key=body["value"], read_created=False) as client:
        assert (await client.next_event())["session"]["type"] == "transcription"
