"""GPT-Live: the opening handshake, at OpenAI's paths and at Azure's."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from service.simulator import Simulator
from tests.support.harness import within
from tests.support.live_client import live, live_simulator
from tests.support.simulator_client import connect

UPGRADE_HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
GOOD = {"Authorization": "Bearer sk-sim-good"}
AZURE = "/openai/v1/live/sessions"


async def _refused(sim: Simulator, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    """The status, headers and body of an upgrade request that is refused."""
    url = f"{sim.url.removesuffix('/v1')}{path}"
    async with (
        aiohttp.ClientSession() as http,
        http.get(url, headers=headers | UPGRADE_HEADERS, allow_redirects=False) as response,
    ):
        text = await response.text()
        return response.status, dict(response.headers), json.loads(text) if text else None


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "missing_authorization"),
        ({"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.sk-sim-good"}, "missing_authorization"),
        ({"api-key": "sk-sim-good"}, "missing_authorization"),
        ({"Authorization": "Bearer sk-sim-key-missing"}, "missing_authorization"),
        ({"Authorization": "Bearer sk-sim-key-rejected"}, "invalid_api_key"),
        ({"Authorization": "Bearer 'sk-sim-good'"}, "invalid_api_key"),
        ({"Authorization": "Bearer ek_0123456789abcdef"}, "invalid_api_key"),
    ],
)
async def test_unusable_credential_is_401(headers: dict[str, str], code: str) -> None:
    """A credential in a subprotocol is ignored, and so is a client secret of the Realtime API."""
    async with live_simulator() as sim:
        for path in ("/v1/live/sessions", "/v1/live/sessions/live_u2_A/attach"):
            status, _, body = await _refused(sim, path, **headers)
            assert (status, body["error"]["code"]) == (401, code)
        assert sim.connections[0].status == 401


async def test_subprotocol_is_not_read_but_a_bearer_token_is() -> None:
    """The server selects none, and is silent until `session.start`."""
    async with live_simulator() as sim, live(sim, protocols=("realtime",)) as client:
        assert client.ws.protocol is None
        with pytest.raises(TimeoutError):
            await client.ws.receive(0.05)
        await client.start()


@pytest.mark.parametrize("operation", ["attach", "attach?graceful_close=true", "fork"])
async def test_attach_and_fork_are_404(operation: str) -> None:
    """The simulator has WebSocket sessions only, to which nothing can be attached."""
    async with live_simulator() as sim, live(sim) as client:
        session_id = (await client.start())["id"]
        for known in (session_id, "live_u1_AAAAAAAAAAAAAAAAAAAAA"):
            status, _, body = await _refused(sim, f"/v1/live/sessions/{known}/{operation}", **GOOD)
            assert (status, body["error"]["code"], body["error"]["param"]) == (
                404,
                "session_id_not_found",
                "session_id",
            )


@pytest.mark.parametrize(("scenario", "status"), [("http-503", 503), ("http-403", 403), ("redirect", 302)])
async def test_http_scenario_answers_upgrade(scenario: str, status: int) -> None:
    """By key and by query, as at the Realtime API."""
    async with live_simulator() as sim:
        by_key = await _refused(sim, "/v1/live/sessions", Authorization=f"Bearer sk-sim-{scenario}")
        by_query = await _refused(sim, f"/v1/live/sessions?simulate={scenario}", **GOOD)
        assert by_key[0] == by_query[0] == status


async def test_request_without_upgrade_is_400() -> None:
    """As at the Realtime endpoint; the models of GPT-Live are listed like others."""
    async with live_simulator() as sim, aiohttp.ClientSession(headers=GOOD) as http:
        async with http.get(f"{sim.url}/live/sessions") as response:
            assert response.status == 400
        async with http.get(f"{sim.url}/models/gpt-live-1.1") as response:
            assert (await response.json())["id"] == "gpt-live-1.1"


async def test_azure_redirects_api_key_as_bearer() -> None:
    """The URL contains the key, which it accepts there and as the header `api-key`; an Entra token is not redirected."""
    async with live_simulator() as sim:
        status, headers, _ = await _refused(sim, AZURE, Authorization="Bearer abc/def")
        assert (status, headers["Location"]) == (307, f"{AZURE}?api-key=abc%2Fdef")
        for query, sent in (("", {"api-key": "abc"}), ("api-key=abc", {}), ("", {"Authorization": "Bearer eyJ.A.B"})):
            async with live(sim, query, key=None, path=AZURE, headers=sent) as client:
                assert (await client.start(model="my-deployment"))["model"] == "my-deployment"
        assert (await _refused(sim, AZURE))[0] == 401
        assert (await _refused(sim, AZURE, **{"api-key": "sk-sim-key-rejected"}))[2]["error"]["code"] == "401"
        assert (await _refused(sim, "/openai/live/sessions", **{"api-key": "abc"}))[0] == 404


async def test_azure_names_client_event_only_in_errors() -> None:
    """OpenAI names it in both."""
    async with live_simulator() as sim:
        for path, echoed in ((AZURE, False), ("/v1/live/sessions", True)):
            async with live(sim, path=path, headers={"api-key": "sk-sim-good"}) as client:
                await client.start()
                await client.send("session.input_audio.mute", event_id="m1")
                assert ("client_event_id" in await client.next_event()) == echoed
                await client.send("session.input_audio.mute", event_id="m2", extra=1)
                assert (await client.next_event())["error"]["client_event_id"] == "m2"


async def test_live_model_on_realtime_and_reverse_is_invalid_model() -> None:
    """The message is the same: the endpoint is wrong, not the model."""
    async with live_simulator() as sim:
        async with connect(sim, "model=gpt-live-1", read_created=False) as realtime:
            error = (await realtime.next_event())["error"]
            assert error["code"] == "invalid_model"
            assert error["message"] == 'Model "gpt-live-1" is not supported in realtime mode.'
        async with live(sim) as client:
            await client.send("session.start", session={"model": "gpt-realtime"})
            error = (await client.next_event())["error"]
            assert error["code"] == "invalid_model"
            assert error["message"] == 'Model "gpt-realtime" is not supported in realtime mode.'


async def test_stop_closes_open_sessions() -> None:
    """Neither connections nor tasks remain."""
    before = asyncio.all_tasks()
    sim = live_simulator()
    await sim.start()
    async with live(sim) as client:
        await client.start()
        await sim.stop()
        assert (await client.read_close())[0] == 1001
    await within(sim.connections[0].wait_closed(), 1)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
