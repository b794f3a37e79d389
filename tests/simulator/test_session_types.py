"""Transcription sessions, sidebands of calls, translation sessions."""

import base64
import hashlib

import aiohttp
import pytest

from service.simulator import Simulator
from tests.support.simulator_client import connect, event_types, silence, speech


async def test_transcription_session_object_has_no_model(sim: Simulator) -> None:
    """The object has only the keys seen on the wire."""
    async with connect(sim, "intent=transcription", read_created=False) as client:
        event = await client.next_event()
    assert list(event["session"]) == ["type", "object", "id", "expires_at", "audio", "include"]
    assert event["session"]["object"] == "realtime.transcription_session"
    assert list(event["session"]["audio"]["input"]["turn_detection"]) == [
        *["type", "threshold", "prefix_padding_ms", "silence_duration_ms"]
    ]


@pytest.mark.parametrize(
    ("model", "usage"),
    [
        ("gpt-realtime-whisper", {"type": "duration", "seconds": 1.63}),
        (
            "gpt-4o-transcribe",
            {
                "type": "tokens",
                "total_tokens": 25,
                "input_tokens": 16,
                "input_token_details": {"text_tokens": 0, "audio_tokens": 16},
                "output_tokens": 9,
            },
        ),
    ],
)
async def test_committed_audio_is_transcribed(sim: Simulator, model: str, usage: dict[str, object]) -> None:
    """The usage is that of the model; no rate_limits.updated follows."""
    async with connect(sim, "intent=transcription") as client:
        audio_input = {"transcription": {"model": model}, "turn_detection": None}
        await client.send("session.update", session={"type": "transcription", "audio": {"input": audio_input}})
        assert (await client.next_event())["type"] == "session.updated"
        await client.append_audio(speech(1_630))
        await client.send("input_audio_buffer.commit")
        events = await client.read_until("conversation.item.input_audio_transcription.completed")
        await client.send("input_audio_buffer.clear")
        assert (await client.next_event())["type"] == "input_audio_buffer.cleared"
    assert event_types(events)[:3] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    deltas = events[3:-1]
    assert "".join(e["delta"] for e in deltas) == events[-1]["transcript"] == "You said something for 1.6 seconds."
    assert events[-1]["usage"] == usage


async def test_transcription_session_detects_turns_without_responses(sim: Simulator) -> None:
    """response.create is refused."""
    async with connect(sim, "intent=transcription") as client:
        await client.append_audio(silence(400) + speech(400) + silence(400))
        assert event_types(await client.read_until("conversation.item.done"))[0] == "input_audio_buffer.speech_started"
        await client.send("response.create")
        assert (await client.next_event())["type"] == "error"


async def test_transcription_with_model_in_url_is_refused_at_update(sim: Simulator) -> None:
    """session.created is sent before; the close code is 4000."""
    async with connect(sim, "intent=transcription&model=gpt-4o-transcribe") as client:
        await client.send("session.update", session={"type": "transcription"})
        error = (await client.next_event())["error"]
        assert error["message"] == 'Model "gpt-4o-transcribe" is not supported in transcription mode.'
        assert await client.read_close() == (4000, "invalid_request_error.invalid_model")


async def test_conversation_transcribes_user_audio(sim: Simulator) -> None:
    """The transcription does not change the response."""
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None, transcription={"model": "whisper-1"})
        await client.append_audio(speech(500))
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        events = await client.read_until("rate_limits.updated")
    assert "conversation.item.input_audio_transcription.completed" in event_types(events)
    assert event_types(events).count("response.output_audio.delta") == 2


async def test_unknown_call_id_is_404(sim: Simulator) -> None:
    """The upgrade request is refused without a body."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as raised:
        async with connect(sim, "call_id=rtc_unknown", read_created=False):
            pass
    assert raised.value.status == 404
    assert raised.value.headers is not None
    assert raised.value.headers["Content-Length"] == "0"


async def test_sideband_sends_playback_events_instead_of_audio(sim: Simulator) -> None:
    """It sends no session.created; the first event answers session.update."""
    async with connect(sim, "call_id=rtc_known", read_created=False) as client:
        await client.send("session.update", session={"type": "realtime"})
        assert (await client.next_event())["type"] == "session.updated"
        await client.send("response.create")
        events = await client.read_until("output_audio_buffer.stopped")
    types = event_types(events)
    assert "response.output_audio.delta" not in types
    assert types.index("output_audio_buffer.started") < types.index("response.done")
    assert types[-3:] == ["response.done", "rate_limits.updated", "output_audio_buffer.stopped"]
    assert len(events[-1]["event_id"]) == len("event_") + 16


async def test_translation_returns_audio_in_200_ms_frames(sim: Simulator) -> None:
    """session.close flushes the rest, then session.closed and close code 1000 follow."""
    audio = speech(1_090)
    async with connect(sim, "model=gpt-realtime-translate", path="/realtime/translations") as client:
        await client.send("session.update", session={"audio": {"output": {"language": "fr"}}})
        assert (await client.next_event())["session"]["audio"]["output"] == {"language": "fr"}
        for at in range(0, len(audio), 9_600):
            encoded = base64.b64encode(audio[at : at + 9_600]).decode()
            await client.send("session.input_audio_buffer.append", audio=encoded)
        await client.send("session.close")
        events = await client.read_until("session.closed")
        assert (await client.read_close())[0] == 1000
    deltas = [e for e in events if e["type"] == "session.output_audio.delta"]
    assert b"".join(base64.b64decode(e["delta"]) for e in deltas) == audio
    assert [e["elapsed_ms"] for e in deltas] == [200, 400, 600, 800, 1000, 1090]
    assert (deltas[0]["channels"], deltas[0]["format"], deltas[0]["sample_rate"]) == (1, "pcm16", 24000)
    assert "session.output_transcript.delta" in event_types(events)
    assert sim.connections[0].audio_out_sha256 == hashlib.sha256(audio).hexdigest()


async def test_translation_refuses_conversation_events_and_settings(sim: Simulator) -> None:
    """response.create and `instructions` are errors."""
    async with connect(sim, "model=gpt-realtime-translate", path="/realtime/translations") as client:
        await client.send("response.create")
        assert (await client.next_event())["error"]["code"] == "invalid_value"
        await client.send("session.update", session={"instructions": "x"})
        assert (await client.next_event())["error"]["code"] == "unknown_parameter"


async def test_translation_refuses_conversation_model(sim: Simulator) -> None:
    """The error code is invalid_model."""
    async with connect(sim, path="/realtime/translations", read_created=False) as client:
        assert (await client.next_event())["error"]["code"] == "invalid_model"
