"""Refusals inside the socket: 101, error, CLOSE; and who is refused."""

import asyncio
from typing import Any

import aiohttp
import pytest

from service.simulator import Simulator, SimulatorOptions
from service.simulator.scenarios import Scenario, scenario_for_key
from tests.support.harness import open_raw, running_relay
from tests.support.simulator_client import connected

UPGRADE = {"Upgrade": "websocket", "Connection": "Upgrade"}

INVALID = "invalid_request_error"

# scenario, code of the error, code and reason of the CLOSE
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
async def test_a_refusal_is_an_error_and_a_close(
    sim: Simulator, scenario: str, code: str | None, close_code: int, reason: str
) -> None:
    """The upgrade succeeds, the first event is the error, and the CLOSE carries its type and code."""
    async with connected(sim, key=f"sk-sim-{scenario}-canary", greeted=False) as caller:
        event = await caller.next()
        assert list(event) == ["type", "event_id", "error"]
        assert list(event["error"]) == ["type", "code", "message", "param", "event_id"]
        assert event["error"]["code"] == code
        assert await caller.close_of() == (close_code, reason)
    await asyncio.wait_for(sim.connections[0].wait_closed(), 1)
    assert sim.connections[0].close_code == 1000  # aiohttp answers every CLOSE with its own


@pytest.mark.parametrize(
    ("scenario", "close_code", "reason"),
    [("overloaded", 1013, ""), ("close-only", 3000, f"{INVALID}.invalid_api_key")],
)
async def test_a_close_can_come_without_an_error(sim: Simulator, scenario: str, close_code: int, reason: str) -> None:
    """Some refusals are a CLOSE alone."""
    async with connected(sim, key=f"sk-sim-{scenario}", greeted=False) as caller:
        assert await caller.close_of() == (close_code, reason)


async def test_error_and_close_arrive_in_one_piece(sim: Simulator) -> None:
    """Both frames of a refusal are in the same segment, as the provider sends them."""
    host, port = sim.url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-sim-key-rejected\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        frames = await reader.read(65536)
    assert b" 101 " in head.splitlines()[0]
    assert frames[0] == 0x81
    assert frames.endswith(b"\x88\x27" + (3000).to_bytes(2, "big") + b"invalid_request_error.invalid_api_key")
    writer.close()
    await writer.wait_closed()


async def test_the_key_is_masked_in_the_message(sim: Simulator) -> None:
    """The first 8 and the last 4 characters show; a star stands for each of the others."""
    key = "sk-sim-key-rejected-" + "x" * 40 + "TAIL"
    async with connected(sim, key=key, greeted=False) as caller:
        message = (await caller.next())["error"]["message"]
    assert f"Incorrect API key provided: sk-sim-k{'*' * (len(key) - 12)}TAIL. You can find" in message


async def test_a_request_without_a_key_is_refused_in_the_socket(sim: Simulator) -> None:
    """No Authorization is upgraded and refused with 3000 and no code."""
    async with connected(sim, key=None, greeted=False) as caller:
        assert (await caller.next())["error"]["message"] == "Missing bearer or basic authentication in header"
        assert await caller.close_of() == (3000, INVALID)


@pytest.mark.parametrize("key", ['"sk-sim-good"', "'sk-sim-good'", "Bearer sk-sim-good"])
async def test_a_mangled_key_is_refused(sim: Simulator, key: str) -> None:
    """A key with quotes or blanks is nobody's key."""
    async with connected(sim, key=key, greeted=False) as caller:
        assert (await caller.next())["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("model=gpt-unheard-of", "invalid_model"),
        ("", "missing_model"),
        ("model=gpt-4o-transcribe", "invalid_model"),
        ("model=gpt-realtime-translate", "invalid_model"),
    ],
)
async def test_the_model_must_be_known(sim: Simulator, query: str, code: str) -> None:
    """An unknown model, none, and one of another kind are refused with 4000."""
    async with connected(sim, query, greeted=False) as caller:
        assert (await caller.next())["error"]["code"] == code
        assert await caller.close_of() == (4000, f"{INVALID}.{code}")


@pytest.mark.parametrize(
    "how", [{"headers": {"OpenAI-Beta": "realtime=v1"}}, {"protocols": ("realtime", "openai-beta.realtime-v1")}]
)
async def test_the_beta_interface_is_refused(sim: Simulator, how: dict[str, Any]) -> None:
    """The beta header and the beta subprotocol are fatal."""
    async with connected(sim, greeted=False, **how) as caller:
        assert (await caller.next())["error"]["code"] == "beta_api_shape_disabled"


