"""Transcriptions across a swap: the client is sent one end of each, and its parts from one upstream."""

import json
from typing import Any

import pytest

from tests.support.continued_call import upstream_frame
from tests.support.kept_session import KeptSession, append, committed, recovered, session_object
from tests.support.numbered_speech import silence, speech

KIND = "conversation.item.input_audio_transcription."


def turn(**session: Any) -> KeptSession:
    """A session in which the user has said `a`."""
    found = KeptSession(**{"transcription": {"model": "t"}, **session})
    append(found, speech(range(1, 31)) + silence(10))
    committed(found, "a", 0, 800)
    return found


def is_shown(session: KeptSession, part: str, item_id: str = "a") -> bool:
    """Whether the client is sent an event of the current upstream, which is then kept."""
    fields = {"item_id": item_id, "delta": "x", "transcript": "x y"}
    raw = upstream_frame({"type": KIND + part, **fields})
    if session.continuity.swallows and session.continuity.swallow(KIND + part, raw, session.now):
        return False
    session.up(KIND + part, **fields)
    return True


def is_shown_late(session: KeptSession, part: str) -> bool:
    """Whether the client is sent an event of the upstream before."""
    raw = upstream_frame({"type": KIND + part, "item_id": "a", "delta": "x", "transcript": "x y"})
    return session.continuity.old_upstream_event(KIND + part, raw, session.now)


@pytest.mark.parametrize("part", ["delta", "segment"])
def test_parts_of_a_second_transcription_are_hidden_where_the_client_has_some(part: str) -> None:
    """A client that puts them together would show the words twice. The end has all of them."""
    session = turn()
    assert is_shown(session, part)
    session.lose()
    recovered(session)
    assert [is_shown(session, name) for name in (part, part, "completed")] == [False, False, True]


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_nothing_of_a_second_transcription_is_shown_behind_the_end_of_one(end: str) -> None:
    """Also one that has failed ends once. The turn is created as audio again if it has no words."""
    session = KeptSession(transcription={"model": "t"})
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    session.up(KIND + end, item_id="a", transcript="")
    session.lose()
    recovered(session)
    assert [is_shown(session, name) for name in ("delta", "segment", end)] == [False] * 3


def test_parts_of_a_transcription_that_had_not_begun_are_shown() -> None:
    """Then those of the upstream before are not; the first end is shown."""
    session = turn()
    session.flush(session.replay().run().replay)
    assert is_shown(session, "delta")
    assert not is_shown_late(session, "delta")
    assert is_shown(session, "delta")
    assert is_shown_late(session, "completed")
    assert not is_shown(session, "delta")
    assert not is_shown(session, "completed")


def test_parts_of_the_upstream_before_hide_those_of_the_current_one() -> None:
    """It goes on for a while; the end may come of either."""
    session = turn()
    session.flush(session.replay().run().replay)
    assert is_shown_late(session, "delta")
    assert not is_shown(session, "delta")
    assert is_shown(session, "completed")
    assert not is_shown_late(session, "delta")
    assert not is_shown_late(session, "completed")


def test_parts_that_came_before_the_switch_hide_the_rest() -> None:
    """The client has not been sent the first of them."""
    session = turn()
    session.lose()
    replay = session.replay().run().replay
    replay.received(KIND + "delta", upstream_frame({"type": KIND + "delta", "item_id": "a", "delta": "x"}))
    session.flush(replay)
    assert [is_shown(session, name) for name in ("delta", "completed")] == [False, True]


def test_turn_that_was_said_before_transcription_was_switched_on_is_not_transcribed_later() -> None:
    """Without a swap no transcript of it would come."""
    session = turn(transcription=None)
    session.client("session.update", session={"type": "realtime"})
    session.up("session.updated", session=session_object(transcription={"model": "t"}))
    session.lose()
    recovered(session)
    assert [is_shown(session, name) for name in ("delta", "completed")] == [False, False]


def test_transcript_is_shown_once() -> None:
    """The new upstream may transcribe a turn whose transcript the client got late from the one before."""
    session = KeptSession(transcription={"model": "t"})
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    session.lose()
    recovered(session)
    kind = "conversation.item.input_audio_transcription.completed"
    event = upstream_frame({"type": kind, "item_id": "a", "transcript": "late"})
    assert session.continuity.old_upstream_event(kind, event, session.now)
    assert session.continuity.swallow(kind, event, session.now)
    assert not session.continuity.swallow(kind, event, session.now)


