"""The session object and its updates."""

import time
from typing import Any

import pytest

from service.simulator import Simulator, SimulatorOptions
from tests.support.simulator_client import connected, voice


async def test_the_session_has_the_keys_of_the_wire_in_order(sim: Simulator) -> None:
    """session.created holds the whole object, in the provider's order, with an hour to live."""
    async with connected(sim, greeted=False) as caller:
        session = (await caller.next())["session"]
    assert list(session) == [
        *["type", "object", "id", "model", "output_modalities", "instructions", "tools", "tool_choice"],
        *["max_output_tokens", "tracing", "truncation", "prompt", "expires_at", "audio", "include"],
    ]
    assert session["audio"]["input"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "transcription": None,
        "noise_reduction": None,
        "turn_detection": {
            "type": "server_vad",
            "threshold": 0.5,
            "prefix_padding_ms": 300,
            "silence_duration_ms": 200,
            "idle_timeout_ms": None,
            "create_response": True,
            "interrupt_response": True,
        },
    }
    assert abs(session["expires_at"] - time.time() - 3600) < 3
    assert sim.connections[0].session_id == session["id"]


@pytest.mark.parametrize(
    ("model", "voice_name", "silence_ms"),
    [("gpt-realtime", "alloy", 200), ("gpt-realtime-mini", "alloy", 200), ("gpt-realtime-2.1", "marin", 500)],
)
async def test_defaults_depend_on_the_model(sim: Simulator, model: str, voice_name: str, silence_ms: int) -> None:
    """Voice and patience differ by generation; the model is the one asked for."""
    async with connected(sim, f"model={model}", greeted=False) as caller:
        session = (await caller.next())["session"]
    assert session["model"] == model
    assert session["audio"]["output"]["voice"] == voice_name
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == silence_ms


async def test_an_update_is_merged(sim: Simulator) -> None:
    """Only what an update names changes; objects come back complete, the deadline stays."""
    async with connected(sim) as caller:
        before = await caller.configure()
        hears = {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": "semantic_vad"}}
        after = await caller.configure(instructions="Be brief.", audio={"input": hears})
    assert after["instructions"] == "Be brief."
    assert after["audio"]["input"]["transcription"] == {"model": "whisper-1", "language": None, "prompt": None}
    assert after["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "auto",
        "create_response": True,
        "interrupt_response": True,
    }
    assert after["audio"]["output"] == before["audio"]["output"]
    assert after["expires_at"] == before["expires_at"]


async def test_null_does_not_take_a_part_of_the_session_away(sim: Simulator) -> None:
    """Null for an object that every session has changes nothing; null for what may be off turns it off."""
    async with connected(sim) as caller:
        before = await caller.configure()
        assert await caller.configure(audio=None) == before
        assert await caller.configure(audio={"input": None, "output": None}) == before
        assert (await caller.listen(turn_detection=None))["audio"]["input"]["turn_detection"] is None


async def test_empty_instructions_restore_the_default(sim: Simulator) -> None:
    """An empty text is not kept."""
    async with connected(sim) as caller:
        before = await caller.configure()
        await caller.configure(instructions="Be brief.")
        assert (await caller.configure(instructions=""))["instructions"] == before["instructions"]


async def test_the_model_cannot_be_changed(sim: Simulator) -> None:
    """Another model in an update changes nothing."""
    async with connected(sim) as caller:
        assert (await caller.configure(model="gpt-realtime-2.1"))["model"] == "gpt-realtime"


@pytest.mark.parametrize(
    ("patch", "code", "param"),
    [
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "integer_below_min_value", "rate"),
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "invalid_value", "type"),
        ({"audio": {"output": {"speed": 9}}}, "integer_above_max_value", "speed"),
        ({"audio": {"input": {"turn_detection": {"type": "magic"}}}}, "invalid_value", "type"),
        ({"output_modalities": ["smell"]}, "invalid_value", "output_modalities[0]"),
        ({"tools": "all"}, "invalid_type", "tools"),
        ({"max_output_tokens": 5000}, "integer_above_max_value", "max_output_tokens"),
        ({"type": "transcription"}, "invalid_value", "type"),
    ],
)
async def test_a_wrong_update_changes_nothing(sim: Simulator, patch: dict[str, Any], code: str, param: str) -> None:
    """One wrong key drops the whole update, also the keys that were right."""
    async with connected(sim) as caller:
        before = await caller.configure()
        await caller.send("session.update", session={"type": "realtime", "instructions": "New.", **patch})
        error = (await caller.next())["error"]
        assert error["code"] == code
        assert error["param"].endswith(param)
        assert await caller.configure() == before


