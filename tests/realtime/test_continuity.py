"""What a session keeps, and what the client gets when upstream is lost."""

import base64
import json
from typing import Any

import pytest

from service.realtime.continuity import Boundary, Continuity, ContinuityLimits
from tests.support.continued_call import client_frame, upstream_frame
from tests.support.kept_session import KeptSession, events_of, session_object, user_text
from tests.support.reference_api import Event, numbers_of, silence, speech
from tests.support.talk import Talk

CALL: Event = {"id": "a", "type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}


def types(events: list[Event]) -> list[str]:
    """Their types."""
    return [event["type"] for event in events]


def append(session: KeptSession, audio: bytes) -> None:
    """The client sends audio in one event."""
    session.client("input_audio_buffer.append", audio=base64.b64encode(audio).decode())


def heard(events: list[Event]) -> list[int]:
    """The numbers of the speech in appends."""
    appends = [event["audio"] for event in events if event["type"] == "input_audio_buffer.append"]
    return numbers_of(b"".join(map(base64.b64decode, appends)))


def committed(session: KeptSession, item_id: str, start_ms: int, end_ms: int) -> None:
    """Upstream detects a turn."""
    session.up("input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=start_ms)
    session.up("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=end_ms)
    session.up("input_audio_buffer.committed", item_id=item_id, previous_item_id=None)


def recovered(session: KeptSession) -> tuple[list[Event], list[Event]]:
    """What another upstream gets behind the replay, and what the client gets meanwhile."""
    return session.flush(session.replay().run().replay)


# -- an answer that is cut --------------------------------------------------------------------------------------------


def test_cut_answer_ends_as_a_cancelled_one() -> None:
    """Each open part and item is done, then the response."""
    session = KeptSession()
    session.answer("b", "one two", is_whole=False)
    events = session.lose()
    assert types(events) == [
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    response = events[-1]["response"]
    assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "client_cancelled")
    assert response["output"][0]["content"] == [{"type": "output_audio", "transcript": "one two"}]
    assert response["usage"]["input_token_details"]["cached_tokens"] == 0, "pipecat 1.10 stops receiving without one"
    assert events[4]["item"]["status"] == "incomplete"
    assert len({event["event_id"] for event in events}) == len(events)
    assert session.lose() == []


def test_cut_answer_is_asked_again_with_the_words_of_the_client() -> None:
    """Its metadata is what some clients find their answer by."""
    session = KeptSession()
    session.client("response.create", response={"metadata": {"n": "1"}})
    session.begin_answer("b", metadata={"n": "1"})
    session.lose()
    sent, _ = recovered(session)
    assert sent == [{"type": "response.create", "response": {"metadata": {"n": "1"}}}]


def test_answer_to_a_turn_is_asked_again() -> None:
    """Also if upstream had committed the turn and not begun to answer."""
    session = KeptSession()
    append(session, speech(range(1, 31)))
    committed(session, "a", 0, 600)
    session.lose()
    assert types(recovered(session)[0])[:1] == ["response.create"]


def test_turn_is_not_answered_if_the_client_asks_by_itself() -> None:
    """With `create_response: false` nothing is owed."""
    session = KeptSession(detection={"type": "server_vad", "create_response": False})
    append(session, speech(range(1, 31)))
    committed(session, "a", 0, 600)
    session.lose()
    assert "response.create" not in types(recovered(session)[0])


@pytest.mark.parametrize("is_late", [False, True])
def test_cancelled_answer_is_not_asked_again(is_late: bool) -> None:
    """Before the loss or behind it; and the new upstream has nothing to cancel."""
    session = KeptSession()
    session.answer("b", "one two", is_whole=False)
    if is_late:
        session.lose()
    session.client("response.cancel")
    session.lose()
    assert recovered(session)[0] == []


def test_answer_is_not_asked_again_while_the_user_speaks() -> None:
    """The turn brings an answer."""
    session = KeptSession(detection={"type": "server_vad", "interrupt_response": False})
    session.answer("b", "one two", is_whole=False)
    append(session, speech(range(1, 31)))
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    session.lose()
    sent, _ = recovered(session)
    assert (types(sent), heard(sent)) == (["input_audio_buffer.append"], list(range(1, 31)))


def test_answer_that_the_client_requests_meanwhile_is_asked_once() -> None:
    """Upstream refuses a second one."""
    session = KeptSession()
    session.answer("b", "one two", is_whole=False)
    session.lose()
    session.client("response.create", response={"instructions": "again"})
    assert types(recovered(session)[0]) == ["response.create"]


def test_answer_is_asked_again_after_a_second_loss() -> None:
    """Until upstream has begun it."""
    session = KeptSession()
    session.answer("b", "one two", is_whole=False)
    session.lose()
    assert types(recovered(session)[0]) == ["response.create"]
    session.lose()
    assert types(recovered(session)[0]) == ["response.create"]
    session.begin_answer("c")
    session.up("response.done", response={"id": "resp_c", "status": "completed"})
    session.lose()
    assert recovered(session)[0] == []


def test_turn_is_answered_before_a_request() -> None:
    """Upstream refuses the request, or answers it next."""
    session = KeptSession()
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    session.client("response.create", event_id="e1")
    session.begin_answer("b")
    session.up("error", error={"code": "conversation_already_has_active_response", "event_id": "e1"})
    session.lose()
    sent, _ = recovered(session)
    assert [event.get("event_id") for event in sent if event["type"] == "response.create"] != ["e1"]
    assert types(sent)[0] == "response.create"


def test_whole_answer_without_its_end_is_not_asked_again() -> None:
    """Only `response.done` is missing."""
    session = KeptSession()
    response, item = session.begin_answer("b")
    done = {**item, "status": "completed", "content": [{"type": "output_audio", "transcript": "one"}]}
    session.up("conversation.item.done", item=done)
    session.up("response.output_item.done", response_id=response["id"], output_index=0, item=done)
    events = session.lose()
    assert (types(events), events[0]["response"]["status"]) == (["response.done"], "completed")
    assert recovered(session)[0] == []


def begin_call(session: KeptSession) -> Event:
    """Upstream begins to call a function; returns the ids of its events."""
    session.up("response.created", response={"id": "r", "conversation_id": "v"})
    session.up("response.output_item.added", response_id="r", output_index=0, item={**CALL, "status": "in_progress"})
    session.up("conversation.item.added", item={**CALL, "status": "in_progress"}, previous_item_id=None)
    return {"response_id": "r", "item_id": "a", "output_index": 0, "call_id": "c1"}


def test_call_without_its_arguments_is_not_shown_and_called_again() -> None:
    """A client could execute what is incomplete."""
    session = KeptSession()
    begin_call(session)
    assert types(session.lose()) == ["response.done"]
    new = session.replay().run()
    assert new.items == []
    assert types(session.flush(new.replay)[0]) == ["response.create"]


def test_call_with_its_arguments_is_done_and_not_called_again() -> None:
    """The client executes it; its output is accepted, and brings the answer."""
    session = KeptSession()
    ids = begin_call(session)
    session.up("response.function_call_arguments.done", **ids, name="f", arguments='{"x":1}')
    events = session.lose()
    assert types(events) == ["conversation.item.done", "response.output_item.done", "response.done"]
    assert events[1]["item"] == {**CALL, "arguments": '{"x":1}', "status": "completed"}
    new = session.replay().run()
    assert new.items[0] | {"after": 0} == {**CALL, "arguments": '{"x":1}', "after": 0}
    assert session.flush(new.replay)[0] == []


def test_answer_outside_the_conversation_is_asked_again_beside_the_other() -> None:
    """Upstream gives both at once."""
    session = KeptSession()
    session.client("response.create", response={"conversation": "none", "metadata": {"n": "1"}})
    session.up("response.created", response={"id": "r", "conversation_id": None, "metadata": {"n": "1"}})
    session.answer("b", "one two", is_whole=False)
    session.lose()
    assert [event.get("response") for event in recovered(session)[0]] == [
        {"conversation": "none", "metadata": {"n": "1"}},
        None,
    ]


# -- items that are announced -----------------------------------------------------------------------------------------


def test_committed_turn_is_announced_if_upstream_could_not() -> None:
    """The client waits for the item, and knows its id."""
    session = KeptSession()
    session.item(user_text("a", "hello"))
    append(session, speech(range(1, 31)))
    committed(session, "b", 0, 600)
    added, done = session.lose()
    assert types([added, done]) == ["conversation.item.added", "conversation.item.done"]
    assert (added["item"]["id"], added["previous_item_id"]) == ("b", "a")
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]


# -- what is not acknowledged -----------------------------------------------------------------------------------------


def test_events_go_out_in_order_until_they_are_acknowledged() -> None:
    """Audio and other events alike."""
    session = KeptSession(detection=None)
    append(session, speech(range(1, 6)))
    session.client("input_audio_buffer.commit")
    append(session, speech(range(6, 11)))
    session.client("conversation.item.create", item=user_text("a", "hello"))
    session.client("response.create")
    session.lose()
    sent, _ = recovered(session)
    assert types(sent) == [
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.append",
        "conversation.item.create",
        "response.create",
    ]
    session.up("input_audio_buffer.committed", item_id="c", previous_item_id=None)
    session.up("conversation.item.added", item=user_text("a", "hello"), previous_item_id="c")
    session.lose()
    new = session.replay().run()
    assert numbers_of(base64.b64decode(new.items[0]["content"][0]["audio"])) == list(range(1, 6))
    sent, _ = session.flush(new.replay)
    assert (types(sent), heard(sent)) == (["input_audio_buffer.append", "response.create"], list(range(6, 11)))


def test_frames_of_the_client_are_sent_as_they_are() -> None:
    """With its mask, byte for byte."""
    session = KeptSession()
    session.client("conversation.item.create", item=user_text("a", "hello"))
    session.lose()
    replay = session.replay().run().replay
    session.continuity.begin_flush(replay, session.now)
    step = session.continuity.next_flush(session.now)
    assert step is not None
    assert step.to_upstream == [client_frame({"type": "conversation.item.create", "item": user_text("a", "hello")})]


@pytest.mark.parametrize(
    "error",
    [
        {"event_id": "e1", "code": "any"},
        {"event_id": None, "code": "invalid_value", "param": "item.id"},
        {"event_id": None, "code": "item_create_duplicate_item_id", "param": None},
    ],
)
def test_refused_event_is_not_sent_again(error: Event) -> None:
    """The error names it, or shows its kind."""
    session = KeptSession()
    session.client("conversation.item.create", event_id="e1", item=user_text("a", "hello"))
    session.up("error", error=error)
    session.lose()
    assert recovered(session)[0] == []


def test_event_before_an_acknowledged_one_is_not_sent_again() -> None:
    """Upstream processes events in order, so that it has refused the first."""
    session = KeptSession()
    session.client("conversation.item.create", item=user_text("a", "hello"))
    session.client("conversation.item.create", item=user_text("b", "hello"))
    session.item(user_text("b", "hello"))
    session.lose()
    assert recovered(session)[0] == []


def test_event_that_is_never_acknowledged_does_not_block_a_boundary() -> None:
    """Upstream has answered a ping that was sent ten seconds later."""
    session = KeptSession()
    session.client("conversation.item.create", item=user_text("a", "hello"))
    assert session.continuity.boundary(session.now) is Boundary.NONE
    session.continuity.reached(session.now + 11)
    assert session.continuity.boundary(session.now + 12) is Boundary.SOFT


def test_message_in_parts_is_kept_whole() -> None:
    """Also if upstream was lost inside it."""
    session = KeptSession()
    raw = client_frame({"type": "conversation.item.create", "item": user_text("a", "x" * 100)})
    session.continuity.keep_client_part(raw[:10], session.now)
    session.continuity.keep_client_part(raw[10:20], session.now)
    assert session.continuity.boundary(session.now) is Boundary.NONE
    session.lose()
    session.continuity.keep_client("conversation.item.create", raw[20:], session.now)
    assert recovered(session)[0][0]["item"]["id"] == "a"


# -- audio ------------------------------------------------------------------------------------------------------------


def test_turns_in_one_event_are_divided_where_upstream_divided_them() -> None:
    """What is behind the middle of the silence belongs to the next turn."""
    session = KeptSession()
    append(session, speech(range(1, 31)) + silence(20) + speech(range(31, 61)))
    committed(session, "a", 0, 800)
    session.up("input_audio_buffer.speech_started", item_id="b", audio_start_ms=800)
    session.lose()
    new = session.replay().run()
    assert numbers_of(base64.b64decode(new.items[0]["content"][0]["audio"])) == list(range(1, 31))
    assert heard(session.flush(new.replay)[0]) == list(range(31, 61))


def test_silence_leaves_once_it_has_reached_upstream() -> None:
    """An open microphone costs about a second."""
    session = KeptSession()
    for second in range(60):
        session.now = float(second)
        append(session, silence(50))
        session.continuity.reached(session.now)
        session.continuity.fold(session.now)
    assert session.continuity.journal.audio_bytes < 4 * 65_000


def test_speech_at_an_upstream_that_fell_silent_is_kept() -> None:
    """Nothing shows that it has arrived."""
    session = KeptSession()
    for second in range(20):
        session.now = float(second)
        append(session, speech(range(1 + 50 * second, 51 + 50 * second)))
        session.continuity.fold(session.now)
    session.lose()
    assert heard(recovered(session)[0]) == list(range(1, 1001))


def test_turn_that_is_too_long_loses_its_beginning_and_is_counted() -> None:
    """The limit bounds the memory of a session."""
    session = KeptSession(ContinuityLimits(audio_bytes=200_000))
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    for second in range(10):
        append(session, speech(range(1 + 50 * second, 51 + 50 * second)))
        session.continuity.fold(session.now)
    assert session.continuity.journal.audio_bytes <= 200_000
    session.lose()
    assert heard(recovered(session)[0]) == list(range(351, 501))
    assert session.continuity.lost_turns == {"audio_over_limit": 1}


def test_client_is_held_back_while_upstream_is_missing() -> None:
    """Beyond the limit, and until the journal is sent."""
    session = KeptSession(ContinuityLimits(audio_bytes=200_000))
    session.lose()
    while not session.continuity.is_full:
        append(session, speech(range(50)))
    assert session.continuity.kept_bytes < 400_000
    recovered(session)
    session.continuity.fold(session.now)
    assert not session.continuity.is_full


def test_client_is_held_back_by_events_that_are_not_acknowledged() -> None:
    """Until they are."""
    session = KeptSession(ContinuityLimits(journal_bytes=100_000))
    session.client("conversation.item.create", item=user_text("a", "x" * 150_000))
    assert session.continuity.is_full
    session.item(user_text("a", "..."))
    assert not session.continuity.is_full


def test_g711_is_divided_by_its_own_length() -> None:
    """Eight bytes are a millisecond."""
    session = KeptSession(format={"type": "audio/pcmu"})
    append(session, bytes(range(256)) * 10)
    committed(session, "a", 0, 80)
    new = session.replay(format={"type": "audio/pcmu"}).run()
    assert base64.b64decode(new.items[0]["content"][0]["audio"]) == (bytes(range(256)) * 10)[: 81 * 8]


def test_duration_of_an_answer_is_known_to_a_millisecond_for_each_event() -> None:
    """From the size of its events."""
    session = KeptSession()
    session.answer("b", "one", deltas=40)
    session.continuity.fold(session.now)
    item = session.continuity.mirror.items.get("b")
    assert item is not None
    assert abs(item.audio_ms - 4000) < 40


# -- boundaries -------------------------------------------------------------------------------------------------------


def test_boundary_waits_for_the_end_of_the_playback() -> None:
    """The answer comes faster than it is played."""
    session = KeptSession()
    session.answer("b", "one", deltas=40)
    assert session.continuity.boundary(session.now) is Boundary.HARD
    assert session.continuity.boundary(session.now + 4.2) is Boundary.SOFT


def test_boundary_waits_for_the_output_of_a_tool_and_for_a_transcript() -> None:
    """Both are only soft, and a transcript is awaited for five seconds."""
    session = KeptSession(transcription={"model": "t"}, detection={"type": "server_vad", "create_response": False})
    committed(session, "a", 0, 100)
    assert session.continuity.boundary(session.now) is Boundary.HARD
    assert session.continuity.boundary(session.now + 6) is Boundary.SOFT
    session.item({**CALL, "id": "x", "status": "completed"})
    assert session.continuity.boundary(session.now + 6) is Boundary.HARD
    session.item({"id": "o", "type": "function_call_output", "call_id": "c1", "output": "1"})
    assert session.continuity.boundary(session.now + 6) is Boundary.SOFT


@pytest.mark.parametrize("open_", ["response", "owed", "speech", "request"])
def test_there_is_no_boundary_inside_a_turn(open_: str) -> None:
    """From speech to the end of the answer."""
    session = KeptSession()
    if open_ == "response":
        session.begin_answer("b")
    elif open_ == "owed":
        committed(session, "a", 0, 100)
    elif open_ == "speech":
        session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    else:
        session.client("response.create")
    assert session.continuity.boundary(session.now) is Boundary.NONE


# -- behind a swap ----------------------------------------------------------------------------------------------------


def swapped() -> KeptSession:
    """A session whose spoken answer `b` is text upstream, between `a` and `c`, and whose answer `x` is absent."""
    session = KeptSession()
    session.item(user_text("a", "hello"))
    session.answer("b", "one two three four", deltas=10)
    session.item(user_text("c", "more"))
    session.begin_answer("x")
    session.up("response.done", response={"id": "resp_x", "status": "cancelled"})
    session.lose()
    recovered(session)
    return session


def intercept(session: KeptSession, kind: str, **fields: Any) -> tuple[list[Event], list[Event]] | None:
    """What happens in place of forwarding; None: it is forwarded."""
    done = session.continuity.intercept(kind, client_frame({"type": kind, **fields}), session.now)
    return None if done is None else (events_of(done.to_upstream), [json.loads(payload) for payload in done.to_client])


def test_truncation_of_a_text_replaces_it_by_what_was_heard() -> None:
    """Upstream would refuse it; the client gets the answer that it expects, and none of the relay's own."""
    session = swapped()
    done = intercept(session, "conversation.item.truncate", item_id="b", content_index=0, audio_end_ms=500)
    assert done is not None
    (delete, create), (answer,) = done
    assert (delete["type"], delete["item_id"]) == ("conversation.item.delete", "b")
    assert (create["previous_item_id"], create["item"]["content"][0]["text"]) == ("a", "one two")
    assert (answer["type"], answer["item_id"], answer["audio_end_ms"]) == ("conversation.item.truncated", "b", 500)
    acks = [
        ("conversation.item.deleted", {"item_id": "b"}),
        ("conversation.item.added", {"item": create["item"]}),
        ("conversation.item.done", {"item": create["item"]}),
    ]
    for kind, fields in acks:
        assert session.continuity.swallows
        assert session.continuity.swallow(kind, upstream_frame({"type": kind, **fields}), session.now)
        assert not session.continuity.swallow(kind, upstream_frame({"type": kind, "item_id": "z"}), session.now)
    assert not session.continuity.swallows
    session.lose()
    assert session.replay().run().texts["b"] == "one two"


def test_error_about_an_event_of_the_relay_is_hidden() -> None:
    """The client has not sent it."""
    session = swapped()
    done = intercept(session, "conversation.item.truncate", item_id="b", content_index=0, audio_end_ms=500)
    assert done is not None
    for event in done[0]:
        error = upstream_frame({"type": "error", "error": {"code": "x", "event_id": event["event_id"]}})
        assert session.continuity.swallow("error", error, session.now)
    assert not session.continuity.swallows


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


def test_truncation_of_a_spoken_answer_of_the_new_upstream_is_forwarded() -> None:
    """It has the audio."""
    session = swapped()
    session.answer("n", "new")
    assert intercept(session, "conversation.item.truncate", item_id="n", content_index=0, audio_end_ms=5) is None
    assert intercept(session, "conversation.item.truncate", item_id="?", content_index=0, audio_end_ms=5) is None


def test_deletion_of_an_absent_item_is_answered() -> None:
    """That of another item is forwarded."""
    session = swapped()
    assert intercept(session, "conversation.item.delete", item_id="b") is None
    done = intercept(session, "conversation.item.delete", item_id="x")
    assert done is not None
    assert (done[0], types(done[1])) == ([], ["conversation.item.deleted"])
    assert intercept(session, "conversation.item.delete", item_id="x") is None


def test_item_behind_an_absent_one_goes_behind_the_one_before() -> None:
    """Upstream would refuse it."""
    session = swapped()
    item = user_text("n", "new")
    assert intercept(session, "conversation.item.create", item=item, previous_item_id="c") is None
    done = intercept(session, "conversation.item.create", item=item, previous_item_id="x")
    assert done is not None
    assert done[0][0]["previous_item_id"] == "c"
    session.lose()
    assert types(recovered(session)[0]) == ["conversation.item.create"]


def test_item_behind_an_absent_first_one_stays_first() -> None:
    """Also at the upstream after the next."""
    session = KeptSession()
    begin_call(session)
    session.lose()
    session.client("conversation.item.create", item=user_text("n", "new"), previous_item_id="a")
    sent, _ = recovered(session)
    assert [event.get("previous_item_id") for event in sent][-1] == "root"
    session.item(user_text("z", "other"))
    session.item(user_text("n", "new"))
    session.lose()
    assert [item["id"] for item in session.replay().run().items] == ["n", "z"]


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


# -- other sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_manual", [False, True])
def test_turns_of_a_transcription_session_are_sent_again_until_transcribed(is_manual: bool) -> None:
    """It has no items; what ends the turn is sent as well."""
    detection = {"detection": None} if is_manual else {}
    session = KeptSession(type="transcription", **detection)
    append(session, speech(range(1, 31)) + silence(10))
    if is_manual:
        session.client("input_audio_buffer.commit")
        session.up("input_audio_buffer.committed", item_id="a", previous_item_id=None)
    else:
        committed(session, "a", 0, 800)
    session.lose()
    new = session.replay(type="transcription", **detection).run()
    assert new.items == []
    sent, _ = session.flush(new.replay)
    assert heard(sent) == list(range(1, 31))
    assert ("input_audio_buffer.commit" in types(sent)) is is_manual


def test_transcribed_turn_of_a_transcription_session_is_not_sent_again() -> None:
    """Even if nothing was said."""
    session = KeptSession(type="transcription", detection=None)
    append(session, speech(range(1, 31)))
    session.client("input_audio_buffer.commit")
    session.up("input_audio_buffer.committed", item_id="a", previous_item_id=None)
    session.up("conversation.item.input_audio_transcription.completed", item_id="a", transcript="")
    session.lose()
    assert recovered(session)[0] == []


def test_session_without_a_session_event_is_not_renewable() -> None:
    """Its configuration is unknown."""
    assert Continuity().not_renewable == "no_session"


@pytest.mark.parametrize(
    "session", [{"type": "translation", "audio": {}}, {"modalities": ["audio"], "turn_detection": None}]
)
def test_session_of_another_shape_is_not_renewable(session: Event) -> None:
    """That of the beta is flat, and a translation has no items."""
    kept = KeptSession()
    kept.up("session.updated", session=session)
    kept.continuity.fold(kept.now)
    assert kept.continuity.not_renewable == "unsupported_session"


def test_session_beyond_the_budget_of_the_process_keeps_nothing() -> None:
    """For the rest of its life."""
    session = KeptSession()
    append(session, silence(50))
    session.continuity.give_up("over_budget")
    assert (session.continuity.not_renewable, session.continuity.kept_bytes) == ("over_budget", 0)
    append(session, silence(50))
    session.continuity.fold(session.now)
    assert session.continuity.kept_bytes == 0


def test_expiry_is_that_of_the_upstream_in_use() -> None:
    """An update does not change it."""
    session = KeptSession()
    session.flush(session.replay(expires_at=9000).run().replay)
    assert session.continuity.expires_at == 9000
    session.up("session.updated", session=session_object(expires_at=9000))
    session.continuity.fold(session.now)
    assert session.continuity.expires_at == 9000


def test_long_call_stays_within_its_bounds() -> None:
    """A call of many turns, of which no turn is transcribed."""
    limits = ContinuityLimits(item_bytes=20_000, audio_bytes=100_000)
    talk = Talk([2] * 100, has_transcripts=False, limits=limits)
    for _ in range(60):
        for name, a, b in (("type", 1, 1), ("speak", 9, 9), ("hush", 30, 9), ("rest", 9, 9)):
            talk.act(name, a, b)
        assert talk.call.continuity.mirror.items.bytes <= 20_000 + 1_000
        assert talk.call.continuity.kept_bytes < 20_000 + 100_000 + 65_536 + 20_000
    talk.call.lose()
    talk.call.recover()
    assert talk.call.continuity.lost_turns["audio_over_limit"] > 0
