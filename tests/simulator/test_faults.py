"""Scenarios without words: HTTP answers, broken connections, early ends."""

import asyncio
import time

import aiohttp
import pytest

from service.simulator import Simulator, SimulatorOptions
from service.simulator.scenarios import Scenario
from tests.support.simulator_client import KEY, Caller, connected, kinds

# scenario, status, header and its value, what the body holds
HTTP = [
    ("http-401", 401, ("Content-Type", "application/json"), "invalid_api_key"),
    ("http-403", 403, ("Server", "cloudflare"), ""),
    ("http-403-geo", 403, ("Content-Type", "application/json"), "unsupported_country_region_territory"),
    ("http-404", 404, ("Server", "cloudflare"), ""),
    ("http-429", 429, ("Retry-After", "7"), "rate_limit_exceeded"),
    ("http-429-quota", 429, ("Content-Type", "application/json"), "insufficient_quota"),
    ("http-500", 500, ("Content-Type", "application/json"), "server_error"),
    ("http-502", 502, ("Content-Type", "application/json"), "server_error"),
    ("http-503", 503, ("Retry-After", "30"), "overloaded"),
    ("http-504", 504, ("Content-Type", "application/json"), "server_error"),
    ("http-520-html", 520, ("Content-Type", "text/html"), "<html>"),
    ("redirect", 302, ("Location", "https://login.captive.invalid/"), ""),
    ("no-upgrade", 200, ("Content-Type", "text/html"), "<html>"),
]
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(("scenario", "status", "header", "body"), HTTP)
async def test_an_upgrade_and_rest_get_the_same_http_answer(
    sim: Simulator, scenario: str, status: int, header: tuple[str, str], body: str
) -> None:
    """A scenario with an HTTP status answers both an upgrade and a REST call with it."""
    key = {"Authorization": f"Bearer sk-sim-{scenario}-canary"}
    async with aiohttp.ClientSession() as http:
        for path, headers in (("/realtime?model=gpt-realtime", key | UPGRADE), ("/models/gpt-realtime", key)):
            async with http.get(sim.url + path, headers=headers, allow_redirects=False) as response:
                assert response.status == status
                assert response.headers[header[0]].startswith(header[1])
                assert body in await response.text()
    assert sim.connections[0].status == status
    assert sim.open_count == 0


async def test_a_wrong_accept_is_seen_by_a_client_that_looks(sim: Simulator) -> None:
    """The 101 of wrong-accept fails the check of RFC 6455 section 4.1."""
    with pytest.raises(aiohttp.WSServerHandshakeError, match="challenge"):
        async with connected(sim, key="sk-sim-wrong-accept", greeted=False):
            pass


async def test_a_reset_is_a_reset(sim: Simulator) -> None:
    """After the 101 the connection ends with RST."""
    reader, writer = await _raw_upgrade(sim, "sk-sim-reset")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()


