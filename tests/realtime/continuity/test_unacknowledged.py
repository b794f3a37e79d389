"""Events of the client that upstream has not acknowledged go to the next upstream."""

import base64
import json

import pytest

from service.realtime.continuity.continuity import Boundary
from tests.support.continued_call import client_frame, upstream_frame
from tests.support.kept_session import (
    KeptSession,
    append,
    begin_call,
    committed,
    heard,
    recovered,
    types,
    user_text,
)
from tests.support.numbered_speech import numbers_of, silence, speech
from tests.support.reference_api import Event


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


@pytest.mark.parametrize(
    ("kind", "code", "param"),
    [
        ("conversation.item.truncate", "unsupported_content_type", None),
        ("conversation.item.truncate", "invalid_type", "content_index"),
        ("session.update", "immutable_field_update", None),
        ("response.cancel", "invalid_type", "response_id"),
    ],
)
def test_refused_event_that_the_error_does_not_name_is_not_sent_again(kind: str, code: str, param: str | None) -> None:
    """Else the client would get its error twice: the provider often names no event."""
    session = KeptSession()
    session.client(kind, item_id="a", session={"type": "realtime"})
    session.up("error", error={"event_id": None, "code": code, "param": param})
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


@pytest.mark.parametrize(
    ("details", "is_sent_again"),
    [
        ({"type": "cancelled", "reason": "turn_detected"}, True),
        ({"type": "cancelled", "reason": "client_cancelled"}, False),
        (None, True),
    ],
)
def test_interrupted_answer_says_nothing_of_what_the_client_has_sent(
    details: Event | None, *, is_sent_again: bool
) -> None:
    """Upstream interrupts its answer before the client's cancellation arrives, and is lost before it says more."""
    session = KeptSession()
    response, _ = session.begin_answer("a")
    append(session, speech(range(1, 31)))
    session.now += 2
    append(session, silence(100))
    session.client("response.cancel")
    session.up("response.done", response={**response, "status": "cancelled", "status_details": details, "output": []})
    session.continuity.fold(session.now)
    session.lose()
    sent, _ = recovered(session)
    assert (heard(sent) == list(range(1, 31))) is is_sent_again


def test_error_is_of_the_event_of_its_type_among_those_with_one_id() -> None:
    """A client may give all of its events the same."""
    session = KeptSession()
    session.client("response.create", event_id="same", response={"metadata": {"n": "1"}})
    session.client("conversation.item.create", event_id="same", item=user_text("a", "hello"))
    session.up("error", error={"event_id": "same", "code": "item_create_duplicate_item_id", "param": None})
    session.lose()
    assert types(recovered(session)[0]) == ["response.create"]


@pytest.mark.parametrize("outcome", ["delta", "completed", "failed"])
def test_late_transcript_of_a_turn_that_the_client_never_saw_is_hidden(outcome: str) -> None:
    """Upstream committed the turn while it was given up in mid-speech: the next one hears it again, as another item."""
    session = KeptSession(transcription={"model": "t"})
    append(session, speech(range(1, 31)))
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    session.lose()
    recovered(session)
    kind = f"conversation.item.input_audio_transcription.{outcome}"
    event = upstream_frame({"type": kind, "item_id": "a", "transcript": "late"})
    assert not session.continuity.old_upstream_event(kind, event, session.now)
    committed(session, "b", 0, 800)
    event = upstream_frame({"type": kind, "item_id": "b", "transcript": "late"})
    assert session.continuity.old_upstream_event(kind, event, session.now)


def test_item_after_one_whose_deletion_the_relay_answers_keeps_its_place() -> None:
    """The deletion overtakes the creation, which the next upstream gets behind it."""
    session = KeptSession()
    session.item(user_text("a", "hello"))
    session.begin_answer("x")
    session.up("response.done", response={"id": "resp_x", "status": "cancelled"})
    session.item(user_text("c", "more"), "x")
    session.lose()
    recovered(session)
    session.client("conversation.item.create", event_id="mine", item=user_text("n", "new"), previous_item_id="x")
    frame = client_frame({"type": "conversation.item.delete", "item_id": "x"})
    assert session.continuity.intercept("conversation.item.delete", frame, session.now) is not None
    session.lose()
    (create,) = recovered(session)[0]
    assert (create["event_id"], create["previous_item_id"]) == ("mine", "a")


def test_call_without_its_arguments_can_be_retrieved() -> None:
    """The client has seen it, although no other upstream has it."""
    session = KeptSession()
    begin_call(session)
    session.lose()
    recovered(session)
    frame = client_frame({"type": "conversation.item.retrieve", "item_id": "a"})
    done = session.continuity.intercept("conversation.item.retrieve", frame, session.now)
    assert done is not None
    item = json.loads(done.to_client[0])["item"]
    assert (item["type"], item["call_id"], item["status"]) == ("function_call", "c1", "incomplete")


def test_text_that_the_client_has_deleted_is_not_replaced_when_it_is_truncated() -> None:
    """The relay would create it again behind the deletion, and hide the acknowledgement of that."""
    session = KeptSession()
    session.answer("b", "one two three four", deltas=10)
    session.lose()
    recovered(session)
    session.client("conversation.item.delete", item_id="b")
    fields = {"item_id": "b", "content_index": 0, "audio_end_ms": 500}
    frame = client_frame({"type": "conversation.item.truncate", **fields})
    assert session.continuity.intercept("conversation.item.truncate", frame, session.now) is None
    event = upstream_frame({"type": "conversation.item.deleted", "item_id": "b"})
    assert not session.continuity.swallow("conversation.item.deleted", event, session.now)


def end_early(session: KeptSession, kind: str, numbers: range) -> None:
    """The client says these words, and commits or clears them, while upstream hears speech."""
    append(session, speech(numbers))
    session.client(f"input_audio_buffer.{kind}")
    if kind == "commit":
        session.up("input_audio_buffer.committed", item_id=f"m{numbers[0]}", previous_item_id=None)
    else:
        session.up("input_audio_buffer.cleared")


@pytest.mark.parametrize("kinds", [("commit",), ("commit", "commit"), ("clear",), ("commit", "clear")])
def test_speech_that_goes_on_after_a_commit_or_clear_of_the_client_is_kept(kinds: tuple[str, ...]) -> None:
    """Upstream may go on with the speech that it had noticed, and sends no other start of it."""
    session = KeptSession()
    session.up("input_audio_buffer.speech_started", item_id="s", audio_start_ms=0)
    for number, kind in enumerate(kinds):
        end_early(session, kind, range(1 + 15 * number, 16 + 15 * number))
    for number in range(31, 151):
        append(session, speech(range(number, number + 1)))
        session.now += 0.02
    session.continuity.fold(session.now, 1_000)
    session.continuity.reached(session.now)
    session.continuity.fold(session.now)
    session.lose()
    assert heard(recovered(session)[0]) == list(range(31, 151))


def test_cancellation_of_nothing_is_sent_again_beside_an_item_that_is_announced() -> None:
    """The client gets the error that it would get without a loss: no answer was cut."""
    session = KeptSession()
    session.client("conversation.item.create", item=user_text("a", "hello"))
    session.up("conversation.item.added", item=user_text("a", "hello"), previous_item_id=None)
    session.client("response.cancel", event_id="mine")
    session.client("response.create")
    assert types(session.lose()) == ["conversation.item.done"]
    assert types(recovered(session)[0]) == ["response.cancel", "response.create"]
