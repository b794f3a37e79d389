"""The session object, its updates, and the life of a connection."""

import time
from typing import Any

import pytest

from service.simulator import Behaviour, Simulator, SimulatorOptions
from tests.support.simulator_client import connect, speech


async def test_session_created_has_provider_keys_in_order(sim: Simulator) -> None:
    """The session expires after an hour."""
    async with connect(sim, read_created=False) as client:
        session = (await client.next_event())["session"]
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
    assert abs(session["expires_at"] - time.time() - 3600) < 60
    assert sim.connections[0].session_id == session["id"]


@pytest.mark.parametrize(
    ("model", "voice_name", "silence_ms"),
    [("gpt-realtime", "alloy", 200), ("gpt-realtime-mini", "alloy", 200), ("gpt-realtime-2.1", "marin", 500)],
)
async def test_session_defaults_depend_on_model(sim: Simulator, model: str, voice_name: str, silence_ms: int) -> None:
    """Voice and silence duration differ by model generation."""
    async with connect(sim, f"model={model}", read_created=False) as client:
        session = (await client.next_event())["session"]
    assert session["model"] == model
    assert session["audio"]["output"]["voice"] == voice_name
    assert session["audio"]["input"]["turn_detection"]["silence_duration_ms"] == silence_ms


async def test_session_update_is_merged(sim: Simulator) -> None:
    """The updated objects are complete, and expires_at does not change."""
    async with connect(sim) as client:
        before = await client.update_session()
        audio_input = {"transcription": {"model": "whisper-1"}, "turn_detection": {"type": "semantic_vad"}}
        after = await client.update_session(instructions="Be brief.", audio={"input": audio_input})
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


async def test_null_does_not_remove_required_objects(sim: Simulator) -> None:
    """Null turns off an optional object such as turn_detection."""
    async with connect(sim) as client:
        before = await client.update_session()
        assert await client.update_session(audio=None) == before
        assert await client.update_session(audio={"input": None, "output": None}) == before
        assert (await client.update_audio_input(turn_detection=None))["audio"]["input"]["turn_detection"] is None


async def test_empty_instructions_restore_default(sim: Simulator) -> None:
    """An update cannot leave the session without instructions."""
    async with connect(sim) as client:
        before = await client.update_session()
        await client.update_session(instructions="Be brief.")
        assert (await client.update_session(instructions=""))["instructions"] == before["instructions"]


async def test_model_in_update_is_ignored_or_refused(sim: Simulator) -> None:
    """It cannot change; whether the provider says so is not known. The same model is accepted."""
    async with connect(sim) as client:
        assert (await client.update_session(model="gpt-realtime-2.1"))["model"] == "gpt-realtime"
    sim.set_dials(Behaviour(refuses_other_model=True))
    async with connect(sim) as client:
        assert (await client.update_session(model="gpt-realtime"))["model"] == "gpt-realtime"
        await client.send("session.update", session={"type": "realtime", "model": "gpt-realtime-2.1"})
        error = (await client.read_until("error"))[-1]["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "session.model")


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
        ({"output_modalities": ["text", "audio"]}, "invalid_value", "output_modalities"),
        ({"output_modalities": []}, "invalid_value", "output_modalities"),
        ({"audio": {"output": {"voice": "parrot"}}}, "invalid_value", "voice"),
        ({"tool_choice": "always"}, "invalid_value", "tool_choice"),
        ({"truncation": "never"}, "invalid_value", "truncation"),
        ({"tracing": "on"}, "invalid_value", "tracing"),
        *[({name: "mine"}, "unknown_parameter", name) for name in ("id", "object", "expires_at", "voice")],
        ({"audio": {"input": {"turn_detection": {"type": "server_vad", "magic": 1}}}}, "unknown_parameter", "magic"),
        ({"tools": [{"type": "function", "name": "f", "strict": True}]}, "unknown_parameter", "tools[0].strict"),
        ({"tools": [{"type": "mcp"}]}, "missing_required_parameter", "tools[0].server_label"),
    ],
)
async def test_invalid_update_changes_nothing(sim: Simulator, patch: dict[str, Any], code: str, param: str) -> None:
    """One invalid key refuses the whole update, including its valid keys."""
    async with connect(sim) as client:
        before = await client.update_session()
        await client.send("session.update", session={"type": "realtime", "instructions": "New.", **patch})
        error = (await client.next_event())["error"]
        assert error["code"] == code
        assert error["param"].endswith(param)
        assert await client.update_session() == before


async def test_pcm_rate_below_minimum_is_refused(sim: Simulator) -> None:
    """The error names the key and the minimum rate."""
    async with connect(sim) as client:
        rate = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}
        await client.send("session.update", session={"type": "realtime", **rate})
        error = (await client.next_event())["error"]
    assert error["param"] == "session.audio.input.format.rate"
    assert "Expected a value >= 24000" in error["message"]


async def test_voice_cannot_change_after_assistant_audio(sim: Simulator) -> None:
    """An update with the same voice is accepted."""
    async with connect(sim) as client:
        await client.update_session(audio={"input": {"turn_detection": None}, "output": {"voice": "ballad"}})
        await client.append_audio(speech(200))
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        await client.read_until("rate_limits.updated")
        await client.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "echo"}}})
        assert (await client.next_event())["error"]["code"] == "cannot_update_voice"
        await client.update_session(audio={"output": {"voice": "ballad"}})


async def test_tracing_is_fixed_once_it_is_on(sim: Simulator) -> None:
    """The same configuration is accepted again; null and another one are not."""
    async with connect(sim) as client:
        assert (await client.update_session(tracing=None))["tracing"] is None
        before = await client.update_session(tracing="auto")
        assert await client.update_session(tracing="auto") == before
        for tracing in (None, {"workflow_name": "mine"}):
            await client.send("session.update", session={"type": "realtime", "tracing": tracing, "instructions": "x"})
            error = (await client.next_event())["error"]
            assert (error["code"], error["param"]) == ("invalid_value", "session.tracing")
        assert await client.update_session() == before


async def test_speed_changes_only_between_responses() -> None:
    """Other keys change during a response."""
    async with Simulator(SimulatorOptions(pace=0.5)) as sim, connect(sim) as client:
        await client.speak(2_000, "response.output_audio.delta")
        await client.send("session.update", session={"type": "realtime", "audio": {"output": {"speed": 1.2}}})
        error = (await client.read_until("error"))[-1]["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "session.audio.output.speed")
        await client.update_session(instructions="Be brief.")
        await client.send("response.cancel")
        await client.read_until("rate_limits.updated")
        assert (await client.update_session(audio={"output": {"speed": 1.2}}))["audio"]["output"]["speed"] == 1.2


async def test_expired_session_sends_error_and_closes_1001() -> None:
    """The close reason is the message of session_expired."""
    sentence = "Your session hit the maximum duration of 60 minutes."
    async with Simulator(SimulatorOptions(session_seconds=0.05)) as sim, connect(sim) as client:
        error = (await client.next_event())["error"]
        assert (error["code"], error["message"]) == ("session_expired", sentence)
        assert await client.read_close() == (1001, sentence)


@pytest.mark.parametrize(("scenario", "has_error"), [("expire-soon", True), ("expire-silent", False)])
async def test_expiry_scenarios_end_session_early(scenario: str, has_error: bool) -> None:
    """expire-silent sends no error event."""
    options = SimulatorOptions(expire_after_seconds=0.05)
    async with Simulator(options) as sim, connect(sim, key=f"sk-sim-{scenario}") as client:
        if has_error:
            assert (await client.next_event())["error"]["code"] == "session_expired"
        assert (await client.read_close())[0] == 1001


async def test_server_sends_pings_and_counts_pongs() -> None:
    """Pings have a payload of four bytes and do not end an idle session."""
    options = SimulatorOptions(ping_interval_seconds=0.02)
    async with Simulator(options) as sim, connect(sim, autoping=False) as client:
        for _ in range(3):
            ping = await client.ws.receive(5)
            assert ping.type == 9
            assert len(ping.data) == 4
            await client.ws.pong(ping.data)
        await client.ws.receive(5)  # a fourth ping: by now the third pong was read
        assert sim.connections[0].pongs_received == 3


async def test_drop_without_pong_aborts_connection() -> None:
    """The connection ends without a close frame."""
    options = SimulatorOptions(ping_interval_seconds=0.02, drop_without_pong=True)
    async with Simulator(options) as sim, connect(sim, autoping=False) as client:
        await sim.connections[0].wait_closed()
        assert (await client.ws.receive(5)).type == 9
        assert sim.connections[0].close_code is None


async def test_client_close_code_is_echoed_and_recorded(sim: Simulator) -> None:
    """The code is an application code, 4321."""
    async with connect(sim) as client:
        await client.ws.close(code=4321)
        assert client.ws.close_code == 4321
    assert sim.connections[0].close_code == 4321


async def test_client_ping_gets_pong_with_same_payload(sim: Simulator) -> None:
    """RFC 6455 section 5.5.3."""
    async with connect(sim, autoping=False) as client:
        await client.ws.ping(b"hello")
        pong = await client.ws.receive(5)
    assert (pong.type, pong.data) == (10, b"hello")


async def test_record_counts_bytes_messages_and_events(sim: Simulator) -> None:
    """It also has path, query and headers of the request."""
    sent = '{"type":"input_audio_buffer.clear"}'
    async with connect(sim, "model=gpt-realtime&extra=1", headers={"X-Extra": "2"}) as client:
        [record] = sim.connections
        before = (record.bytes_sent, record.messages_sent)
        await client.ws.send_str(sent)
        cleared = (await client.ws.receive(5)).data
        assert sim.open_count == 1
    assert (record.bytes_received, record.messages_received) == (len(sent), 1)
    assert (record.bytes_sent - before[0], record.messages_sent - before[1]) == (len(cleared), 1)
    assert record.client_events == ["input_audio_buffer.clear"]
    assert (record.path, record.query["extra"], record.headers["x-extra"]) == ("/v1/realtime", "1", "2")


async def test_connection_records_are_bounded() -> None:
    """The oldest records are deleted."""
    async with Simulator(SimulatorOptions(max_records=2)) as sim:
        for number in range(4):
            async with connect(sim, f"model=gpt-realtime&number={number}"):
                pass
        assert [record.query["number"] for record in sim.connections] == ["2", "3"]