def test_late_transcript_of_the_upstream_before_is_forwarded_and_kept() -> None:
    """Nothing else of it is."""
    session = KeptSession()
    committed(session, "a", 0, 100)
    session.up("response.created", response={"id": "r"})
    session.up("response.done", response={"id": "r", "status": "completed"})
    session.flush(session.replay().run().replay)
    kind = "conversation.item.input_audio_transcription.completed"
    event = upstream_frame({"type": kind, "item_id": "a", "transcript": "late"})
    assert session.continuity.old_upstream_event(kind, event, session.now)
    assert not session.continuity.old_upstream_event("response.done", event, session.now)
    assert session.replay().run().texts == {"a": "late"}


def test_empty_transcript_is_shown_once() -> None:
    """Audio of which nothing is understood is created as audio again and again."""
    session = KeptSession(transcription={"model": "t"})
    append(session, speech(range(1, 6)))
    committed(session, "a", 0, 100)
    kind = "conversation.item.input_audio_transcription.completed"
    session.up(kind, item_id="a", transcript="")
    session.lose()
    recovered(session)
    event = upstream_frame({"type": kind, "item_id": "a", "transcript": ""})
    assert session.continuity.swallow(kind, event, session.now)
    session.flush(session.replay().run().replay)
    assert not session.continuity.old_upstream_event(kind, event, session.now), "of the one before, behind a switch"


def test_transcript_of_a_message_with_audio_is_shown_once() -> None:
    """The next upstream transcribes it, too."""
    session = KeptSession(transcription={"model": "t"})
    item = {"id": "a", "type": "message", "role": "user", "content": [{"type": "input_audio", "audio": "AAAA"}]}
    session.client("conversation.item.create", item=item)
    session.item(item)
    kind = "conversation.item.input_audio_transcription.completed"
    session.up(kind, item_id="a", transcript="hello")
    session.lose()
    recovered(session)
    event = upstream_frame({"type": kind, "item_id": "a", "transcript": "hello"})
    assert session.continuity.swallow(kind, event, session.now)


def test_transcript_of_an_item_that_is_deleted_meanwhile_is_hidden() -> None:
    """The relay had created it anew; for the client it is gone."""
    session = KeptSession(transcription={"model": "t"})
    append(session, speech(range(1, 6)))
    committed(session, "a", 0, 100)
    session.lose()
    recovered(session)
    session.client("conversation.item.delete", item_id="a")
    session.up("conversation.item.deleted", item_id="a")
    kind = "conversation.item.input_audio_transcription.completed"
    event = upstream_frame({"type": kind, "item_id": "a", "transcript": "1 2 3"})
    assert session.continuity.swallow(kind, event, session.now)


@pytest.mark.parametrize("end", ["", "completed"])
def test_transcription_that_no_upstream_ends_fails_after_a_while(end: str) -> None:
    """The provider may not transcribe what it gets as audio in another item, and a client may wait for the end."""
    session = turn()
    session.lose()
    recovered(session)
    assert not session.continuity.overdue(session.now + 9)
    if end:
        assert is_shown(session, end)
        session.continuity.fold(session.now)
        assert not session.continuity.overdue(session.now + 20)
        return
    [failed] = map(json.loads, session.continuity.overdue(session.now + 11))
    assert (failed["type"], failed["item_id"], failed["content_index"]) == (KIND + "failed", "a", 0)
    assert "was lost" in failed["error"]["message"]
    assert not is_shown(session, "completed")
    assert not session.continuity.overdue(session.now + 20)


def test_transcription_that_a_second_loss_cuts_fails_once() -> None:
    """Not while upstream is missing."""
    session = turn()
    session.lose()
    recovered(session)
    session.lose()
    assert not session.continuity.overdue(session.now + 11)
    session.now += 40
    recovered(session)
    assert not session.continuity.overdue(session.now + 9)
    assert len(session.continuity.overdue(session.now + 11)) == 1