async def test_the_rate_that_is_too_low_is_named(sim: Simulator) -> None:
    """16 kHz is refused with the least rate."""
    async with connected(sim) as caller:
        rate = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}
        await caller.send("session.update", session={"type": "realtime", **rate})
        error = (await caller.next())["error"]
    assert error["param"] == "session.audio.input.format.rate"
    assert "Expected a value >= 24000" in error["message"]


async def test_the_voice_is_fixed_once_it_was_heard(sim: Simulator) -> None:
    """After the assistant spoke another voice is refused; the same is not."""
    async with connected(sim) as caller:
        await caller.configure(audio={"input": {"turn_detection": None}, "output": {"voice": "ballad"}})
        await caller.append(voice(200))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        await caller.until("rate_limits.updated")
        await caller.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "echo"}}})
        assert (await caller.next())["error"]["code"] == "cannot_update_voice"
        await caller.configure(audio={"output": {"voice": "ballad"}})


async def test_expiry_is_told_and_closes() -> None:
    """At the cap the error session_expired comes, then 1001 with the sentence as its reason."""
    sentence = "Your session hit the maximum duration of 60 minutes."
    async with Simulator(SimulatorOptions(session_seconds=0.05)) as sim, connected(sim) as caller:
        error = (await caller.next())["error"]
        assert (error["code"], error["message"]) == ("session_expired", sentence)
        assert await caller.close_of() == (1001, sentence)


@pytest.mark.parametrize(("scenario", "told"), [("expire-soon", True), ("expire-silent", False)])
async def test_expiry_can_come_early(scenario: str, told: bool) -> None:
    """The two scenarios of expiry end a session early, with and without the error."""
    options = SimulatorOptions(expire_after_seconds=0.05)
    async with Simulator(options) as sim, connected(sim, key=f"sk-sim-{scenario}") as caller:
        if told:
            assert (await caller.next())["error"]["code"] == "session_expired"
        assert (await caller.close_of())[0] == 1001


async def test_pings_come_at_their_interval_and_are_answered() -> None:
    """The server pings with four bytes, and counts the pongs; an idle session is not closed."""
    options = SimulatorOptions(ping_interval_seconds=0.02)
    async with Simulator(options) as sim, connected(sim, autoping=False) as caller:
        for _ in range(3):
            ping = await caller.ws.receive(5)
            assert ping.type == 9
            assert len(ping.data) == 4
            await caller.ws.pong(ping.data)
        await caller.ws.receive(5)  # a fourth ping: by now the third pong was read
        assert sim.connections[0].pongs_received == 3


async def test_missing_pongs_can_cost_the_session() -> None:
    """With drop_without_pong an unanswered ping ends the connection without a CLOSE."""
    options = SimulatorOptions(ping_interval_seconds=0.02, drop_without_pong=True)
    async with Simulator(options) as sim, connected(sim, autoping=False) as caller:
        await sim.connections[0].wait_closed()
        assert (await caller.ws.receive(5)).type == 9
        assert sim.connections[0].close_code is None


async def test_a_client_that_closes_gets_its_code_back(sim: Simulator) -> None:
    """CLOSE is echoed, and its code remembered."""
    async with connected(sim) as caller:
        await caller.ws.close(code=4321)
        assert caller.ws.close_code == 4321
    assert sim.connections[0].close_code == 4321


async def test_a_clients_ping_is_answered(sim: Simulator) -> None:
    """A ping comes back as a pong with its payload."""
    async with connected(sim, autoping=False) as caller:
        await caller.ws.ping(b"hello")
        pong = await caller.ws.receive(5)
    assert (pong.type, pong.data) == (10, b"hello")


async def test_what_was_carried_is_counted(sim: Simulator) -> None:
    """The record has the bytes and messages of both directions, and the types of the client's events."""
    sent = '{"type":"input_audio_buffer.clear"}'
    async with connected(sim, "model=gpt-realtime&extra=1", headers={"X-Extra": "2"}) as caller:
        [record] = sim.connections
        before = (record.bytes_sent, record.messages_sent)
        await caller.ws.send_str(sent)
        cleared = (await caller.ws.receive(5)).data
        assert sim.open_count == 1
    assert (record.bytes_received, record.messages_received) == (len(sent), 1)
    assert (record.bytes_sent - before[0], record.messages_sent - before[1]) == (len(cleared), 1)
    assert record.client_events == ["input_audio_buffer.clear"]
    assert (record.path, record.query["extra"], record.headers["x-extra"]) == ("/v1/realtime", "1", "2")


async def test_records_are_bounded() -> None:
    """Only the newest connections are remembered."""
    async with Simulator(SimulatorOptions(max_records=2)) as sim:
        for number in range(4):
            async with connected(sim, f"model=gpt-realtime&number={number}"):
                pass
        assert [record.query["number"] for record in sim.connections] == ["2", "3"]