async def test_a_drop_is_an_end_without_a_close(sim: Simulator) -> None:
    """After the 101 the connection ends with FIN, and no frame was sent."""
    reader, writer = await _raw_upgrade(sim, "sk-sim-drop")
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("scenario", ["hang", "hang-before-101"])
async def test_a_hang_is_silence_until_the_client_leaves(sim: Simulator, scenario: str) -> None:
    """Nothing comes; when the client is gone the connection is gone here too."""
    reader, writer = await _raw_upgrade(sim, f"sk-sim-{scenario}", answered=scenario == "hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    assert sim.open_count == 1
    writer.close()
    await asyncio.wait_for(sim.connections[0].wait_closed(), 1)
    assert sim.open_count == 0


async def test_a_silent_peer_answers_no_close(sim: Simulator) -> None:
    """A session that hangs answers neither ping nor CLOSE, but notes the code of the latter."""
    reader, writer = await _raw_upgrade(sim, "sk-sim-hang")
    writer.write(b"\x89\x80\0\0\0\0" + b"\x88\x82\0\0\0\0\x03\xe8")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    assert (sim.connections[0].close_code, sim.connections[0].pings_received) == (1000, 1)
    writer.close()


async def test_the_first_event_can_be_slow() -> None:
    """slow-first-event sends session.created after its delay, and meanwhile answers pings."""
    options = SimulatorOptions(scenario="slow-first-event", slow_first_event_seconds=0.1)
    async with Simulator(options) as sim:
        began = time.monotonic()
        async with connected(sim):
            assert time.monotonic() - began >= 0.1


async def _send_three(caller: Caller) -> None:
    for _ in range(3):
        await caller.send("input_audio_buffer.clear")


@pytest.mark.parametrize(("scenario", "code"), [("going-away-mid", 1001), ("internal-error-mid", 1011)])
async def test_a_session_can_be_closed_in_the_middle(sim: Simulator, scenario: str, code: int) -> None:
    """After three of the client's events, all of them answered, the CLOSE comes."""
    async with connected(sim, key=f"sk-sim-{scenario}") as caller:
        await _send_three(caller)
        assert [(await caller.next())["type"] for _ in range(3)] == ["input_audio_buffer.cleared"] * 3
        assert (await caller.close_of())[0] == code


@pytest.mark.parametrize("scenario", ["drop-mid", "reset-mid"])
async def test_a_session_can_break_in_the_middle(sim: Simulator, scenario: str) -> None:
    """After three of the client's events the connection is gone without a CLOSE."""
    async with connected(sim, key=f"sk-sim-{scenario}") as caller:
        await _send_three(caller)
        while (message := await caller.ws.receive(5)).type is aiohttp.WSMsgType.TEXT:
            pass
    assert message.type is not aiohttp.WSMsgType.CLOSE


async def test_a_session_can_fall_silent_in_the_middle(sim: Simulator) -> None:
    """After three of the client's events nothing is answered any more, though it is still read."""
    async with connected(sim, key="sk-sim-stall-mid") as caller:
        await _send_three(caller)
        await caller.send("input_audio_buffer.clear")
        for _ in range(3):
            await caller.next()
        with pytest.raises(TimeoutError):
            await caller.ws.receive(0.1)
        assert len(sim.connections[0].client_events) == 3
        caller.ws._response.close()


async def test_a_response_can_fail_in_the_middle(sim: Simulator) -> None:
    """server-error-mid says half, closes what it opened and fails; the session stays usable."""
    async with connected(sim, key="sk-sim-server-error-mid") as caller:
        events = await caller.say("one two three four")
        response = next(e for e in events if e["type"] == "response.done")["response"]
        assert kinds(events).count("response.output_text.delta") == 2
        assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "server_error")
        assert sim.connections[0].session_id in response["status_details"]["error"]["message"]
        await caller.configure()


@pytest.mark.parametrize(
    ("scenario", "code"), [("model-access-late", "model_not_found"), ("rate-limited-mid", "rate_limit_exceeded")]
)
async def test_a_response_can_fail_from_the_start(sim: Simulator, scenario: str, code: str) -> None:
    """The session begins and is configured normally; only the response fails, with no output and no usage."""
    async with connected(sim, key=f"sk-sim-{scenario}") as caller:
        await caller.configure(instructions="Be brief.")
        events = await caller.say("Hello")
    assert kinds(events)[2:] == ["response.created", "response.done", "rate_limits.updated"]
    response = events[3]["response"]
    assert response["status_details"]["error"]["code"] == code
    assert (response["output"], response["usage"]["total_tokens"]) == ([], 0)


async def test_an_unknown_path_is_forbidden(sim: Simulator) -> None:
    """An upgrade anywhere else is 403."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(sim, path="/realtime/transcription_sessions", greeted=False):
            pass
    assert refused.value.status == 403


@pytest.mark.parametrize("scenario", [member.value for member in Scenario])
async def test_the_simulator_stops_in_time_whatever_goes_on(scenario: str) -> None:
    """Stopping takes less than a second under every scenario, and leaves neither connection nor task."""
    before = asyncio.all_tasks()
    sim = Simulator(SimulatorOptions(pace=1))
    await sim.start()
    _, writer = await _raw_upgrade(sim, f"sk-sim-{scenario}", answered=False)
    async with asyncio.timeout(2):
        while not sim.connections:  # noqa: ASYNC110 - the request is on its way
            await asyncio.sleep(0.005)
    began = time.monotonic()
    await sim.stop()
    assert time.monotonic() - began < 1
    assert sim.open_count == 0
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    writer.close()


async def _raw_upgrade(
    sim: Simulator, key: str = KEY, *, answered: bool = True
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = sim.url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [f"{name}: {value}" for name, value in {**UPGRADE, "Authorization": f"Bearer {key}", "Host": "x"}.items()]
    writer.write("\r\n".join(["GET /v1/realtime?model=gpt-realtime HTTP/1.1", *lines, "", ""]).encode())
    if answered:
        async with asyncio.timeout(5):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer
