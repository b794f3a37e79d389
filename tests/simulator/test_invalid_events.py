"""Errors for invalid client events; none of them ends the session."""

import base64
from typing import Any

import pytest

from service.simulator import Simulator, SimulatorOptions
from tests.support.simulator_client import connect, silence

# event, code, param, substring of the message
INVALID_EVENTS: list[tuple[dict[str, Any], str, str | None, str]] = [
    (
        {"type": "no.such"},
        "invalid_value",
        "type",
        "Invalid value: 'no.such'. Supported values are: 'session.update', ",
    ),
    ({"type": "transcription_session.update"}, "invalid_value", "type", "'response.create', and 'response.cancel'."),
    ({"type": "output_audio_buffer.clear"}, "invalid_value", "type", "Invalid value"),
    ({"no": "type"}, "missing_required_parameter", "type", "'type'"),
    ({"type": "session.update"}, "missing_required_parameter", "session", "'session'"),
    ({"type": "session.update", "session": {}}, "missing_required_parameter", "session.type", "'session.type'"),
    (
        {"type": "session.update", "session": {"type": "realtime", "voice": "alloy"}},
        "unknown_parameter",
        "session.voice",
        "Unknown parameter: 'session.voice'.",
    ),
    ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio", "'audio'"),
    ({"type": "input_audio_buffer.append", "audio": "no base64!"}, "invalid_value", "audio", "base64"),
    ({"type": "input_audio_buffer.append", "audio": 7}, "invalid_type", "audio", "got an integer"),
    (
        {"type": "input_audio_buffer.commit"},
        "input_audio_buffer_commit_empty",
        None,
        "Expected at least 100ms of audio, but buffer only has 0.00ms of audio.",
    ),
    (
        {"type": "response.create", "response": {"metadata": {"a": "x" * 513}}},
        *("string_above_max_length", "response.metadata.a", "maximum length 512"),
    ),
    (
        {"type": "response.create", "response": {"metadata": {"a": 1}}},
        "invalid_type",
        "response.metadata.a",
        "a string",
    ),
    ({"type": "response.cancel"}, "response_cancel_not_active", None, "no active response found"),
    ({"type": "response.create", "response": {"modalities": []}}, "unknown_parameter", "response.modalities", "Unkn"),
    (
        {"type": "session.update", "session": {"type": "realtime", "tools": [{"type": "function"}]}},
        "missing_required_parameter",
        "session.tools[0].name",
        "name",
    ),
    ({"type": "conversation.item.create", "item": {"type": "message", "id": 7}}, "invalid_type", "item.id", "integer"),
    ({"type": "conversation.item.create"}, "missing_required_parameter", "item", "'item'"),
    ({"type": "conversation.item.create", "item": {"type": "poem"}}, "invalid_value", "item.type", "'poem'"),
    ({"type": "conversation.item.retrieve"}, "missing_required_parameter", "item_id", "'item_id'"),
    (
        {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": ["x"]}},
        "invalid_type",
        "item.content[0]",
        "got a string",
    ),
]


@pytest.mark.parametrize(("event", "code", "param", "message"), INVALID_EVENTS)
async def test_invalid_event_gets_error_and_session_continues(
    sim: Simulator, event: dict[str, Any], code: str, param: str | None, message: str
) -> None:
    """The error has the provider's code, param and message; the next turn works."""
    async with connect(sim) as client:
        await client.ws.send_json({"event_id": "mine", **event})
        error = (await client.next_event())["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
        assert message in error["message"]
        assert error["event_id"] == "mine"
        assert (await client.run_text_turn("Still there?"))[-1]["type"] == "rate_limits.updated"


@pytest.mark.parametrize("text", ["{not json", "", "[" * 100_000])
async def test_invalid_json_gets_error_and_session_continues(sim: Simulator, text: str) -> None:
    """The code is invalid_json for syntax errors, empty text and excessive nesting."""
    async with connect(sim) as client:
        await client.ws.send_str(text)
        error = (await client.next_event())["error"]
        assert error["code"] == "invalid_json"
        assert error["message"].startswith("Invalid event: failed to parse JSON value.")
        await client.update_session()


async def test_lone_surrogate_is_echoed(sim: Simulator) -> None:
    """A lone surrogate is valid in JSON as an escape but not in UTF-8."""
    async with connect(sim) as client:
        events = await client.run_text_turn("\ud83d")
    assert next(e for e in events if e["type"] == "response.output_text.done")["text"] == "\ud83d"


async def test_binary_message_gets_error_and_session_continues(sim: Simulator) -> None:
    """The code is invalid_event."""
    async with connect(sim) as client:
        await client.ws.send_bytes(b"\0" * 100)
        error = (await client.next_event())["error"]
        await client.update_session()
    assert error["code"] == "invalid_event"
    assert error["message"] == "Expected a text WebSocket message; binary frames are not supported."


async def test_commit_below_100_ms_is_refused_with_duration(sim: Simulator) -> None:
    """The audio stays in the buffer."""
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        await client.append_audio(silence(60))
        await client.send("input_audio_buffer.commit")
        assert "only has 60.00ms of audio" in (await client.next_event())["error"]["message"]
        await client.append_audio(silence(40))
        await client.send("input_audio_buffer.commit")
        assert (await client.next_event())["type"] == "input_audio_buffer.committed"


async def test_buffer_clear_discards_appended_audio(sim: Simulator) -> None:
    """A commit after it is refused as empty."""
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        await client.append_audio(silence(500))
        await client.send("input_audio_buffer.clear")
        assert (await client.next_event())["type"] == "input_audio_buffer.cleared"
        await client.send("input_audio_buffer.commit")
        assert (await client.next_event())["error"]["code"] == "input_audio_buffer_commit_empty"


async def test_error_has_no_client_event_id_without_echo_event_id() -> None:
    """Nor does it if the client's event had none."""
    async with Simulator(SimulatorOptions(echo_event_id=False)) as sim, connect(sim) as client:
        await client.send("no.such", event_id="mine")
        assert (await client.next_event())["error"]["event_id"] is None
    async with Simulator() as sim, connect(sim) as client:
        await client.send("no.such")
        assert (await client.next_event())["error"]["event_id"] is None


async def test_append_above_15_mib_is_refused(sim: Simulator) -> None:
    """An append of 14 MiB of base64 is accepted, and the session continues after the error."""
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        audio = bytes(14 * 1024 * 1024 * 3 // 4)
        await client.append_audio(audio, chunk=len(audio))
        await client.append_audio(bytes(12 * 1024 * 1024), chunk=12 * 1024 * 1024)
        error = (await client.next_event())["error"]
        assert (error["code"], error["param"]) == ("string_above_max_length", "audio")
        await client.send("input_audio_buffer.commit")
        assert (await client.next_event())["type"] == "input_audio_buffer.committed"
    assert sim.connections[0].bytes_received > 29 * 1024 * 1024


async def test_audio_split_within_samples_is_reassembled(sim: Simulator) -> None:
    """The chunks have an odd number of bytes."""
    audio = bytes(range(256)) * 40
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        await client.append_audio(audio, chunk=333)
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        events = await client.read_until("response.done")
    deltas = [e["delta"] for e in events if e["type"] == "response.output_audio.delta"]
    assert b"".join(map(base64.b64decode, deltas)) == audio
