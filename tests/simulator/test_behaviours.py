"""A behaviour for each successive dial: scenarios, expiry, delays, and how an answer differs."""

import asyncio
import base64
import time
from typing import Any

import aiohttp
import pytest

from service.simulator import Behaviour, End, Fault, Moment, Simulator, SimulatorOptions
from service.simulator.audio import PCM16, ULAW
from service.simulator.behaviour import EXPIRIES
from service.simulator.numbered import numbered_audio, sample_ranges
from tests.support.harness import within
from tests.support.simulator_client import RealtimeClient, connect, event_types, output_audio, silence, speech


def test_unknown_end_is_refused_with_the_known_ones() -> None:
    """As a body of /simulator/drop names it."""
    with pytest.raises(ValueError, match="end is 'rset'; expected one of reset, fin, silence"):
        End.parse("rset")


async def test_each_dial_has_its_behaviour() -> None:
    """The first expires, the second has no credit, the third is refused with HTTP, the fourth works as without a list."""
    async with Simulator(SimulatorOptions(pace=0)) as sim:
        expiring, refused = Behaviour(session_seconds=0.05), Behaviour(scenario="http-503")
        sim.set_dials(expiring, Behaviour(scenario="quota-exhausted"), refused)
        async with connect(sim) as client:
            assert (await client.next_event())["error"]["code"] == "session_expired"
            assert (await client.read_close())[0] == 1001
        async with connect(sim, read_created=False) as client:
            assert (await client.next_event())["error"]["code"] == "credit_balance_exhausted"
            assert (await client.read_close())[0] == 1013
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            async with connect(sim):
                pass
        assert sim.dials_left() == 0
        async with connect(sim) as client:
            await client.update_session()
        assert [record.dial for record in sim.connections] == [1, 2, 3, 4]
        assert [record.dial for record in sim.upstreams()] == [1, 4]
        assert [record.ended_by for record in sim.connections] == ["expiry", None, None, None]


async def test_lane_has_a_list_of_its_own() -> None:
    """Requests without its name in the query do not use it up."""
    async with Simulator(SimulatorOptions(pace=0)) as sim:
        sim.set_dials(Behaviour(faults=(Fault(Moment.AFTER_SENT, End.close(1011)),)), lane="a")
        async with connect(sim) as client:
            await client.update_session()
        async with connect(sim, "model=gpt-realtime&simulate_lane=a") as client:
            assert (await client.read_close())[0] == 1011
        assert [record.lane for record in sim.connections] == [None, "a"]
        assert [record.dial for record in sim.upstreams("a")] == [2]


async def test_dials_are_awaited() -> None:
    """The waiter wakes at the upgrade request."""
    async with Simulator() as sim:
        waiter = asyncio.create_task(sim.wait_dials(2))
        async with connect(sim):
            assert not waiter.done()
            async with connect(sim):
                await within(waiter, 5)


@pytest.mark.parametrize("expires_at", [*EXPIRIES, 90.0, -5])
async def test_shown_expiry_is_set(expires_at: str | float) -> None:
    """What the session says, at the start and after an update; the end is another setting."""
    async with Simulator() as sim:
        sim.set_dials(Behaviour(expires_at=expires_at, session_seconds=600))
        async with connect(sim, read_created=False) as client:
            session = (await client.next_event())["session"]
            assert (await client.update_session()).get("expires_at", "absent") == session.get("expires_at", "absent")
    fixed = {"absent": "absent", "null": None, "past": 1, "far": 253_402_300_799, "text": "soon"}
    if expires_at in fixed:
        assert session.get("expires_at", "absent") == fixed[expires_at]
    else:
        seconds = 600 if isinstance(expires_at, str) else expires_at
        assert session["expires_at"] == pytest.approx(time.time() + seconds, abs=30)


async def test_round_trip_delays_each_exchange() -> None:
    """Requests that are sent at once are answered at once, in order, one round trip later; the close frame too."""
    async with Simulator(SimulatorOptions(default=Behaviour(round_trip_ms=60))) as sim:
        started = time.monotonic()
        async with connect(sim) as client:  # a round trip before the 101, and half of one for session.created
            connected = time.monotonic()
            for number in range(5):
                await client.send("session.update", session={"type": "realtime", "instructions": str(number)})
            updated = [(await client.next_event())["session"]["instructions"] for _ in range(5)]
            answered = time.monotonic()
            await client.ws.close()
            closed = time.monotonic()
    assert updated == list("01234")
    assert connected - started >= 0.09
    assert answered - connected >= 0.06
    assert closed - answered >= 0.03


async def test_reset_loses_what_is_on_its_way() -> None:
    """With a round trip, requests that have not arrived are never processed."""
    async with Simulator(SimulatorOptions(keep_conversations=True, default=Behaviour(round_trip_ms=400))) as sim:
        async with connect(sim) as client:
            await client.send("session.update", session={"type": "realtime"})
            await sim.drop_all(End.RESET)
            assert (await client.ws.receive(5)).type is not aiohttp.WSMsgType.TEXT
        [record] = sim.connections
        await record.wait_closed()
        assert record.conversation is not None
        assert record.conversation.events == [("out", "session.created")]


