"""Responses with audio: echo, turn detection, interruptions, cancellation, pacing."""

import base64
import hashlib
import random
import time

import pytest

from service.simulator import Simulator, SimulatorOptions
from tests.support.harness import taking_less_than
from tests.support.simulator_client import RealtimeClient, connect, event_types, output_audio, silence, speech


async def _echo(client: RealtimeClient, audio: bytes) -> bytes:
    await client.append_audio(audio)
    await client.send("input_audio_buffer.commit")
    await client.send("response.create")
    return output_audio(await client.read_until("response.done"))


async def test_response_audio_is_committed_audio_byte_for_byte(sim: Simulator) -> None:
    """Both digests of the record match the audio that was sent and received."""
    audio = random.Random(7).randbytes(1_234 * 48 + 1)
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        assert await _echo(client, audio) == audio
    [record] = sim.connections
    assert record.audio_in_sha256 == record.audio_out_sha256 == hashlib.sha256(audio).hexdigest()


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
async def test_g711_audio_is_returned_unchanged(sim: Simulator, name: str) -> None:
    """8,000 bytes of G.711 are one second: 10 input tokens and 20 output tokens."""
    audio = random.Random(8).randbytes(8_000)
    async with connect(sim) as client:
        formats = {"input": {"format": {"type": name}, "turn_detection": None}, "output": {"format": {"type": name}}}
        session = await client.update_session(audio=formats)
        assert session["audio"]["input"]["format"] == {"type": name}
        await client.append_audio(audio)
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        events = await client.read_until("response.done")
    assert output_audio(events) == audio
    assert events[-1]["response"]["usage"]["input_token_details"]["audio_tokens"] == 10
    assert events[-1]["response"]["usage"]["output_token_details"]["audio_tokens"] == 20


async def test_audio_response_events_follow_provider_order(sim: Simulator) -> None:
    """Four transcript deltas precede the audio, which follows in deltas of 250 ms; the done events come last."""
    async with connect(sim) as client:
        events = await client.speak(1_000, "rate_limits.updated")
    types = [name.removeprefix("response.").removeprefix("output_") for name in event_types(events)]
    assert types[:7] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "created",
        "item.added",
        "conversation.item.added",
        "content_part.added",
    ]
    assert types[7:11] == ["audio_transcript.delta"] * 4
    assert types.count("audio.delta") == 4
    assert types[-8:] == [
        "audio.delta",
        "audio.done",
        "audio_transcript.done",
        "content_part.done",
        "conversation.item.done",
        "item.done",
        "done",
        "rate_limits.updated",
    ]
    deltas = [e for e in events if e["type"] == "response.output_audio.delta"]
    assert {len(base64.b64decode(e["delta"])) for e in deltas} == {12_000}
    assert not any("obfuscation" in e for e in deltas)
    transcript = next(e for e in events if e["type"] == "response.output_audio_transcript.done")["transcript"]
    assert transcript == "You said something for 1.0 seconds."


async def test_usage_is_proportional_to_audio_duration(sim: Simulator) -> None:
    """2.8 seconds are 28 input tokens and 56 output tokens."""
    async with connect(sim) as client:
        usage = (await client.speak(2_800, "response.done"))[-1]["response"]["usage"]
    assert usage["input_token_details"]["audio_tokens"] == 28
    assert usage["output_token_details"]["audio_tokens"] == 56


async def test_audio_response_to_text_is_a_tone(sim: Simulator) -> None:
    """The transcript is the user's text."""
    async with connect(sim) as client:
        content = [{"type": "input_text", "text": "Speak"}]
        await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await client.send("response.create")
        events = await client.read_until("response.done")
    assert len(output_audio(events)) == 24_000
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "output_audio", "transcript": "Speak"}]


async def test_audio_of_created_item_is_returned(sim: Simulator) -> None:
    """Audio in conversation.item.create counts like committed audio, and the item's events do not contain it."""
    audio = speech(300)
    content = [{"type": "input_audio", "audio": base64.b64encode(audio).decode()}]
    async with connect(sim) as client:
        await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        added = await client.next_event()
        await client.send("response.create")
        assert output_audio(await client.read_until("response.done")) == audio
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]