async def test_a_key_can_come_in_other_places(sim: Simulator) -> None:
    """The api-key header and the browser's subprotocol carry a key, and its scenario; only `realtime` is selected."""
    async with connected(sim, key=None, headers={"api-key": "sk-sim-overloaded"}, greeted=False) as caller:
        assert await caller.close_of() == (1013, "")
    offered = ("realtime", "openai-insecure-api-key.sk-sim-good")
    async with connected(sim, key=None, protocols=offered) as caller:
        assert caller.ws.protocol == "realtime"


async def test_the_upgrade_has_the_headers_of_the_edge(sim: Simulator) -> None:
    """The 101 is the same for good and bad keys, and carries no request id, no limits and no extension."""
    for key in ("sk-sim-good", "sk-sim-key-rejected"):
        async with connected(sim, key=key, greeted=False) as caller:
            headers = caller.ws._response.headers
            assert headers["Server"] == "cloudflare"
            assert headers["x-openai-proxy-wasm"] == "v0.1"
            assert headers["cf-cache-status"] == "DYNAMIC"
            assert headers["Set-Cookie"].startswith("__cf_bm=")
            absent = {"x-request-id", "openai-processing-ms", "openai-version", "Sec-WebSocket-Extensions"}
            assert not absent & set(headers)
            assert not [name for name in headers if "ratelimit" in name.lower()]


async def test_compression_is_agreed_only_when_offered(sim: Simulator) -> None:
    """A client that offers permessage-deflate gets it, and its turn works."""
    async with connected(sim, compress=15) as caller:
        assert caller.ws.compress
        assert (await caller.say("squeezed" * 100))[-1]["type"] == "rate_limits.updated"


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
def test_the_longest_name_in_the_key_chooses(key: str | None, expected: Scenario) -> None:
    """A key names a scenario by a whole name; any other key is good."""
    assert scenario_for_key(key, Scenario.GOOD) is expected


def test_the_option_holds_for_keys_that_name_nothing() -> None:
    """A scenario by option meets every key but those that name one."""
    assert scenario_for_key("sk-sim-good", Scenario.HANG) is Scenario.HANG
    assert scenario_for_key("sk-proj-x", Scenario.HANG) is Scenario.HANG
    assert scenario_for_key("sk-sim-drop", Scenario.HANG) is Scenario.DROP


def test_an_unknown_option_is_refused() -> None:
    """A scenario that does not exist is told at once, with those that do."""
    with pytest.raises(ValueError, match="key-rejected"):
        SimulatorOptions(scenario="no-such-thing")


async def test_a_peer_that_ignores_the_close_is_cut_off() -> None:
    """A client that does not answer our CLOSE loses its connection within the bound."""
    async with Simulator(SimulatorOptions(close_reply_seconds=0.05)) as sim, aiohttp.ClientSession() as http:
        headers = {"Authorization": "Bearer sk-sim-overloaded"}
        async with http.ws_connect(f"{sim.url}/realtime", headers=headers, autoclose=False):
            await asyncio.wait_for(sim.connections[0].wait_closed(), 1)
            assert sim.connections[0].close_code is None


async def test_one_request_may_ask_for_a_scenario(sim: Simulator) -> None:
    """`?simulate=` holds for that request alone, whatever its key says, and comes through a relay."""
    async with connected(sim, "model=gpt-realtime&simulate=key-rejected", greeted=False) as caller:
        assert (await caller.next())["error"]["code"] == "invalid_api_key"
    async with connected(sim, "model=gpt-realtime&simulate=good", key="sk-sim-drop"):
        pass
    async with connected(sim):
        pass
    async with running_relay(simulator=sim) as relay:
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&simulate=quota-exhausted")
        await client.close()
    assert client.answer.error["code"] == "quota_exhausted"


async def test_an_unknown_scenario_in_the_query_is_refused(sim: Simulator) -> None:
    """A mistyped name is told, with the names that exist, instead of looking healthy."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(sim, "model=gpt-realtime&simulate=quota", greeted=False):
            pass
    assert refused.value.status == 400
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{sim.url}/realtime?simulate=quota", headers=UPGRADE) as reply,
    ):
        assert "unknown scenario 'quota'; valid names: good, key-rejected" in await reply.text()
