"""The client's mistakes: which error each of them is, and that none of them ends the session."""

import base64
from typing import Any

import pytest

from service.simulator import Simulator, SimulatorOptions
from tests.support.simulator_client import connected, silence

# event, code, param, a piece of the message
MISTAKES: list[tuple[dict[str, Any], str, str | None, str]] = [
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


@pytest.mark.parametrize(("event", "code", "param", "message"), MISTAKES)
async def test_a_mistake_is_told_and_forgiven(
    sim: Simulator, event: dict[str, Any], code: str, param: str | None, message: str
) -> None:
    """The error has the provider's code, param and sentence; the next turn works."""
    async with connected(sim) as caller:
        await caller.ws.send_json({"event_id": "mine", **event})
        error = (await caller.next())["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
        assert message in error["message"]
        assert error["event_id"] is None
        assert (await caller.say("Still there?"))[-1]["type"] == "rate_limits.updated"


@pytest.mark.parametrize("text", ["{not json", "", "[" * 100_000])
async def test_what_is_no_json_is_told_and_forgiven(sim: Simulator, text: str) -> None:
    """Text that cannot be parsed is invalid_json, however it is broken."""
    async with connected(sim) as caller:
        await caller.ws.send_str(text)
        error = (await caller.next())["error"]
        assert error["code"] == "invalid_json"
        assert error["message"].startswith("Invalid event: failed to parse JSON value.")
        await caller.configure()


async def test_half_a_character_is_echoed_as_it_came(sim: Simulator) -> None:
    """Text with a lone surrogate, which is JSON but not UTF-8, does not end the session."""
    async with connected(sim) as caller:
        events = await caller.say("\ud83d")
    assert next(e for e in events if e["type"] == "response.output_text.done")["text"] == "\ud83d"


async def test_a_binary_message_is_told_and_forgiven(sim: Simulator) -> None:
    """A binary message is invalid_event."""
    async with connected(sim) as caller:
        await caller.ws.send_bytes(b"\0" * 100)
        error = (await caller.next())["error"]
        await caller.configure()
    assert error["code"] == "invalid_event"
    assert error["message"] == "Expected a text WebSocket message; binary frames are not supported."


async def test_a_short_commit_says_how_much_there_is(sim: Simulator) -> None:
    """Less than 100 ms is refused with its length, and stays in the buffer."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(silence(60))
        await caller.send("input_audio_buffer.commit")
        assert "only has 60.00ms of audio" in (await caller.next())["error"]["message"]
        await caller.append(silence(40))
        await caller.send("input_audio_buffer.commit")
        assert (await caller.next())["type"] == "input_audio_buffer.committed"


async def test_a_cleared_buffer_is_empty(sim: Simulator) -> None:
    """input_audio_buffer.clear throws away what was appended."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(silence(500))
        await caller.send("input_audio_buffer.clear")
        assert (await caller.next())["type"] == "input_audio_buffer.cleared"
        await caller.send("input_audio_buffer.commit")
        assert (await caller.next())["error"]["code"] == "input_audio_buffer_commit_empty"


async def test_the_clients_event_is_named_where_azure_does() -> None:
    """With echo_event_id an error names the event that caused it."""
    async with Simulator(SimulatorOptions(echo_event_id=True)) as sim, connected(sim) as caller:
        await caller.send("no.such", event_id="mine")
        assert (await caller.next())["error"]["event_id"] == "mine"


async def test_a_large_append_is_taken_and_a_larger_one_refused(sim: Simulator) -> None:
    """14 MiB of base64 are heard; more than 15 MiB are an error, and the session goes on."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        audio = bytes(14 * 1024 * 1024 * 3 // 4)
        await caller.append(audio, chunk=len(audio))
        await caller.append(bytes(12 * 1024 * 1024), chunk=12 * 1024 * 1024)
        error = (await caller.next())["error"]
        assert (error["code"], error["param"]) == ("string_above_max_length", "audio")
        await caller.send("input_audio_buffer.commit")
        assert (await caller.next())["type"] == "input_audio_buffer.committed"
    assert sim.connections[0].bytes_received > 29 * 1024 * 1024


async def test_audio_is_not_lost_to_odd_pieces(sim: Simulator) -> None:
    """Audio cut in the middle of samples is put together again."""
    audio = bytes(range(256)) * 40
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(audio, chunk=333)
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        events = await caller.until("response.done")
    deltas = [e["delta"] for e in events if e["type"] == "response.output_audio.delta"]
    assert b"".join(map(base64.b64decode, deltas)) == audio
