"""Renewal: the provider ends every session, and the client does not notice. Sessions of seconds keep the proportions."""

import asyncio
import itertools

import pytest

from service.relay.continuity.swapper import Swapper
from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import PIECE_MS, SAMPLES_PER_MS, Caller, calling
from tests.continuity.relays import FAST, failing, force, renew, session_of, stage
from tests.continuity.test_recovery import everything, is_alive, spoken
from tests.support.harness import eventually

SHORT = Behaviour(session_seconds=3)


async def talk(caller: Caller, words_ms: int = 400, pause_ms: int = 800) -> None:
    """Speak, then pause, at the pace of speech."""
    for action, ms in ((caller.speak, words_ms), (caller.be_silent, pause_ms)):
        for _ in range(ms // PIECE_MS):
            action(PIECE_MS)
            await asyncio.sleep(PIECE_MS / 1000)


async def test_silent_session_is_renewed_without_a_gap() -> None:
    """The old connection is closed orderly, and the client sees nothing."""
    async with stage() as found, calling(found.relay) as caller:
        caller.say("hello")
        await caller.until("conversation.item.done")
        seen = len(caller.events)
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        await eventually(lambda: found.upstreams[0].closed, 5)
        assert len(caller.events) == seen
        assert (found.upstreams[0].close_code, found.upstreams[0].ended_by) == (1000, None)
        assert [item["id"] for item in found.conversations[1].items] == caller.items
        await is_alive(caller)
        caller.check()
        [view] = [session.view() for session in found.relay.app.drainer.sessions]
        assert view is not None
        assert (1, 0) == (view.as_object()["renewals"], view.as_object()["recoveries"])
        [line] = found.relay.events("session.renewed")
        assert (line["cause"], line["gap_seconds"], line["items_sent"]) == ("renewal", 0.0, 1)
    assert found.relay.events("session.ended")[0]["renewals"] == 1


async def test_session_is_renewed_before_the_end_that_upstream_states() -> None:
    """At half of a short life. The connection lives on, so that no loss comes first on a busy machine."""
    async with stage(Behaviour(expires_at=3.0)) as found, calling(found.relay) as caller:
        await eventually(lambda: found.swaps("renewal") + found.swaps("forced") == 1, 10)
        await is_alive(caller)
        caller.check()


async def test_every_word_of_a_talk_over_many_renewals_is_heard_once() -> None:
    """Each way: the turns of the user, and the answers."""
    async with stage(SHORT, SHORT, SHORT) as found, calling(found.relay) as caller:
        while len(found.upstreams) < 4:
            await talk(caller)
        caller.be_silent(1000)
        await caller.until(lambda: caller.count("response.done") >= caller.count("input_audio_buffer.committed"))
        await is_alive(caller)
        assert sum(end - start for start, end in spoken(found, caller)) == caller.said_ms * SAMPLES_PER_MS
        ranges = spoken(found, caller)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(ranges))
        caller.check()


async def test_speech_that_spans_the_limit_is_one_turn() -> None:
    """No boundary comes: the switch is forced, and the open turn is said again to the new connection."""
    async with stage(SHORT) as found, calling(found.relay) as caller:
        await talk(caller, words_ms=4_000, pause_ms=20)
        caller.be_silent(800)
        await caller.until("response.done")
        await is_alive(caller)
        assert spoken(found, caller) == everything(caller)
        assert found.swaps("forced") + found.swaps("loss") == 1
        caller.check()


async def test_endless_answer_is_cut_at_the_limit_and_asked_for_again() -> None:
    """The client gets its end, then the whole answer, of a connection that speaks at once."""
    async with stage(Behaviour(session_seconds=3, pace=1)) as found, calling(found.relay) as caller:
        caller.speak(5_000)
        caller.be_silent(800)
        await caller.until("response.done", 2)
        assert ["cancelled", "completed"] == [event["response"]["status"] for event in caller.of_type("response.done")]
        # On a busy machine the limit may come before the switch, 40 ms before it: then it is a loss.
        assert (len(found.upstreams), found.swaps("forced") + found.swaps("loss")) == (2, 1)
        await is_alive(caller)
        caller.check()


