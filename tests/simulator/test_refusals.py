"""Refusals after the upgrade (101, error event, close frame), and the selection of scenarios."""

import asyncio
from typing import Any

import aiohttp
import pytest

from service.simulator import Simulator, SimulatorOptions
from service.simulator.scenarios import Scenario, scenario_for_key
from tests.support.harness import open_raw, running_relay, taking_less_than, within
from tests.support.simulator_client import connect

UPGRADE_HEADERS = {"Upgrade": "websocket", "Connection": "Upgrade"}

INVALID = "invalid_request_error"

# scenario, error code, close code, close reason
REFUSALS = [
    ("key-rejected", "invalid_api_key", 3000, f"{INVALID}.invalid_api_key"),
    ("key-missing", None, 3000, INVALID),
    ("key-forbidden", None, 3000, INVALID),
    ("quota-exhausted", "credit_balance_exhausted", 1013, "insufficient_quota.credit_balance_exhausted"),
    ("model-not-found", "model_not_found", 4004, f"{INVALID}.model_not_found"),
    ("invalid-model", "invalid_model", 4000, f"{INVALID}.invalid_model"),
    ("beta-shape", "beta_api_shape_disabled", 4000, f"{INVALID}.beta_api_shape_disabled"),
    ("rate-limited-inband", "rate_limit_exceeded", 1013, "rate_limit_error.rate_limit_exceeded"),
]


@pytest.mark.parametrize(("scenario", "code", "close_code", "reason"), REFUSALS)
async def test_refusal_is_error_event_and_close_frame(
    sim: Simulator, scenario: str, code: str | None, close_code: int, reason: str
) -> None:
    """The close reason is the error's type and code."""
    async with connect(sim, key=f"sk-sim-{scenario}-canary", read_created=False) as client:
        event = await client.next_event()
        assert list(event) == ["type", "event_id", "error"]
        assert list(event["error"]) == ["type", "code", "message", "param", "event_id"]
        assert event["error"]["code"] == code
        assert await client.read_close() == (close_code, reason)
    await within(sim.connections[0].wait_closed(), 1)
    assert sim.connections[0].close_code == 1000  # aiohttp answers every CLOSE with its own


@pytest.mark.parametrize(
    ("scenario", "close_code", "reason"),
    [("overloaded", 1013, ""), ("close-only", 3000, f"{INVALID}.invalid_api_key")],
)
async def test_close_only_refusal_sends_no_error_event(
    sim: Simulator, scenario: str, close_code: int, reason: str
) -> None:
    """Only the close frame is sent."""
    async with connect(sim, key=f"sk-sim-{scenario}", read_created=False) as client:
        assert await client.read_close() == (close_code, reason)


async def test_error_and_close_arrive_in_one_segment(sim: Simulator) -> None:
    """As from the provider."""
    host, port = sim.url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-sim-key-rejected\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with taking_less_than(5):
        head = await reader.readuntil(b"\r\n\r\n")
        frames = await reader.read(65536)
    assert b" 101 " in head.splitlines()[0]
    assert frames[0] == 0x81
    assert frames.endswith(b"\x88\x27" + (3000).to_bytes(2, "big") + b"invalid_request_error.invalid_api_key")
    writer.close()
    await writer.wait_closed()


async def test_key_is_masked_in_error_message(sim: Simulator) -> None:
    """The first 8 and the last 4 characters are visible; each of the others is a star."""
    key = "sk-sim-key-rejected-" + "x" * 40 + "TAIL"
    async with connect(sim, key=key, read_created=False) as client:
        message = (await client.next_event())["error"]["message"]
    assert f"Incorrect API key provided: sk-sim-k{'*' * (len(key) - 12)}TAIL. You can find" in message


async def test_missing_key_is_refused_after_upgrade(sim: Simulator) -> None:
    """The close code is 3000, and the error has no code."""
    async with connect(sim, key=None, read_created=False) as client:
        assert (await client.next_event())["error"]["message"] == "Missing bearer or basic authentication in header"
        assert await client.read_close() == (3000, INVALID)


@pytest.mark.parametrize("key", ['"sk-sim-good"', "'sk-sim-good'", "Bearer sk-sim-good"])
async def test_malformed_key_is_refused(sim: Simulator, key: str) -> None:
    """Quotes and whitespace are never part of a key."""
    async with connect(sim, key=key, read_created=False) as client:
        assert (await client.next_event())["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("model=gpt-unheard-of", "invalid_model"),
        ("", "missing_model"),
        ("model=gpt-4o-transcribe", "invalid_model"),
        ("model=gpt-realtime-translate", "invalid_model"),
    ],
)
async def test_unsupported_model_is_refused(sim: Simulator, query: str, code: str) -> None:
    """An unknown model, no model, and a model of another session type are refused with 4000."""
    async with connect(sim, query, read_created=False) as client:
        assert (await client.next_event())["error"]["code"] == code
        assert await client.read_close() == (4000, f"{INVALID}.{code}")


