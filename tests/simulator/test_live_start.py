"""GPT-Live: `session.start`, and its refusals."""

import contextlib
import time
from typing import Any

import aiohttp
import pytest

from tests.support.harness import within
from tests.support.live_client import audio_of, live, live_simulator
from tests.support.simulator_client import silence, speech

INVALID = "invalid_request_error"
REFUSALS = [
    ("quota-exhausted", "credit_balance_exhausted", INVALID),
    ("model-not-found", "invalid_model", INVALID),
    ("invalid-model", "invalid_model", INVALID),
    ("key-forbidden", "forbidden", INVALID),
    ("rate-limited-inband", "rate_limit_exceeded", "rate_limit_error"),
]
INVALID_STARTS = [
    ({}, "missing_required_parameter", "session.model"),
    ({"model": "gpt-live-1", "voice": "marin"}, "unknown_parameter", "session.voice"),
    ({"model": "gpt-live-9"}, "invalid_model", None),
    ({"model": "gpt-live-1", "audio": {"output": {"voice": "onyx"}}}, "forbidden", None),
    ({"model": "gpt-live-1", "instructions": "word " * 16_384}, "invalid_value", "session.instructions"),
    ({"model": "gpt-live-1", "audio": {"format": {"type": "audio/pcm", "rate": 8000}}}, "invalid_value", None),
    ({"model": "gpt-live-1", "input": [{"role": "system", "content": []}]}, "invalid_value", "session.input[0].role"),
    (
        {"model": "gpt-live-1", "delegation": {"type": "responses", "responses": {}}},
        "missing_required_parameter",
        "session.delegation.responses.model",
    ),
]


async def test_started_echoes_configuration_with_defaults() -> None:
    """With identifier, expiry after two hours, and the client's event identifier."""
    history = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    async with live_simulator() as sim, live(sim) as client:
        session = {"model": "gpt-live-1.1", "instructions": "Be brief.", "input": history, "store": False}
        await client.send("session.start", event_id="s1", session=session)
        event = await client.next_event()
        started = event["session"]
        assert (event["type"], event["client_event_id"]) == ("session.started", "s1")
        assert started["id"].startswith("live_u2_")
        assert len(started["id"]) == 29
        assert abs(started["expires_at"] - time.time() - 7200) < 10
        assert {name: started[name] for name in session} == session
        assert started["status"] == "active"
        assert started["audio"] == {"output": {"voice": "marin"}, "format": {"type": "audio/pcm", "rate": 24000}}
        assert sim.connections[0].session_id == started["id"]


@pytest.mark.parametrize(("scenario", "code", "error_type"), REFUSALS)
async def test_refused_start_is_error_and_later_close(scenario: str, code: str, error_type: str) -> None:
    """The error has a UUID and names no client event; the close code is 4000."""
    async with live_simulator() as sim, live(sim, key=f"sk-sim-{scenario}-canary") as client:
        await client.send("session.start", event_id="s1", session={"model": "gpt-live-1"})
        event = await client.next_event()
        assert len(event["event_id"]) == len("event_") + 36
        assert (event["error"]["code"], event["error"]["type"]) == (code, error_type)
        assert "client_event_id" not in event["error"]
        assert await client.read_close() == (4000, f"{error_type}.{code}")


@pytest.mark.parametrize(("session", "code", "param"), INVALID_STARTS)
async def test_invalid_start_is_refused(session: dict[str, Any], code: str, param: str | None) -> None:
    """Strictly: an unknown field and an unknown voice, too."""
    async with live_simulator() as sim, live(sim) as client:
        await client.send("session.start", session=session)
        error = (await client.next_event())["error"]
        assert error["code"] == code
        assert param in (None, error.get("param"))
        assert (await client.read_close())[0] == 4000


async def test_token_without_access_is_forbidden() -> None:
    """A token of ChatGPT passes the upgrade."""
    async with live_simulator() as sim, live(sim, key="eyJhbGciOi.A.B") as client:
        await client.send("session.start", session={"model": "gpt-live-1"})
        assert (await client.next_event())["error"]["code"] == "forbidden"


@pytest.mark.parametrize("first", ['{"type":"session.close"}', "{", '{"type":"session.input_audio.append","audio":""}'])
async def test_other_first_event_is_refused(first: str) -> None:
    """Only `session.start` may be first."""
    async with live_simulator() as sim, live(sim) as client:
        await client.ws.send_str(first)
        assert (await client.next_event())["type"] == "error"
        assert (await client.read_close())[0] == 4000


@pytest.mark.parametrize(
    ("scenario", "close"), [("overloaded", (1013, "")), ("close-only", (4000, f"{INVALID}.invalid_api_key"))]
)
async def test_start_is_refused_by_close_frame_only(scenario: str, close: tuple[int, str]) -> None:
    """No event is sent."""
    async with live_simulator() as sim, live(sim, f"simulate={scenario}") as client:
        await client.send("session.start", session={"model": "gpt-live-1"})
        assert await client.read_close() == close


async def test_refused_start_can_end_without_close_frame() -> None:
    """What the provider does is unknown, so it is an option."""
    async with live_simulator(refused_close_code=None) as sim, live(sim) as client:
        await client.send("session.start", session={"model": "none"})
        await client.next_event()
        assert (await client.ws.receive(5)).type is not aiohttp.WSMsgType.CLOSE


async def test_audio_before_started_is_discarded_and_commands_wait() -> None:
    """The command is answered after `session.started`."""
    async with live_simulator(start_seconds=0.1) as sim, live(sim) as client:
        await client.send("session.start", session={"model": "gpt-live-1"})
        await client.append(speech(400))
        await client.send("session.input_audio.mute")
        assert [(await client.next_event())["type"] for _ in range(2)] == [
            "session.started",
            "session.input_audio.muted",
        ]
        await client.send("session.input_audio.unmute")
        assert not any(audio_of(await client.hear(silence(2_000))))


async def test_slow_first_event_delays_started() -> None:
    """The delay is that of the scenario."""
    async with live_simulator() as sim, live(sim, "simulate=slow-first-event") as client:
        await client.send("session.start", session={"model": "gpt-live-1"})
        with pytest.raises(TimeoutError):
            await client.ws.receive(0.1)


async def test_second_start_is_error_and_session_lives() -> None:
    """It names the client event."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.send("session.start", event_id="again", session={"model": "gpt-live-1"})
        event = await client.next_event()
        assert (event["type"], event["error"]["client_event_id"]) == ("error", "again")
        await client.hear(silence(100))


@pytest.mark.parametrize("scenario", ["drop", "reset", "drop-mid", "reset-mid", "going-away-mid"])
async def test_connection_ends_without_session_closed(scenario: str) -> None:
    """Usage remains unconfirmed."""
    async with live_simulator() as sim, live(sim, f"simulate={scenario}") as client:
        types = []
        with contextlib.suppress(ConnectionError):  # the scenarios without `-mid` end it at once
            await client.send("session.start", session={"model": "gpt-live-1"})
            for _ in range(2):
                await client.append(silence(100))
        while (message := await client.ws.receive(5)).type is aiohttp.WSMsgType.TEXT:
            types.append(message.json()["type"])
        assert "session.closed" not in types
        await within(sim.connections[0].wait_closed(), 1)
        assert sim.connections[0].closed_reason is None