async def test_speech_events_follow_the_audio_by_the_lag() -> None:
    """By a position in the audio: with 300 ms of lag, speech of 400 ms has ended when its start is reported."""
    async with Simulator(SimulatorOptions(pace=0, keep_conversations=True)) as sim:
        sim.set_dials(Behaviour(vad_lag_ms=300))
        async with connect(sim) as client:
            await client.append_audio(silence(400) + numbered_audio(0, 24 * 320))
            await client.update_session()  # answered first: the start of speech is not detected yet
            await client.append_audio(silence(200))
            started = await client.next_event()
            assert started["type"] == "input_audio_buffer.speech_started"
            await client.append_audio(silence(1_000))
            stopped = (await client.read_until("input_audio_buffer.speech_stopped"))[-1]
            await client.read_until("response.done")
        assert (started["audio_start_ms"], stopped["audio_end_ms"]) == (100, 920)  # as without a lag
        [record] = sim.connections
        assert record.conversation is not None
        assert [turn.samples for turn in record.conversation.turns] == [((0, 24 * 320),)]


async def test_answers_drift_to_text_after_a_text_history() -> None:
    """Only if an answer was created as text, and none was spoken since."""
    async with Simulator(SimulatorOptions(pace=0, default=Behaviour(text_drift=True))) as sim, connect(sim) as client:
        part = {"type": "output_text", "text": "Hello"}
        item = {"id": "answer", "type": "message", "role": "assistant", "content": [part]}
        modalities = []
        for fields in ({}, {"item": item}, {}):
            if fields:
                await client.send("conversation.item.create", **fields)
                await client.read_until("conversation.item.done")
            await client.send("response.create")
            done = (await client.read_until("response.done"))[-1]
            modalities.append(done["response"]["output_modalities"])
            if not fields:
                await client.send("conversation.item.delete", item_id=done["response"]["output"][0]["id"])
                await client.read_until("conversation.item.deleted")
    assert modalities == [["audio"], ["text"], ["text"]]


async def test_answers_are_as_long_as_the_behaviour_says() -> None:
    """Numbered, counting on from one answer to the next, over all connections; the transcript counts aloud."""
    async with Simulator(SimulatorOptions(pace=0, numbered_answers=True, keep_conversations=True)) as sim:
        sim.set_dials(Behaviour(answer_seconds=1.5))
        heard = list[Any]()
        for _ in range(2):
            async with connect(sim) as client:
                await client.send("response.create")
                events = await client.read_until("response.done")
                transcript = next(
                    e["transcript"] for e in events if e["type"] == "response.output_audio_transcript.done"
                )
                heard.append((sample_ranges(output_audio(events)), transcript))
        responses = [r.conversation.responses[0] for r in sim.upstreams() if r.conversation is not None]
    assert heard[0] == (((0, 36_000),), " ".join(map(str, range(15))))
    assert heard[1] == (((36_000, 48_000),), "15 16 17 18 19")  # as long as the tone without a behaviour
    assert [response.samples for response in responses] == [(0, 36_000), (36_000, 48_000)]


async def test_session_differs_from_what_was_asked() -> None:
    """A server that configures the session in its own way."""
    async with Simulator() as sim:
        sim.set_dials(Behaviour(session_patch={"instructions": "Mine.", "audio": {"output": {"speed": 0.5}}}))
        async with connect(sim) as client:
            session = await client.update_session(instructions="Yours.")
    assert (session["instructions"], session["audio"]["output"]["speed"]) == ("Mine.", 0.5)
    assert session["audio"]["output"]["voice"] == "alloy"


@pytest.mark.parametrize("is_transcribed", [False, True])
async def test_created_audio_is_transcribed_by_choice(*, is_transcribed: bool) -> None:
    """What the provider does is unknown."""
    async with Simulator() as sim:
        sim.set_dials(Behaviour(transcribes_created_audio=is_transcribed))
        async with connect(sim) as client:
            await client.update_audio_input(transcription={"model": "whisper-1"})
            await create_audio(client, speech(200))
            await client.read_until("conversation.item.done")
            await client.send("input_audio_buffer.clear")
            events = [await client.next_event()]
            while "completed" not in events[-1]["type"] and events[-1]["type"] != "input_audio_buffer.cleared":
                events.append(await client.next_event())
    assert events[-1]["type"].endswith(".completed") or not is_transcribed
    assert events[-1]["type"].endswith(".cleared") or is_transcribed


