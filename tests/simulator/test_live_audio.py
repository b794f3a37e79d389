"""GPT-Live: the parrot's voice, driven by input audio."""

import base64

import pytest

from tests.support.live_client import FRAME_BYTES, audio_of, live, live_simulator, others, transcript_of
from tests.support.simulator_client import silence, speech

SPEECH = speech(1_200)


async def test_each_100_ms_of_input_produces_100_ms_of_output() -> None:
    """The deltas have neither identifiers nor times; without input there is none."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        events = await client.hear(silence(1_000))
        assert len(events) == 10
        assert all(list(event) == ["type", "delta"] and len(event["delta"]) == 6_400 for event in events)
        assert audio_of(events) == silence(1_000)
        with pytest.raises(TimeoutError):
            await client.ws.receive(0.05)


async def test_speech_is_said_back_sample_for_sample() -> None:
    """It begins within 0.6 s of its end, and the stream goes on as silence."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        said = audio_of(await client.hear(silence(1_000) + SPEECH + silence(4_000)))
        assert len(said) == len(silence(5_000) + SPEECH)
        assert said.strip(b"\0") == SPEECH.strip(b"\0")
        start_ms = said.index(SPEECH.strip(b"\0")) / 48 - 1_000 - 1_200 - 300  # 300 ms of padding precede the speech
        assert 500 <= start_ms <= 700
        assert said == said[: said.rindex(SPEECH[-8:]) + 8].ljust(len(said), b"\0")


@pytest.mark.parametrize("size", [960, 1_922, 4_800, 24_000])
async def test_output_does_not_depend_on_the_size_of_appends(size: int) -> None:
    """Only the bytes count."""
    audio = silence(300) + SPEECH + silence(2_500)
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        for at in range(0, len(audio), size):
            await client.append(audio[at : at + size])
        events = [await client.next_event()]
        while len(audio_of(events)) < len(audio):
            events.append(await client.next_event())
        assert SPEECH.strip(b"\0") in audio_of(events)
        assert sim.connections[0].client_events == ["session.start", "session.input_audio.append"]


@pytest.mark.parametrize(
    ("kind", "rate", "bytes_per_ms"), [("audio/pcm", 16_000, 32), ("audio/pcmu", 8_000, 8), ("audio/pcma", 8_000, 8)]
)
async def test_other_format_is_said_back_in_the_same_format(kind: str, rate: int, bytes_per_ms: int) -> None:
    """Frames are 100 ms in each."""
    quiet = {"audio/pcm": b"\0", "audio/pcmu": b"\xff", "audio/pcma": b"\xd5"}[kind]
    loud = bytes(range(1, 17)) * 2 if kind != "audio/pcm" else b"\x11\x22\xee\xdd"
    said = loud * (800 * bytes_per_ms // len(loud))
    async with live_simulator() as sim, live(sim) as client:
        session = await client.start(audio={"format": {"type": kind, "rate": rate}})
        assert session["audio"]["format"] == {"type": kind, "rate": rate}
        pause = quiet * (1_000 * bytes_per_ms)
        events = await client.hear(pause + said + pause + pause, size=100 * bytes_per_ms)
        frames = [base64.b64decode(event["delta"]) for event in events if "audio" in event["type"]]
        assert {len(frame) for frame in frames} == {100 * bytes_per_ms}
        assert said in b"".join(frames)
        assert b"".join(frames).replace(said, b"").strip(quiet) == b""


async def test_transcripts_are_on_a_grid_of_200_ms() -> None:
    """Each delta begins with a space; the user's begins a second after the speech; the parrot says the same words."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        events = await client.hear(silence(1_000) + SPEECH + silence(3_000))
        deltas = [event for event in events if "transcript" in event["type"]]
        assert all(event["start_ms"] % 200 == 0 and event["end_ms"] - event["start_ms"] == 200 for event in deltas)
        assert all(event["delta"].startswith(" ") for event in deltas)
        assert transcript_of(events, "input") == transcript_of(events, "output") == " Polly hears every word and says"
        first = next(at for at, event in enumerate(events) if event["type"] == "session.input_transcript.delta")
        assert 20 <= len([event for event in events[:first] if "audio" in event["type"]]) <= 22


async def test_new_speech_interrupts_the_parrot() -> None:
    """There is no event for it; the parrot is silent and then says the new speech."""
    first, second = speech(3_000), bytes(reversed(speech(600)))
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        said = audio_of(await client.hear(silence(500) + first + silence(1_000) + second + silence(2_000)))
        assert first.strip(b"\0") not in said
        assert second.strip(b"\0") in said


async def test_muted_microphone_is_heard_as_silence() -> None:
    """The clock goes on, and so does the parrot."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.send("session.input_audio.mute", event_id="m1")
        assert (await client.next_event())["client_event_id"] == "m1"
        assert not any(audio_of(await client.hear(SPEECH + silence(1_000))))
        await client.send("session.input_audio.unmute")
        assert (await client.next_event())["type"] == "session.input_audio.unmuted"
        assert any(audio_of(await client.hear(SPEECH + silence(1_000))))


async def test_odd_number_of_bytes_is_invalid_audio() -> None:
    """The session goes on."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.append(b"\0" * 4_799)
        assert (await client.next_event())["error"]["code"] == "invalid_audio"
        await client.hear(silence(100))


async def test_append_is_acknowledged_only_while_audio_flows() -> None:
    """Commentary is spoken as a tone with its words; thinking is silent."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.send("session.commentary.append", event_id="c1", delegation_id=None, content="Two words")
        with pytest.raises(TimeoutError):
            await client.ws.receive(0.05)
        events = await client.hear(silence(1_000))
        (appended,) = others(events)
        assert (appended["type"], appended["client_event_id"]) == ("session.commentary.appended", "c1")
        assert appended["end_ms"] - appended["start_ms"] == 200
        assert transcript_of(events, "output") == " Two words"
        assert len(audio_of(events).strip(b"\0")) > FRAME_BYTES
        await client.send("session.thinking.append", delegation_id=None, content="x")
        events = await client.hear(silence(500))
        assert [event["type"] for event in others(events)] in ([], ["session.thinking.appended"])
        assert not any(audio_of(events))


async def test_fixture_is_played_and_input_is_dropped() -> None:
    """One at a time, also of the maximum size; appends are refused meanwhile."""
    fixture = speech(1_000)
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        for audio, code in ((silence(30_100), "invalid_audio"), (fixture, None), (silence(30_000), "invalid_event")):
            encoded = base64.b64encode(audio).decode()
            await client.send("session.output_audio.fixture.play", event_id="f1", audio=encoded)
            event = await client.next_event()
            assert event.get("error", {}).get("code") == code
        await client.send("session.thinking.append", delegation_id=None, content="x")
        assert (await client.next_event())["error"]["code"] == "invalid_event"
        events = await client.hear(SPEECH[: len(fixture)] + silence(2_000))
        assert audio_of(events) == fixture + silence(2_000)
        assert [event["type"] for event in others(events)] == ["session.output_audio.fixture.played"]


async def test_client_delegation_is_created_by_scenario() -> None:
    """It has no text; commentary can name it."""
    async with live_simulator() as sim, live(sim, "simulate=live-delegate") as client:
        await client.start(delegation={"type": "client"})
        (created,) = others(await client.hear(SPEECH + silence(1_000)))
        assert created["delegation"]["target"] == "client"
        await client.send("session.commentary.append", delegation_id=created["delegation"]["id"], content="Done")
        assert [event["type"] for event in others(await client.hear(silence(500)))] in (
            [],
            ["session.commentary.appended"],
        )
