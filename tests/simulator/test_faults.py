"""Scenarios outside the Realtime protocol: HTTP responses, broken connections, failures in mid-session."""

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web

from service.simulator import Simulator, SimulatorOptions
from service.simulator.scenarios import Scenario
from tests.support.harness import eventually, taking_less_than, within
from tests.support.simulator_client import KEY, RealtimeClient, connect, event_types

# scenario, status, header and its value, substring of the body
HTTP_RESPONSES = [
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
UPGRADE_HEADERS = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(("scenario", "status", "header", "body"), HTTP_RESPONSES)
async def test_http_scenario_answers_upgrade_and_rest_alike(
    sim: Simulator, scenario: str, status: int, header: tuple[str, str], body: str
) -> None:
    """Status, header and body are the same for both."""
    key = {"Authorization": f"Bearer sk-sim-{scenario}-canary"}
    async with aiohttp.ClientSession() as http:
        for path, headers in (("/realtime?model=gpt-realtime", key | UPGRADE_HEADERS), ("/models/gpt-realtime", key)):
            async with http.get(sim.url + path, headers=headers, allow_redirects=False) as response:
                assert response.status == status
                assert response.headers[header[0]].startswith(header[1])
                assert body in await response.text()
    assert sim.connections[0].status == status
    assert sim.open_count == 0


async def test_wrong_accept_fails_handshake_validation(sim: Simulator) -> None:
    """The client checks Sec-WebSocket-Accept as RFC 6455 section 4.1 requires."""
    with pytest.raises(aiohttp.WSServerHandshakeError, match="challenge"):
        async with connect(sim, key="sk-sim-wrong-accept", read_created=False):
            pass


async def test_reset_scenario_sends_rst_after_101(sim: Simulator) -> None:
    """The client's read raises ConnectionResetError."""
    reader, writer = await _raw_upgrade(sim, "sk-sim-reset")
    with pytest.raises(ConnectionResetError):
        async with taking_less_than(5):
            await reader.read()
    writer.close()


async def test_drop_scenario_sends_fin_without_close_frame(sim: Simulator) -> None:
    """The client reads an immediate end of file after the 101."""
    reader, writer = await _raw_upgrade(sim, "sk-sim-drop")
    async with taking_less_than(5):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("scenario", ["hang", "hang-before-101"])
async def test_hang_scenario_sends_nothing_until_client_disconnects(sim: Simulator, scenario: str) -> None:
    """The simulator's side closes within a second of the client's."""
    reader, writer = await _raw_upgrade(sim, f"sk-sim-{scenario}", read_response=scenario == "hang")
    await eventually(lambda: sim.open_count == 1)
    with pytest.raises(TimeoutError):
        await within(reader.read(1), 0.1)
    assert sim.open_count == 1
    writer.close()
    await within(sim.connections[0].wait_closed(), 1)
    assert sim.open_count == 0


async def test_hang_scenario_answers_neither_ping_nor_close(sim: Simulator) -> None:
    """The record still has the ping and the close code."""
    reader, writer = await _raw_upgrade(sim, "sk-sim-hang")
    writer.write(b"\x89\x80\0\0\0\0" + b"\x88\x82\0\0\0\0\x03\xe8")
    await eventually(lambda: (sim.connections[0].close_code, sim.connections[0].pings_received) == (1000, 1))
    with pytest.raises(TimeoutError):
        await within(reader.read(1), 0.1)
    writer.close()


async def test_slow_first_event_delays_session_created() -> None:
    """The delay is slow_first_event_seconds."""
    options = SimulatorOptions(scenario="slow-first-event", slow_first_event_seconds=0.1)
    async with Simulator(options) as sim:
        started = time.monotonic()
        async with connect(sim):
            assert time.monotonic() - started >= 0.1


async def _send_three_events(client: RealtimeClient) -> None:
    for _ in range(3):
        await client.send("input_audio_buffer.clear")


@pytest.mark.parametrize(("scenario", "code"), [("going-away-mid", 1001), ("internal-error-mid", 1011)])
async def test_mid_session_close_follows_three_answered_events(sim: Simulator, scenario: str, code: int) -> None:
    """The close code is that of the scenario."""
    async with connect(sim, key=f"sk-sim-{scenario}") as client:
        await _send_three_events(client)
        assert [(await client.next_event())["type"] for _ in range(3)] == ["input_audio_buffer.cleared"] * 3
        assert (await client.read_close())[0] == code


@pytest.mark.parametrize("scenario", ["drop-mid", "reset-mid"])
async def test_mid_session_disconnect_sends_no_close_frame(sim: Simulator, scenario: str) -> None:
    """The connection ends after three client events."""
    async with connect(sim, key=f"sk-sim-{scenario}") as client:
        await _send_three_events(client)
        while (message := await client.ws.receive(5)).type is aiohttp.WSMsgType.TEXT:
            pass
    assert message.type is not aiohttp.WSMsgType.CLOSE


async def test_mid_session_stall_reads_but_sends_nothing(sim: Simulator) -> None:
    """The first three client events are answered; the fourth is not."""
    async with connect(sim, key="sk-sim-stall-mid") as client:
        await _send_three_events(client)
        await client.send("input_audio_buffer.clear")
        for _ in range(3):
            await client.next_event()
        with pytest.raises(TimeoutError):
            await client.ws.receive(0.1)
        assert len(sim.connections[0].client_events) == 3
        client.ws._response.close()


async def test_server_error_mid_fails_response_halfway(sim: Simulator) -> None:
    """The open item is closed, and the session stays usable."""
    async with connect(sim, key="sk-sim-server-error-mid") as client:
        events = await client.run_text_turn("one two three four")
        response = next(e for e in events if e["type"] == "response.done")["response"]
        assert event_types(events).count("response.output_text.delta") == 2
        assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "server_error")
        assert sim.connections[0].session_id in response["status_details"]["error"]["message"]
        await client.update_session()