async def test_connection_that_was_given_up_at_the_limit_is_sent_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would answer what the next one answers as well, and the client would not get that."""
    finish = Swapper._finish_recovery
    monkeypatch.setattr(
        Swapper, "_finish_recovery", lambda self: asyncio.get_running_loop().call_later(0.3, finish, self)
    )
    async with stage() as found, calling(found.relay) as caller:
        caller.speak(400)  # no boundary
        await caller.until("input_audio_buffer.speech_started")
        session = session_of(found)
        await renew(found)
        await force(found)
        await eventually(lambda: session._swapper.is_lost, 10)
        caller.say("hello")
        caller.send("response.create")
        await caller.until("response.done")
        old, new = (conversation.events for conversation in found.conversations)
        assert ("in", "response.create") not in old
        assert new.count(("in", "response.create")) == 1
        assert found.swaps("forced") == 1


@pytest.mark.parametrize(
    ("scenario", "reasons"),
    [
        ("quota-exhausted", {"quota_exhausted"}),
        ("key-rejected", {"key_rejected"}),
        ("http-429", {"rate_limited"}),
        ("hang", {"timeout", "first_event_timeout"}),  # the renewal's limit and that of its dial are the same
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_refused_renewal_leaves_the_session_until_its_end(scenario: str, reasons: set[str]) -> None:
    """The session then ends with the provider's reason, at the provider's time."""
    dial_seconds = "0.2" if scenario == "hang" else "2"
    async with (
        stage(
            FAST,
            default=Behaviour(scenario=scenario),
            RELAY_RECOVERY_SECONDS="1",
            RELAY_DIAL_TIMEOUT_SECONDS=dial_seconds,
        ) as found,
        calling(found.relay) as caller,
    ):
        await renew(found)
        await eventually(lambda: found.swaps("renewal", "failed") >= 1, 10)
        await is_alive(caller)
        await found.simulator.drop_all(End.EXPIRE)
        await caller.until_over()
        assert await found.ended() == "session_expired"
        assert caller.of_type("error")[-1]["error"]["code"] == "session_expired"
        assert found.relay.events("session.renewal_failed")[0]["reason"] in reasons


@pytest.mark.parametrize("pause_ms", [0, 60])
async def test_speech_that_begins_just_before_a_switch_is_one_turn(pause_ms: int) -> None:
    """Upstream notices it 300 ms late: the connection that carries it then hears all of it."""
    late = Behaviour(expires_at=4.0, vad_lag_ms=300)  # it does not end then: on a busy machine that would be a loss
    async with stage(late, Behaviour(vad_lag_ms=300, round_trip_ms=80)) as found, calling(found.relay) as caller:
        caller.say("before")
        while len(found.upstreams) < 2:
            await talk(caller, words_ms=0, pause_ms=PIECE_MS)
        await talk(caller, words_ms=0, pause_ms=pause_ms)
        await talk(caller, words_ms=600, pause_ms=1_400)
        await caller.until("response.done")
        await is_alive(caller)
        assert found.swaps("renewal") + found.swaps("forced") == 1
        assert spoken(found, caller) == everything(caller)
        caller.check()


async def test_prepared_connection_takes_over_at_once_when_the_old_one_is_lost() -> None:
    """There is no second dial."""
    async with stage() as found, calling(found.relay) as caller:
        caller.speak(100)  # no boundary: the switch has to wait
        caller.say("hello")
        await caller.until("conversation.item.done")
        await renew(found)
        await eventually(lambda: len(found.conversations) == 2 and found.conversations[1].items, 10)
        session_of(found)._connected.leg.abort()
        await eventually(lambda: found.swaps("loss") == 1)
        assert len(found.upstreams) == 2
        await is_alive(caller)
        assert [item["id"] for item in found.conversations[1].items] == caller.items
        caller.check()


async def test_loss_of_the_prepared_connection_is_invisible() -> None:
    """Another one is prepared."""
    fault = Fault(Moment.RECEIVED, End.RESET, event="conversation.item.create")
    async with stage(FAST, failing(fault)) as found, calling(found.relay) as caller:
        caller.say("hello")
        await caller.until("conversation.item.done")
        await renew(found)
        await eventually(lambda: found.swaps("renewal", "failed") == 1, 10)
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        await is_alive(caller)
        caller.check()


async def test_changes_while_the_new_connection_waits_are_those_of_both() -> None:
    """Update, create and delete in the last moment."""
    async with stage() as found, calling(found.relay) as caller:
        for number in range(4):
            caller.say(f"text {number}")
        await caller.until("conversation.item.done", 4)
        caller.speak(100)  # no boundary
        await caller.until("input_audio_buffer.speech_started")
        await renew(found)
        await eventually(lambda: len(found.conversations) == 2 and len(found.conversations[1].items) == 4, 10)
        caller.send("conversation.item.delete", item_id=caller.items[1])
        caller.say("late")
        caller.send("session.update", session={"type": "realtime", "instructions": "Late."})
        await force(found)
        await eventually(lambda: found.swaps("forced") == 1, 10)
        await is_alive(caller)
        [_, second] = found.conversations
        assert [item["id"] for item in second.items] == caller.items
        assert second.sessions[-2]["instructions"] == "Late."
        caller.check()


@pytest.mark.parametrize("expires_at", ["absent", "null", "past", "far", "text"])
async def test_limit_that_is_not_stated_is_the_setting(expires_at: str) -> None:
    """Or none: then the loss at the limit is recovered."""
    behaviour = Behaviour(expires_at=expires_at)
    async with (
        stage(default=behaviour, RELAY_RENEW_AFTER_SECONDS="2") as found,
        calling(found.relay) as caller,
    ):
        await eventually(lambda: found.swaps("renewal") + found.swaps("forced") == 1, 10)
        await is_alive(caller)
        caller.check()


async def test_truncation_of_an_answer_that_was_replayed_is_answered_by_the_relay() -> None:
    """The new connection has its text only, which is cut to what the user has heard."""
    async with stage() as found, calling(found.relay) as caller:
        caller.speak(2_000)
        caller.be_silent(800)
        await caller.until("response.done")
        answer = caller.items[-1]
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.send("conversation.item.truncate", item_id=answer, content_index=0, audio_end_ms=500)
        await caller.until("conversation.item.truncated")
        await is_alive(caller)
        [truncated] = caller.of_type("conversation.item.truncated")
        assert (truncated["item_id"], truncated["audio_end_ms"]) == (answer, 500)
        whole = found.conversations[0].items[-1]["content"][0]["transcript"].split()
        [cut] = [item for item in found.conversations[1].items if item["id"] == answer]
        words = cut["content"][0]["text"].split()
        assert words == whole[: len(words)]
        assert 0 < len(words) < len(whole)
        assert [item["id"] for item in found.conversations[1].items] == caller.items
        assert not caller.count("conversation.item.deleted")
        caller.check()


async def test_session_of_transcription_is_continued() -> None:
    """With its configuration and the open turn; items are none of its state."""
    path = "/v1/realtime?intent=transcription&continuity=renew"
    async with stage() as found, calling(found.relay, path) as caller:
        fields = {"type": "transcription", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
        caller.send("session.update", session=fields)
        await caller.until("session.updated")
        caller.speak(600)
        await caller.until("input_audio_buffer.speech_started")
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.speak(200)
        caller.be_silent(800)
        await caller.until("conversation.item.input_audio_transcription.completed")
        assert spoken(found, caller) == everything(caller)
        caller.check()