async def test_turn_detection_commits_padded_speech_and_responds(sim: Simulator) -> None:
    """The event times include the padding, and the response audio is exactly the padded speech."""
    audio = silence(1_000) + speech(600) + silence(1_000)
    async with connect(sim) as client:
        await client.append_audio(audio)
        events = await client.read_until("response.done")
    assert event_types(events)[:6] == [
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
    ]
    started, stopped, committed = events[:3]
    assert started["audio_start_ms"] == 700
    assert stopped["audio_end_ms"] == 1_800
    assert started["item_id"] == stopped["item_id"] == committed["item_id"] == events[3]["item"]["id"]
    assert output_audio(events) == audio[700 * 48 : 1_800 * 48]


async def test_turn_detection_without_create_response_only_commits(sim: Simulator) -> None:
    """After the commit there is no active response to cancel."""
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection={"type": "server_vad", "create_response": False})
        await client.append_audio(silence(400) + speech(400) + silence(400))
        await client.read_until("conversation.item.done")
        await client.send("response.cancel")
        error = await client.next_event()
    assert error["error"]["code"] == "response_cancel_not_active"


async def test_speech_cancels_active_response() -> None:
    """The status is cancelled (turn_detected), the item is incomplete, and the new turn gets a response."""
    async with Simulator(SimulatorOptions(pace=2)) as sim, connect(sim) as client:
        await client.append_audio(speech(3_000) + silence(300))
        await client.read_until("response.output_audio.delta")
        await client.append_audio(speech(200) + silence(300))
        events = await client.read_until("response.done")
        assert "input_audio_buffer.speech_started" in event_types(events)
        response = events[-1]["response"]
        assert response["status"] == "cancelled"
        assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert response["output"][0]["status"] == "incomplete"
        assert (await client.read_until("response.done"))[-1]["response"]["status"] == "completed"


async def test_speech_does_not_cancel_response_without_interrupt_response() -> None:
    """The active response completes first, then the new turn gets its own."""
    async with Simulator(SimulatorOptions(pace=20)) as sim, connect(sim) as client:
        await client.update_audio_input(turn_detection={"type": "server_vad", "interrupt_response": False})
        await client.append_audio(speech(2_000) + silence(300))
        await client.read_until("response.output_audio.delta")
        await client.append_audio(speech(200) + silence(300))
        statuses = [(await client.read_until("response.done"))[-1]["response"]["status"] for _ in range(2)]
    assert statuses == ["completed", "completed"]


async def test_response_cancel_ends_response_as_client_cancelled() -> None:
    """The usage counts only the audio that was sent."""
    async with Simulator(SimulatorOptions(pace=1)) as sim, connect(sim) as client:
        await client.speak(5_000, "response.output_audio.delta")
        await client.send("response.cancel")
        events = await client.read_until("response.done")
    response = events[-1]["response"]
    assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert response["usage"]["output_token_details"]["audio_tokens"] == 5
    assert event_types(events)[-6:-1] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
    ]


async def test_second_response_create_is_refused_while_one_is_active() -> None:
    """The active response completes."""
    async with Simulator(SimulatorOptions(pace=10)) as sim, connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        await client.append_audio(speech(1_000))
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        await client.send("response.create")
        error = (await client.read_until("error"))[-1]["error"]
        done = (await client.read_until("response.done"))[-1]
    assert error["code"] == "conversation_already_has_active_response"
    assert done["response"]["id"] in error["message"]
    assert done["response"]["status"] == "completed"


async def test_audio_is_sent_at_configured_pace() -> None:
    """One second of audio at pace 10 takes at least 1/16 of a second, and not the second that it takes at pace 1."""
    async with Simulator(SimulatorOptions(pace=10)) as sim, connect(sim) as client:
        await client.update_audio_input(turn_detection=None)
        started = time.monotonic()
        async with taking_less_than(0.9):
            await _echo(client, speech(1_000))
        assert 1 / 16 <= time.monotonic() - started
