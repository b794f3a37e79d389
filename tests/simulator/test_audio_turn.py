"""Audio in, audio out: the parrot, turns, interruptions."""

import base64
import hashlib
import random
import time

import pytest

from service.simulator import Simulator, SimulatorOptions
from tests.support.simulator_client import Caller, connected, kinds, silence, spoken, voice


async def _parrot(caller: Caller, audio: bytes) -> bytes:
    await caller.append(audio)
    await caller.send("input_audio_buffer.commit")
    await caller.send("response.create")
    return spoken(await caller.until("response.done"))


async def test_what_was_said_comes_back_byte_for_byte(sim: Simulator) -> None:
    """Committed audio is the assistant's audio; both digests agree with what was sent and received."""
    audio = random.Random(7).randbytes(1_234 * 48 + 1)
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        assert await _parrot(caller, audio) == audio
    [record] = sim.connections
    assert record.audio_in_sha256 == record.audio_out_sha256 == hashlib.sha256(audio).hexdigest()


@pytest.mark.parametrize("name", ["audio/pcmu", "audio/pcma"])
async def test_telephone_audio_passes_through(sim: Simulator, name: str) -> None:
    """G.711 comes back byte for byte, and 8,000 bytes of it are a second."""
    audio = random.Random(8).randbytes(8_000)
    async with connected(sim) as caller:
        formats = {"input": {"format": {"type": name}, "turn_detection": None}, "output": {"format": {"type": name}}}
        session = await caller.configure(audio=formats)
        assert session["audio"]["input"]["format"] == {"type": name}
        await caller.append(audio)
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        events = await caller.until("response.done")
    assert spoken(events) == audio
    assert events[-1]["response"]["usage"]["input_token_details"]["audio_tokens"] == 10
    assert events[-1]["response"]["usage"]["output_token_details"]["audio_tokens"] == 20


async def test_an_audio_answer_has_the_order_of_the_wire(sim: Simulator) -> None:
    """The transcript runs ahead, audio follows in deltas of 250 ms, and everything opened is closed in order."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(voice(1_000))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        events = await caller.until("rate_limits.updated")
    names = [name.removeprefix("response.").removeprefix("output_") for name in kinds(events)]
    assert names[:7] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "created",
        "item.added",
        "conversation.item.added",
        "content_part.added",
    ]
    assert names[7:11] == ["audio_transcript.delta"] * 4
    assert names.count("audio.delta") == 4
    assert names[-8:] == [
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


async def test_usage_follows_the_length_of_the_audio(sim: Simulator) -> None:
    """2.8 seconds are 28 tokens heard and 56 tokens spoken."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(voice(2_800))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        usage = (await caller.until("response.done"))[-1]["response"]["usage"]
    assert usage["input_token_details"]["audio_tokens"] == 28
    assert usage["output_token_details"]["audio_tokens"] == 56


async def test_an_assistant_that_heard_nothing_hums(sim: Simulator) -> None:
    """Text answered in audio is a short tone, with the text as its transcript."""
    async with connected(sim) as caller:
        content = [{"type": "input_text", "text": "Speak"}]
        await caller.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await caller.send("response.create")
        events = await caller.until("response.done")
    assert len(spoken(events)) == 24_000
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "output_audio", "transcript": "Speak"}]


async def test_audio_in_an_item_is_parroted_too(sim: Simulator) -> None:
    """Audio that comes in conversation.item.create is heard like committed audio, and not shown again."""
    audio = voice(300)
    content = [{"type": "input_audio", "audio": base64.b64encode(audio).decode()}]
    async with connected(sim) as caller:
        await caller.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        added = await caller.next()
        await caller.send("response.create")
        assert spoken(await caller.until("response.done")) == audio
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]


async def test_a_turn_is_found_by_its_sound(sim: Simulator) -> None:
    """Speech in silence gives the events of a turn, with padded times, and an answer of just that speech."""
    audio = silence(1_000) + voice(600) + silence(1_000)
    async with connected(sim) as caller:
        await caller.append(audio)
        events = await caller.until("response.done")
    assert kinds(events)[:6] == [
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
    assert spoken(events) == audio[700 * 48 : 1_800 * 48]


async def test_a_turn_without_create_response_is_only_committed(sim: Simulator) -> None:
    """With create_response false the client asks for the answer itself."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection={"type": "server_vad", "create_response": False})
        await caller.append(silence(400) + voice(400) + silence(400))
        await caller.until("conversation.item.done")
        await caller.send("response.cancel")
        refused = await caller.next()
    assert refused["error"]["code"] == "response_cancel_not_active"


async def test_speaking_interrupts_the_assistant() -> None:
    """Speech during an answer cancels it with turn_detected; its item ends incomplete, and the new turn is answered."""
    async with Simulator(SimulatorOptions(pace=2)) as sim, connected(sim) as caller:
        await caller.append(voice(3_000) + silence(300))
        await caller.until("response.output_audio.delta")
        await caller.append(voice(200) + silence(300))
        events = await caller.until("response.done")
        assert "input_audio_buffer.speech_started" in kinds(events)
        response = events[-1]["response"]
        assert response["status"] == "cancelled"
        assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        assert response["output"][0]["status"] == "incomplete"
        assert (await caller.until("response.done"))[-1]["response"]["status"] == "completed"


async def test_speaking_does_not_interrupt_where_that_is_off() -> None:
    """With interrupt_response false the answer is finished first, then the new turn gets its own."""
    async with Simulator(SimulatorOptions(pace=20)) as sim, connected(sim) as caller:
        await caller.listen(turn_detection={"type": "server_vad", "interrupt_response": False})
        await caller.append(voice(2_000) + silence(300))
        await caller.until("response.output_audio.delta")
        await caller.append(voice(200) + silence(300))
        statuses = [(await caller.until("response.done"))[-1]["response"]["status"] for _ in range(2)]
    assert statuses == ["completed", "completed"]


async def test_a_client_can_cancel() -> None:
    """response.cancel ends the answer as cancelled by the client, with the usage of what was said."""
    async with Simulator(SimulatorOptions(pace=1)) as sim, connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(voice(5_000))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        await caller.until("response.output_audio.delta")
        await caller.send("response.cancel")
        events = await caller.until("response.done")
    response = events[-1]["response"]
    assert response["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    assert response["usage"]["output_token_details"]["audio_tokens"] == 5
    assert kinds(events)[-6:-1] == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
    ]


async def test_one_response_at_a_time() -> None:
    """A second response.create is refused while one runs, which goes on."""
    async with Simulator(SimulatorOptions(pace=10)) as sim, connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(voice(1_000))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        await caller.send("response.create")
        refused = (await caller.until("error"))[-1]["error"]
        done = (await caller.until("response.done"))[-1]
    assert refused["code"] == "conversation_already_has_active_response"
    assert done["response"]["id"] in refused["message"]
    assert done["response"]["status"] == "completed"


async def test_audio_is_paced() -> None:
    """A second of audio at ten times its speed takes between a fifteenth and half of a second."""
    async with Simulator(SimulatorOptions(pace=10)) as sim, connected(sim) as caller:
        await caller.listen(turn_detection=None)
        began = time.monotonic()
        await _parrot(caller, voice(1_000))
        assert 1 / 16 <= time.monotonic() - began <= 0.5
