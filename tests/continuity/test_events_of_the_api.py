"""Events of the API that few clients use, across a swap."""

import base64

import pytest

from service.realtime.continuity import transcripts
from service.simulator import Behaviour, End, Fault, Moment
from service.simulator.numbered import numbered_audio
from tests.continuity.caller import SAMPLES_PER_MS, Caller, calling
from tests.continuity.relays import failing, renew, stage
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


async def test_length_of_an_answer_is_its_own_beside_one_outside_the_conversation() -> None:
    """Both are spoken at once. The next connection gets what was heard of the one that the user interrupts."""
    async with stage(Behaviour(answer_seconds=4.0, pace=20)) as found, calling(found.relay) as caller:
        caller.say("hello")
        caller.send("response.create")
        await caller.until("response.output_audio.delta")
        caller.send("response.create", response={"conversation": "none"})
        await caller.until("response.done", 2)
        outputs = [event["item_id"] for event in caller.of_type("response.output_audio.delta")]
        assert len(set(outputs[2:-2])) == 2, "one after the other"
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        [answer] = [item_id for item_id in caller.items if item_id in outputs]
        caller.send("conversation.item.truncate", item_id=answer, content_index=0, audio_end_ms=2_000)
        await caller.until("conversation.item.truncated")
        caller.say("go on")
        await caller.until("conversation.item.done", 3)
        whole = caller.of_type("response.output_audio_transcript.done")[0]["transcript"].split()
        [cut] = [item for item in found.conversations[1].items if item["id"] == answer]
        assert abs(len(cut["content"][0]["text"].split()) - len(whole) / 2) <= 2
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


RICH: dict[str, object] = {
    "type": "realtime",
    "output_modalities": ["text"],
    "instructions": "Speak slowly.",
    "tools": [{"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "look"},
    "parallel_tool_calls": False,
    "max_output_tokens": 500,
    "reasoning": {"effort": "low"},
    "tracing": {"workflow_name": "calls", "group_id": "g1", "metadata": {"team": "a"}},
    "truncation": {"type": "retention_ratio", "retention_ratio": 0.8, "token_limits": {"post_instructions": 8000}},
    "prompt": {"id": "pmpt_1", "version": "2", "variables": {"name": "Ada"}},
    "include": ["item.input_audio_transcription.logprobs"],
    "audio": {
        "input": {
            "format": {"type": "audio/pcmu"},
            "noise_reduction": {"type": "far_field"},
            "transcription": {"model": "gpt-4o-transcribe", "language": "en", "prompt": "names"},
            "turn_detection": {"type": "semantic_vad", "eagerness": "low", "interrupt_response": False},
        },
        "output": {"format": {"type": "audio/pcma"}, "voice": {"id": "voice_1"}, "speed": 1.2},
    },
}


@pytest.mark.parametrize("is_renewal", [True, False])
async def test_every_setting_of_a_session_is_that_of_the_next_connection(*, is_renewal: bool) -> None:
    """Set in one update, or changed by a second one."""
    async with stage() as found, calling(found.relay) as caller:
        caller.send(
            "session.update", session={"type": "realtime", "instructions": "Before.", "tracing": RICH["tracing"]}
        )
        caller.send("session.update", session=RICH)
        await caller.until("session.updated", 2)
        if is_renewal:
            await renew(found)
        else:
            await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("renewal" if is_renewal else "loss") == 1, 10)
        one, two = (conversation.sessions[-1] for conversation in found.conversations)
        own = {"id", "expires_at"}
        assert {key: one[key] for key in one.keys() - own} == {key: two[key] for key in two.keys() - own}
        assert RICH.keys() <= two.keys()
        assert not caller.count("error")
        assert not found.conversations[1].errors
        caller.check()


async def test_idle_prompt_that_a_loss_cuts_is_given_once() -> None:
    """Upstream commits the silence and prompts the user by itself."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="input_audio_buffer.committed", count=2)
    detection = {"type": "server_vad", "idle_timeout_ms": 5_000}
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
        await caller.until("session.updated")
        caller.speak(600)
        caller.be_silent(800)
        await caller.until("response.done")
        caller.be_silent(7_500)
        await caller.until("input_audio_buffer.timeout_triggered")
        await caller.until("response.done", 2)
        assert [event["response"]["status"] for event in caller.of_type("response.done")] == ["completed"] * 2
        assert len(caller.items) == 4
        caller.check()
    [recovered] = found.relay.events("session.recovered")
    assert recovered["turns_lost"] == 0


TRANSCRIPTION = {"type": "realtime", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
PART = "conversation.item.input_audio_transcription.delta"
END = "conversation.item.input_audio_transcription.completed"


@pytest.mark.parametrize("event", ["input_audio_buffer.committed", PART])
async def test_turn_that_two_connections_transcribe_is_shown_once(event: str) -> None:
    """The next one may transcribe what it gets as audio, also before it takes over: it waits for a list of tools."""
    first = failing(Fault(Moment.AFTER_SENT, End.RESET, event=event))
    second = Behaviour(transcribes_created_audio=True, mcp_seconds=0.4)
    async with stage(first, second, RELAY_RECOVERY_SECONDS="5") as found, calling(found.relay) as caller:
        server = {"type": "mcp", "server_label": "shop", "server_url": "https://mcp.example"}
        caller.send("session.update", session={**TRANSCRIPTION, "tools": [server]})
        await caller.until("mcp_list_tools.completed")
        caller.speak(600)
        caller.be_silent(800)
        await caller.until("response.done")
        await caller.until(END)
        assert found.swaps("loss") == 1
        [turn] = caller.of_type("input_audio_buffer.committed")
        [end] = caller.of_type(END)
        assert end["item_id"] == turn["item_id"]
        parts = "".join(part["delta"] for part in caller.of_type(PART))
        assert end["transcript"].startswith(parts)
        caller.check()


async def test_transcription_that_the_client_is_not_shown_is_paid_for() -> None:
    """The provider bills the second one, too."""
    hears_created = Behaviour(transcribes_created_audio=True)
    async with stage(hears_created, hears_created) as found, calling(found.relay) as caller:
        caller.send("session.update", session=TRANSCRIPTION)
        audio = base64.b64encode(numbered_audio(0, 600 * SAMPLES_PER_MS)).decode()
        content = [{"type": "input_audio", "audio": audio}]
        caller.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await caller.until(END)
        [session] = found.relay.app.drainer.sessions
        view = session.view()
        assert view is not None
        tokens = view.spending.tokens
        assert tokens
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        await eventually(lambda: view.spending.tokens == 2 * tokens)
        assert caller.count(END) == 1
        assert caller.count(PART) == len(caller.of_type(END)[0]["transcript"].split())
        caller.check()


async def test_turn_that_no_connection_transcribes_gets_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has the turn as audio of another kind, and need not transcribe that."""
    monkeypatch.setattr(transcripts, "OVERDUE_SECONDS", 0.1)
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="input_audio_buffer.committed")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.send("session.update", session=TRANSCRIPTION)
        await caller.until("session.updated")
        caller.speak(600)
        caller.be_silent(800)
        await caller.until("conversation.item.input_audio_transcription.failed")
        [failed] = caller.of_type("conversation.item.input_audio_transcription.failed")
        assert failed["item_id"] == caller.of_type("input_audio_buffer.committed")[0]["item_id"]
        assert found.swaps("loss") == 1
        assert not caller.count(END)
        caller.check()