async def test_numbered_turns_are_transcribed_as_numbers() -> None:
    """Spoken or created: so a replayed transcript names its samples. G.711 as well."""
    async with Simulator(SimulatorOptions(pace=0)) as sim:
        for audio_format in (PCM16, ULAW):
            async with connect(sim) as client:
                described = {"type": audio_format.name}
                await client.update_audio_input(
                    format=described, turn_detection=None, transcription={"model": "whisper-1"}
                )
                await client.append_audio(numbered_audio(audio_format.rate, audio_format.rate // 2, audio_format))
                await client.send("input_audio_buffer.commit")
                completed = await client.read_until("conversation.item.input_audio_transcription.completed")
                assert completed[-1]["transcript"] == "10 11 12 13 14"


async def create_audio(client: RealtimeClient, audio: bytes) -> None:
    """Create an item of the user's audio."""
    part = {"type": "input_audio", "audio": base64.b64encode(audio).decode()}
    item = {"type": "message", "role": "user", "content": [part]}
    await client.send("conversation.item.create", item=item)


async def test_sideband_finds_the_state_of_its_call() -> None:
    """The call outlives the connection; once it has ended, the connection is refused with 404."""
    async with Simulator(SimulatorOptions(pace=0, call_ids=frozenset({"rtc_1"}))) as sim:
        for instructions in ("Be brief.", None):
            async with connect(sim, "call_id=rtc_1", read_created=False) as client:
                session = await client.update_session(**({"instructions": instructions} if instructions else {}))
                assert session["instructions"] == "Be brief."
                part = {"type": "input_text", "text": "x"}
                item = {"id": "mine", "type": "message", "role": "user", "content": [part]}
                await client.send("conversation.item.create", item=item)
                first = await client.next_event()
                assert (first["type"] == "error") is (instructions is None)  # a duplicate
        sim.end_call("rtc_1")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            async with connect(sim, "call_id=rtc_1"):
                pass


async def test_transcription_session_keeps_records_and_faults() -> None:
    """As a conversation does."""
    async with Simulator(SimulatorOptions(pace=0, keep_conversations=True)) as sim:
        completed = "conversation.item.input_audio_transcription.completed"
        sim.set_dials(Behaviour(faults=(Fault(Moment.AFTER_SENT, End.close(1012), event=completed),)))
        async with connect(sim, "intent=transcription") as client:
            transcription = {"audio": {"input": {"transcription": {"model": "whisper-1"}}}}
            await client.send("session.update", session={"type": "transcription", **transcription})
            await client.append_audio(numbered_audio(0, 12_000) + silence(400))
            events = await client.read_until(completed)
            assert (await client.read_close())[0] == 1012
        assert "response.created" not in event_types(events)
        [record] = sim.connections
        assert record.conversation is not None
        assert [turn.samples for turn in record.conversation.turns] == [((0, 12_000),)]


async def test_transcription_comes_late_or_fails() -> None:
    """The turn and its answer do not wait for it."""
    async with Simulator(SimulatorOptions(pace=0, rate_limits_delay_seconds=0)) as sim:
        sim.set_dials(Behaviour(transcription_seconds=0.2), Behaviour(transcription_fails=True))
        for outcome in ("completed", "failed"):
            async with connect(sim) as client:
                await client.update_audio_input(transcription={"model": "whisper-1"})
                await client.append_audio(speech(300) + silence(300))
                events = await client.read_until(f"conversation.item.input_audio_transcription.{outcome}")
                if outcome == "completed":
                    assert "response.done" in event_types(events)
                else:
                    assert events[-1]["error"]["code"] == "audio_unintelligible"


async def test_pace_is_that_of_the_dial() -> None:
    """One answer of two seconds takes a tenth of a second, the other is sent at once."""
    async with Simulator(SimulatorOptions(pace=0, numbered_answers=True)) as sim:
        sim.set_dials(Behaviour(answer_seconds=2, pace=20), Behaviour(answer_seconds=2))
        seconds = []
        for _ in range(2):
            async with connect(sim) as client:
                await client.send("response.create")
                await client.read_until("response.created")
                started = time.monotonic()
                assert sample_ranges(output_audio(await client.read_until("response.done")))
                seconds.append(time.monotonic() - started)
    assert seconds[0] >= 0.08


async def test_idle_timeout_ends_a_silent_turn() -> None:
    """After an answer, by the position in the audio; the silence is committed and answered."""
    async with Simulator(SimulatorOptions(pace=0, rate_limits_delay_seconds=0)) as sim, connect(sim) as client:
        await client.update_audio_input(turn_detection={"type": "server_vad", "idle_timeout_ms": 5_000})
        await client.append_audio(speech(300) + silence(400))
        await client.read_until("rate_limits.updated")
        await client.append_audio(silence(7_000))
        events = await client.read_until("response.created")
        assert event_types(events) == [
            "input_audio_buffer.timeout_triggered",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
        ]
        assert events[0]["audio_end_ms"] - events[0]["audio_start_ms"] == 5_000
        assert events[0]["item_id"] == events[1]["item_id"]