@pytest.mark.parametrize(
    "request_options",
    [{"headers": {"OpenAI-Beta": "realtime=v1"}}, {"protocols": ("realtime", "openai-beta.realtime-v1")}],
)
async def test_beta_interface_is_refused(sim: Simulator, request_options: dict[str, Any]) -> None:
    """Both the header and the subprotocol request it."""
    async with connect(sim, read_created=False, **request_options) as client:
        assert (await client.next_event())["error"]["code"] == "beta_api_shape_disabled"


async def test_key_is_read_from_api_key_header_and_subprotocol(sim: Simulator) -> None:
    """The server selects only the subprotocol `realtime`."""
    async with connect(sim, key=None, headers={"api-key": "sk-sim-overloaded"}, read_created=False) as client:
        assert await client.read_close() == (1013, "")
    offered = ("realtime", "openai-insecure-api-key.sk-sim-good")
    async with connect(sim, key=None, protocols=offered) as client:
        assert client.ws.protocol == "realtime"


async def test_101_has_edge_headers_for_good_and_bad_keys(sim: Simulator) -> None:
    """It has no request id, no rate limits and no extensions."""
    for key in ("sk-sim-good", "sk-sim-key-rejected"):
        async with connect(sim, key=key, read_created=False) as client:
            headers = client.ws._response.headers
            assert headers["Server"] == "cloudflare"
            assert headers["x-openai-proxy-wasm"] == "v0.1"
            assert headers["cf-cache-status"] == "DYNAMIC"
            assert headers["Set-Cookie"].startswith("__cf_bm=")
            absent = {"x-request-id", "openai-processing-ms", "openai-version", "Sec-WebSocket-Extensions"}
            assert not absent & set(headers)
            assert not [name for name in headers if "ratelimit" in name.lower()]


async def test_permessage_deflate_is_negotiated_when_offered(sim: Simulator) -> None:
    """A turn works with it."""
    async with connect(sim, compress=15) as client:
        assert client.ws.compress
        assert (await client.run_text_turn("squeezed" * 100))[-1]["type"] == "rate_limits.updated"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sk-sim-good", Scenario.GOOD),
        ("sk-sim-drop", Scenario.DROP),
        ("sk-sim-drop-mid", Scenario.DROP_MID),
        ("sk-sim-drop-mid-canary-1", Scenario.DROP_MID),
        ("sk-sim-http-403-geo-x", Scenario.HTTP_403_GEO),
        ("sk-sim-http-4031", Scenario.GOOD),
        ("sk-sim-never-heard-of", Scenario.GOOD),
        ("sk-proj-anything", Scenario.GOOD),
        (None, Scenario.GOOD),
    ],
)
def test_key_selects_scenario_by_longest_name(key: str | None, expected: Scenario) -> None:
    """A key that contains no complete name selects `good`."""
    assert scenario_for_key(key, Scenario.GOOD) is expected


def test_scenario_option_applies_to_keys_without_scenario() -> None:
    """A key that names a scenario overrides the option."""
    assert scenario_for_key("sk-sim-good", Scenario.HANG) is Scenario.HANG
    assert scenario_for_key("sk-proj-x", Scenario.HANG) is Scenario.HANG
    assert scenario_for_key("sk-sim-drop", Scenario.HANG) is Scenario.DROP


def test_unknown_scenario_option_raises_value_error() -> None:
    """The message lists the valid names."""
    with pytest.raises(ValueError, match="key-rejected"):
        SimulatorOptions(scenario="no-such-thing")


async def test_client_without_close_reply_is_aborted() -> None:
    """The bound is close_reply_seconds."""
    async with Simulator(SimulatorOptions(close_reply_seconds=0.05)) as sim, aiohttp.ClientSession() as http:
        headers = {"Authorization": "Bearer sk-sim-overloaded"}
        async with http.ws_connect(f"{sim.url}/realtime", headers=headers, autoclose=False):
            await within(sim.connections[0].wait_closed(), 1)
            assert sim.connections[0].close_code is None


async def test_query_selects_scenario_for_one_request(sim: Simulator) -> None:
    """`?simulate=` overrides the key, and a relay passes it on."""
    async with connect(sim, "model=gpt-realtime&simulate=key-rejected", read_created=False) as client:
        assert (await client.next_event())["error"]["code"] == "invalid_api_key"
    async with connect(sim, "model=gpt-realtime&simulate=good", key="sk-sim-drop"):
        pass
    async with connect(sim):
        pass
    async with running_relay(simulator=sim) as relay:
        raw = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&simulate=quota-exhausted")
        await raw.close()
    assert raw.answer.error["code"] == "quota_exhausted"


async def test_unknown_scenario_in_query_is_400(sim: Simulator) -> None:
    """The body lists the valid names."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        async with connect(sim, "model=gpt-realtime&simulate=quota", read_created=False):
            pass
    assert raised.value.status == 400
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{sim.url}/realtime?simulate=quota", headers=UPGRADE_HEADERS) as reply,
    ):
        assert "unknown scenario 'quota'; valid names: good, key-rejected" in await reply.text()
