"""Upstream connections that end in ways of their own: without a close frame, stuck, behind an error, with a secret."""

import asyncio
import dataclasses
from types import SimpleNamespace

import pytest

from service.realtime.continuity import mirror
from service.realtime.frames import Opcode, build_frame
from service.relay.continuity import renewable_session
from service.relay.continuity.renewable_session import RenewableSession
from service.simulator import Behaviour, End, Fault, Moment, transcription
from service.upstream import circuit
from tests.continuity.caller import calling
from tests.continuity.relays import FAST, failing, renew, session_of, stage
from tests.continuity.test_recovery import is_alive
from tests.continuity.test_sidebands import Joins, event
from tests.support.harness import eventually, open_raw
from tests.support.kept_session import session_object
from tests.support.scripted_upstream import scripted_relay

SECRET = "sk-proj-abcdefghijklmnop1234"


def refusing_an_update(code: str) -> Behaviour:
    """A connection that answers the first update with an error, and goes on."""
    return failing(Fault(Moment.RECEIVED, End.error(code), event="session.update"))


async def test_connection_that_has_expired_and_is_not_closed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client was not sent the error, and would wait for ever. The recovery has all of its time."""
    monkeypatch.setattr(renewable_session, "EXPIRED_SECONDS", 0.0)
    refused = Behaviour(scenario="http-503")
    async with stage(refusing_an_update("session_expired"), refused, refused) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await eventually(lambda: found.swaps("loss") == 1, 10)
        await eventually(lambda: found.upstreams[0].closed)
        await is_alive(caller)
        [line] = found.relay.events("session.recovered")
        assert (line["reason"], line["attempts"], caller.count("error")) == ("session_expired", 3, 0)
        assert not session_of(found)._hidden_errors  # the client never gets it
        caller.check()


async def test_session_that_has_expired_and_is_not_closed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error of upstream, if no other connection is found."""
    monkeypatch.setattr(renewable_session, "EXPIRED_SECONDS", 0.0)
    refused = Behaviour(scenario="quota-exhausted")
    async with (
        stage(refusing_an_update("session_expired"), default=refused) as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime"})
        await caller.until_over()
        assert await found.ended() == "session_expired"
        assert [error["error"]["code"] for error in caller.of_type("error")] == ["session_expired"]
        assert caller.close is not None
        assert caller.close[0] == 1001


def move_last_error(session: RenewableSession, seconds: float) -> None:
    """Let the last error of upstream have come at another time."""
    assert session._last_error is not None
    error, at = session._last_error
    session._last_error = error, at + seconds


async def test_error_does_not_explain_a_loss_long_behind_it() -> None:
    """The provider names a model that the client has asked for in vain, and the session goes on."""
    async with stage(refusing_an_update("model_not_found")) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await caller.until("error")
        move_last_error(session_of(found), -60)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        await is_alive(caller)
        caller.check()


async def test_error_explains_the_loss_right_behind_it() -> None:
    """Another connection would meet the same."""
    async with stage(refusing_an_update("insufficient_quota")) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await caller.until("error")
        move_last_error(session_of(found), 60)
        await found.simulator.drop_all(End.RESET)
        assert await found.ended() == "upstream_lost"
        assert len(found.upstreams) == 1


async def test_upstream_that_takes_nothing_any_more_is_replaced() -> None:
    """The client is read again, and what it said meanwhile arrives."""
    async with stage() as found, calling(found.relay) as caller:
        leg = session_of(found)._upstream
        leg.pause_writing()
        assert leg.full_since is not None
        leg.full_since -= 60
        caller.say("hello")
        await eventually(lambda: found.swaps("loss") == 1)
        await caller.until("conversation.item.done")
        await is_alive(caller)
        [line] = found.relay.events("session.recovered")
        assert (line["reason"], caller.count("error")) == ("upstream_too_slow", 0)
        caller.check()


async def test_failure_of_a_late_transcript_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every text of a failure that the client gets, also behind a switch."""
    is_due = asyncio.Event()
    monkeypatch.setattr(transcription, "asyncio", SimpleNamespace(sleep=lambda _: is_due.wait()))
    monkeypatch.setattr(transcription, "_FAILED", f"Incorrect API key provided: {SECRET}.")
    async with stage(Behaviour(transcription_fails=True)) as found, calling(found.relay) as caller:
        audio = {"input": {"transcription": {"model": "whisper-1"}}}
        caller.send("session.update", session={"type": "realtime", "audio": audio})
        caller.speak(600)
        caller.be_silent(800)
        await caller.until("response.done")
        swap = session_of(found)._swapper._swap
        swap._times = dataclasses.replace(swap._times, hard_before=1e9)  # the transcript is not awaited
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        is_due.set()
        await caller.until("conversation.item.input_audio_transcription.failed")
        [failed] = caller.of_type("conversation.item.input_audio_transcription.failed")
        assert failed["error"]["message"] == "Incorrect API key provided: [redacted]"
        assert found.relay.metric("realtime_relay_session_incidents_total") == 1
        await is_alive(caller)


async def test_transcript_that_comes_right_behind_a_switch_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch has waited for it for as long as it may, and the connection that transcribes is read a little longer."""
    is_due = asyncio.Event()
    monkeypatch.setattr(transcription, "asyncio", SimpleNamespace(sleep=lambda _: is_due.wait()))
    monkeypatch.setattr(mirror, "TRANSCRIPT_SECONDS", 0.0)
    async with stage() as found, calling(found.relay) as caller:
        audio = {"input": {"transcription": {"model": "whisper-1"}}}
        caller.send("session.update", session={"type": "realtime", "audio": audio})
        caller.speak(600)
        caller.be_silent(800)
        await caller.until("response.done")
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        for _ in range(3):
            await is_alive(caller)
        is_due.set()
        await caller.until("conversation.item.input_audio_transcription.completed")
        await is_alive(caller)
        caller.check()


async def test_renewal_has_more_time_for_its_dial_than_a_short_recovery() -> None:
    """The session is not without upstream meanwhile."""
    async with (
        stage(FAST, Behaviour(scenario="slow-first-event"), RELAY_RECOVERY_SECONDS="1") as found,
        calling(found.relay) as caller,
    ):
        await renew(found)
        await eventually(lambda: found.swaps("renewal") or found.swaps("renewal", "failed"), 10)
        assert found.swaps("renewal") == 1
        await is_alive(caller)


async def test_audio_right_before_a_loss_counts_for_the_length_of_the_answer() -> None:
    """An interruption cuts its text in proportion to all the audio that the client got, however that was counted."""
    ids = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0, "content_index": 0}
    item = {"id": "item_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    part = {"type": "audio", "transcript": ""}
    delta = event("response.output_audio.delta", event_id="event_1", **ids, delta="AAAA" * 1_600)  # 100 ms
    events = [
        event("session.created", session=session_object()),
        event("response.created", response={"id": "resp_1", "conversation_id": "conv_1", "status": "in_progress"}),
        event("response.output_item.added", **ids, item=item),
        event("conversation.item.added", previous_item_id=None, item=item),
        event("response.content_part.added", **ids, part=part),
        event("response.output_audio_transcript.delta", **ids, delta="Hello"),
        *[delta] * 5,
    ]
    joins = Joins()
    async with scripted_relay(joins, behind_101=build_frame(Opcode.TEXT, events[0])) as (relay, _):
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=scripted&continuity=renew")
        try:
            await client.next_event()
            for payload in events[1:]:
                joins.connections[0].send(payload)
                await client.next_event()
            joins.connections[0].reset()
            assert (await client.next_event())["type"] == "response.output_audio.done"
            [session] = relay.app.sessions
            assert isinstance(session, RenewableSession)
            cut = session._kept.continuity.mirror.items.get("item_1")
            assert cut is not None
            assert abs(cut.audio_ms - 500) < 5
        finally:
            await client.close()


async def test_recovery_tries_again_while_the_breaker_refuses_new_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the breaker may be as long as a recovery."""
    monkeypatch.setattr(circuit, "FAILURES_TO_OPEN", 1)
    monkeypatch.setattr(circuit, "TEMPORARY_OPEN_SECONDS", (60.0,))
    refused = Behaviour(scenario="http-500")
    async with stage(Behaviour(), refused, refused) as found, calling(found.relay) as caller:
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1, 20)
        caller.say("hello")
        await caller.until("conversation.item.done")
        caller.check()
