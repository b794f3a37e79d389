"""GPT-Live: usage, and every way in which a session ends."""

import time

import aiohttp
import pytest

from tests.support.harness import within
from tests.support.live_client import audio_of, live, live_simulator
from tests.support.simulator_client import silence


async def test_close_is_answered_with_final_usage_and_close_frame() -> None:
    """The record has the time of `session.close`, the reason and the usage."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.append(silence(140))
        await client.next_event()
        sent_at = time.monotonic()
        await client.send("session.close", event_id="c1")
        last = await client.next_event()
        assert len(audio_of([last])) == 1_920
        closed = await client.next_event()
        assert (closed["type"], closed["reason"], closed["client_event_id"]) == (
            "session.closed",
            "close_requested",
            "c1",
        )
        assert isinstance(closed["usage"]["seconds"], float)
        assert "session" not in closed
        assert (await client.ws.receive(5)).type is aiohttp.WSMsgType.CLOSE
        record = sim.connections[0]
        assert sent_at <= await within(record.wait_client_event("session.close"), 1) <= time.monotonic()
        await within(record.wait_closed(), 1)
        assert (record.closed_reason, record.usage_seconds) == ("close_requested", closed["usage"]["seconds"])


async def test_usage_is_cumulative_and_float() -> None:
    """`session.closed` has the greatest."""
    async with live_simulator(usage_interval_seconds=0.02) as sim, live(sim) as client:
        await client.start()
        usages = [(await client.read_until("session.usage.updated"))[-1] for _ in range(3)]
        await client.send("session.close")
        closed = (await client.read_until("session.closed"))[-1]
        seconds = [event["usage"]["seconds"] for event in [*usages, closed]]
        assert seconds == sorted(seconds)
        assert all(isinstance(value, float) for value in seconds)
        assert 0 <= usages[0]["context_window"]["usage_ratio"] < 1


async def test_azure_reports_usage_at_its_own_interval() -> None:
    """About once a minute."""
    path, headers = "/openai/v1/live/sessions", {"api-key": "abc"}
    async with (
        live_simulator(usage_interval_seconds=600, azure_usage_interval_seconds=0.02) as sim,
        live(sim, path=path, headers=headers) as client,
    ):
        await client.start()
        await client.read_until("session.usage.updated")


async def test_session_without_input_audio_expires() -> None:
    """Mute is no audio."""
    async with live_simulator(no_audio_seconds=0.1) as sim, live(sim) as client:
        await client.start()
        await client.send("session.input_audio.mute")
        closed = (await client.read_until("session.closed"))[-1]
        assert closed["reason"] == "expired"
        assert (await client.ws.receive(5)).type is aiohttp.WSMsgType.CLOSE


async def test_session_with_input_audio_expires_at_the_limit_only() -> None:
    """One append is enough."""
    async with live_simulator(no_audio_seconds=1, session_seconds=1.2) as sim, live(sim) as client:
        session = await client.start()
        assert session["expires_at"] <= time.time() + 1.2
        await client.hear(silence(100))
        closed = (await client.read_until("session.closed"))[-1]
        assert (closed["reason"], closed["usage"]["seconds"] >= 1.1) == ("expired", True)


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("live-connection-lost", "connection_lost"),
        ("live-content", "content"),
        ("live-remote-hangup", "remote_hangup"),
        ("expire-soon", "expired"),
    ],
)
async def test_scenario_ends_session_with_reason(scenario: str, reason: str) -> None:
    """After three client events, or after `expire_after_seconds`."""
    async with live_simulator() as sim, live(sim, key=f"sk-sim-{scenario}") as client:
        await client.start()
        for _ in range(2):
            await client.append(silence(100))
        closed = (await client.read_until("session.closed"))[-1]
        assert closed["reason"] == reason
        assert (await client.ws.receive(5)).type is aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize(("scenario", "code"), [("live-close-silent", 1005), ("expire-silent", 1001)])
async def test_scenario_ends_session_without_session_closed(scenario: str, code: int) -> None:
    """Only the close frame is sent."""
    async with live_simulator() as sim, live(sim, key=f"sk-sim-{scenario}") as client:
        await client.start()
        if scenario == "live-close-silent":
            await client.send("session.close")
        message = await client.ws.receive(5)
        assert (message.type, message.data or 1005) == (aiohttp.WSMsgType.CLOSE, code)
        assert sim.connections[0].closed_reason is None


async def test_close_slow_and_close_never_delay_session_closed() -> None:
    """`slow_close_seconds`, and for ever; commands are refused in the meantime."""
    async with live_simulator(slow_close_seconds=600) as sim:
        for scenario in ("live-close-slow", "live-close-never"):
            async with live(sim, f"simulate={scenario}") as client:
                await client.start()
                await client.send("session.close")
                await client.send("session.input_audio.mute")
                assert (await client.next_event())["error"]["code"] == "invalid_event"
                with pytest.raises(TimeoutError):
                    await client.ws.receive(0.05)
    async with (
        live_simulator(slow_close_seconds=0, close_seconds=600) as sim,
        live(sim, "simulate=live-close-slow") as client,
    ):
        await client.start()
        await client.send("session.close")
        assert (await client.next_event())["type"] == "session.closed"


async def test_pending_append_fails_at_close() -> None:
    """No audio has flowed since it was sent."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.send("session.thinking.append", event_id="t1", delegation_id=None, content="x")
        await client.send("session.close")
        error = (await client.next_event())["error"]
        assert (error["code"], error["client_event_id"]) == ("context_injection_incomplete", "t1")
        assert (await client.next_event())["type"] == "session.closed"


async def test_record_shows_socket_that_vanishes() -> None:
    """Neither `session.close` nor a close frame was received."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        transport = client.ws._response.connection.transport  # type: ignore[union-attr] # it is open
        transport.abort()  # type: ignore[union-attr] # it is open
        record = sim.connections[0]
        await within(record.wait_closed(), 1)
        assert (record.close_code, record.client_events) == (None, ["session.start"])


@pytest.mark.parametrize("scenario", ["hang", "stall-mid"])
async def test_record_has_events_that_get_no_answer(scenario: str) -> None:
    """So that a test sees whether the meter was stopped."""
    async with live_simulator() as sim, live(sim, f"simulate={scenario}") as client:
        await client.send("session.start", session={"model": "gpt-live-1"})
        for _ in range(2):
            await client.append(silence(100))
        await client.send("session.close")
        await within(sim.connections[0].wait_client_event("session.close"), 2)
        assert sim.connections[0].client_events == ["session.start", "session.input_audio.append", "session.close"]
        assert sim.connections[0].closed_reason is None
        client.ws._response.close()


async def test_session_closed_can_contain_the_session() -> None:
    """The types of SDKs require it, captured frames have none: an option, as is the close code."""
    async with live_simulator(closed_contains_session=True, closed_close_code=1000) as sim, live(sim) as client:
        session = await client.start()
        await client.send("session.close")
        assert (await client.next_event())["session"] == session
        assert await client.read_close() == (1000, "")
