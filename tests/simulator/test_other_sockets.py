"""Transcription, the sideband of a call, translation."""

import base64
import hashlib

import aiohttp
import pytest

from service.simulator import Simulator
from tests.support.simulator_client import connected, kinds, silence, voice


async def test_a_transcription_session_says_so(sim: Simulator) -> None:
    """Its object is the short one of the wire, without a model."""
    async with connected(sim, "intent=transcription", greeted=False) as caller:
        event = await caller.next()
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
async def test_audio_is_written_down(sim: Simulator, model: str, usage: dict[str, object]) -> None:
    """A commit gives deltas and a completed transcript with the usage of its model, and never rate limits."""
    async with connected(sim, "intent=transcription") as caller:
        hears = {"transcription": {"model": model}, "turn_detection": None}
        await caller.send("session.update", session={"type": "transcription", "audio": {"input": hears}})
        assert (await caller.next())["type"] == "session.updated"
        await caller.append(voice(1_630))
        await caller.send("input_audio_buffer.commit")
        events = await caller.until("conversation.item.input_audio_transcription.completed")
        await caller.send("input_audio_buffer.clear")
        assert (await caller.next())["type"] == "input_audio_buffer.cleared"
    assert kinds(events)[:3] == ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
    deltas = events[3:-1]
    assert "".join(e["delta"] for e in deltas) == events[-1]["transcript"] == "You said something for 1.6 seconds."
    assert events[-1]["usage"] == usage


async def test_a_transcription_finds_turns_and_answers_none(sim: Simulator) -> None:
    """Speech is found and committed as in a conversation; no response follows, and none can be asked for."""
    async with connected(sim, "intent=transcription") as caller:
        await caller.append(silence(400) + voice(400) + silence(400))
        assert kinds(await caller.until("conversation.item.done"))[0] == "input_audio_buffer.speech_started"
        await caller.send("response.create")
        assert (await caller.next())["type"] == "error"


async def test_a_transcription_with_a_model_in_its_address_is_refused_late(sim: Simulator) -> None:
    """The session opens; after the update it is closed with 4000."""
    async with connected(sim, "intent=transcription&model=gpt-4o-transcribe") as caller:
        await caller.send("session.update", session={"type": "transcription"})
        error = (await caller.next())["error"]
        assert error["message"] == 'Model "gpt-4o-transcribe" is not supported in transcription mode.'
        assert await caller.close_of() == (4000, "invalid_request_error.invalid_model")


async def test_a_conversation_can_write_down_the_user(sim: Simulator) -> None:
    """With transcription on, the user's words come beside the answer, which is complete."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None, transcription={"model": "whisper-1"})
        await caller.append(voice(500))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        events = await caller.until("rate_limits.updated")
    assert "conversation.item.input_audio_transcription.completed" in kinds(events)
    assert kinds(events).count("response.output_audio.delta") == 2


async def test_an_unknown_call_is_not_found(sim: Simulator) -> None:
    """A call that does not exist is 404 without a body, at the upgrade."""
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        async with connected(sim, "call_id=rtc_unknown", greeted=False):
            pass
    assert refused.value.status == 404
    assert refused.value.headers is not None
    assert refused.value.headers["Content-Length"] == "0"


async def test_a_sideband_speaks_when_spoken_to(sim: Simulator) -> None:
    """The first event on a call's sideband is session.updated; answers there have no audio but tell of playback."""
    async with connected(sim, "call_id=rtc_known", greeted=False) as caller:
        await caller.send("session.update", session={"type": "realtime"})
        assert (await caller.next())["type"] == "session.updated"
        await caller.send("response.create")
        events = await caller.until("output_audio_buffer.stopped")
    names = kinds(events)
    assert "response.output_audio.delta" not in names
    assert names.index("output_audio_buffer.started") < names.index("response.done")
    assert names[-3:] == ["response.done", "rate_limits.updated", "output_audio_buffer.stopped"]
    assert len(events[-1]["event_id"]) == len("event_") + 16


async def test_a_translation_parrots(sim: Simulator) -> None:
    """Every 200 ms come back with their place in time; closing sends the rest, then session.closed, then 1000."""
    audio = voice(1_090)
    async with connected(sim, "model=gpt-realtime-translate", path="/realtime/translations") as caller:
        await caller.send("session.update", session={"audio": {"output": {"language": "fr"}}})
        assert (await caller.next())["session"]["audio"]["output"] == {"language": "fr"}
        for at in range(0, len(audio), 9_600):
            encoded = base64.b64encode(audio[at : at + 9_600]).decode()
            await caller.send("session.input_audio_buffer.append", audio=encoded)
        await caller.send("session.close")
        events = await caller.until("session.closed")
        assert (await caller.close_of())[0] == 1000
    deltas = [e for e in events if e["type"] == "session.output_audio.delta"]
    assert b"".join(base64.b64decode(e["delta"]) for e in deltas) == audio
    assert [e["elapsed_ms"] for e in deltas] == [200, 400, 600, 800, 1000, 1090]
    assert (deltas[0]["channels"], deltas[0]["format"], deltas[0]["sample_rate"]) == (1, "pcm16", 24000)
    assert "session.output_transcript.delta" in kinds(events)
    assert sim.connections[0].audio_out_sha256 == hashlib.sha256(audio).hexdigest()


async def test_a_translation_refuses_what_is_not_its_own(sim: Simulator) -> None:
    """Events of a conversation are mistakes there, and its settings are few."""
    async with connected(sim, "model=gpt-realtime-translate", path="/realtime/translations") as caller:
        await caller.send("response.create")
        assert (await caller.next())["error"]["code"] == "invalid_value"
        await caller.send("session.update", session={"instructions": "x"})
        assert (await caller.next())["error"]["code"] == "unknown_parameter"


async def test_a_translation_needs_its_own_model(sim: Simulator) -> None:
    """A model of conversations cannot translate."""
    async with connected(sim, path="/realtime/translations", greeted=False) as caller:
        assert (await caller.next())["error"]["code"] == "invalid_model"
