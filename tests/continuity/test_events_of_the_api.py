"""Events of the API that few clients use, across a swap."""

import base64

import pytest

from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import SAMPLES_PER_MS, Caller, calling
from tests.continuity.relays import failing, stage
from tests.support.harness import eventually

OUTSIDE = {"conversation": "none", "output_modalities": ["text"]}


async def test_turn_is_answered_beside_a_request_outside_the_conversation() -> None:
    """An application classifies each turn while the model answers it; upstream is lost before both."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="input_audio_buffer.committed")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.speak(600)
        caller.be_silent(800)
        await caller.until("input_audio_buffer.committed")
        caller.send("response.create", response=OUTSIDE)
        await caller.until("response.done", 2)
        ended = {
            event["response"]["conversation_id"] is None: event["response"] for event in caller.of_type("response.done")
        }
        assert [response["status"] for response in ended.values()] == ["completed"] * 2
        assert set(ended) == {True, False}
        assert found.swaps("loss") == 1
        caller.check()


async def test_retrieved_audio_above_a_megabyte_ends_no_continuity() -> None:
    """Nothing of it is kept."""
    async with stage() as found, calling(found.relay) as caller:
        caller.speak(18_000)
        caller.be_silent(800)
        await caller.until("response.done")
        [turn] = caller.of_type("input_audio_buffer.committed")
        for number in range(2):
            caller.send("conversation.item.retrieve", item_id=turn["item_id"])
            await caller.until("conversation.item.retrieved", number + 1)
        assert len(caller.of_type("conversation.item.retrieved")[0]["item"]["content"][0]["audio"]) > 1 << 20
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.say("hello")
        await caller.until(lambda: caller.items[-1] in str(caller.of_type("conversation.item.done")))
        assert caller.count("conversation.item.retrieved") == 2
        caller.check()


async def test_sideband_that_is_joined_again_begins_once() -> None:
    """Some servers send `session.created` there."""
    greeting = Behaviour(creates_on_sideband=True, round_trip_ms=40)
    async with (
        stage(default=greeting) as found,
        calling(found.relay, "/v1/realtime?call_id=rtc_known&continuity=renew") as caller,
    ):
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.send("session.update", session={"type": "realtime", "instructions": "Speak slowly."})
        await caller.until("session.updated")
        assert caller.count("session.created") == 1


async def test_turn_of_audio_whose_type_is_not_first_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some clients sort the keys of an event."""

    def append(caller: Caller, audio: bytes) -> None:
        caller.client.send_event(audio=base64.b64encode(audio).decode(), type="input_audio_buffer.append")

    monkeypatch.setattr(Caller, "append", append)
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="input_audio_buffer.speech_started")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.speak(600)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.speak(200)
        caller.be_silent(800)
        await caller.until("response.done")
        turns = [
            samples for conversation in found.conversations for turn in conversation.turns for samples in turn.samples
        ]
        assert turns == [(0, caller.said_ms * SAMPLES_PER_MS)]
        caller.check()