@pytest.mark.parametrize(
    ("scenario", "code"), [("model-access-late", "model_not_found"), ("rate-limited-mid", "rate_limit_exceeded")]
)
async def test_response_fails_without_output_or_usage(sim: Simulator, scenario: str, code: str) -> None:
    """The session starts and is updated normally; only the response fails."""
    async with connect(sim, key=f"sk-sim-{scenario}") as client:
        await client.update_session(instructions="Be brief.")
        events = await client.run_text_turn("Hello")
    assert event_types(events)[2:] == ["response.created", "response.done", "rate_limits.updated"]
    response = events[3]["response"]
    assert response["status_details"]["error"]["code"] == code
    assert (response["output"], response["usage"]["total_tokens"]) == ([], 0)


async def test_upgrade_at_unknown_path_is_403(sim: Simulator) -> None:
    """As at the provider's edge."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        async with connect(sim, path="/realtime/transcription_sessions", read_created=False):
            pass
    assert raised.value.status == 403


@pytest.mark.parametrize("scenario", [member.value for member in Scenario])
async def test_stop_takes_under_one_second_in_every_scenario(scenario: str) -> None:
    """Neither connections nor tasks remain."""
    before = asyncio.all_tasks()
    sim = Simulator(SimulatorOptions(pace=1))
    await sim.start()
    _, writer = await _raw_upgrade(sim, f"sk-sim-{scenario}", read_response=False)
    async with taking_less_than(2):
        while not sim.connections:  # noqa: ASYNC110 - the simulator has no event for a new connection
            await asyncio.sleep(0.005)
    async with taking_less_than(1):
        await sim.stop()
    assert sim.open_count == 0
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    writer.close()


async def _raw_upgrade(
    sim: Simulator, key: str = KEY, *, read_response: bool = True
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = sim.url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [
        f"{name}: {value}" for name, value in {**UPGRADE_HEADERS, "Authorization": f"Bearer {key}", "Host": "x"}.items()
    ]
    writer.write("\r\n".join(["GET /v1/realtime?model=gpt-realtime HTTP/1.1", *lines, "", ""]).encode())
    if read_response:
        async with taking_less_than(5):
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_client_that_leaves_before_the_upgrade_is_no_error(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The simulator prints no traceback, which a reader would take for a failure."""

    async def leave(request: web.Request, transport: asyncio.Transport, upgrade: object) -> None:
        transport.abort()

    monkeypatch.setattr(sim, "_response_without_upgrade", leave)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        async with connect(sim, read_created=False):
            pass
    await within(sim.connections[0].wait_closed(), 10)
    await asyncio.sleep(0)  # aiohttp reports an error of the handler in the same turn

    assert [] == caplog.records
