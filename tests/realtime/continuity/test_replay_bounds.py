"""How much of a conversation is kept to be created again, and how much of it is sent at once."""

import json

import pytest

from service.realtime.continuity.limits import ContinuityLimits
from tests.support.continued_call import client_frame, upstream_frame
from tests.support.kept_session import KeptSession, committed, events_of, recovered, session_object, user_text
from tests.support.reference_api import Event


def test_image_displaces_no_text() -> None:
    """Items with images have a bound of their own: the oldest image goes, and what was said before it stays."""
    image = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "x" * 1000}]}
    session = KeptSession(ContinuityLimits(item_bytes=1000, image_bytes=3000))
    session.item(user_text("first", "hello"))
    for number in range(4):
        session.client("conversation.item.create", item={**image, "id": f"i{number}"})
        session.item({**image, "id": f"i{number}"})
    session.item(user_text("last", "what is this?"))
    assert [item["id"] for item in session.replay().run().items] == ["first", "i2", "i3", "last"]
    session.continuity.fold(session.now)
    assert session.continuity.mirror.items.dropped_messages == 2
    for number in range(20):
        session.item(user_text(f"t{number}", "x" * 100))
    again = [item["id"] for item in session.replay().run().items]
    assert again[:2] == ["i2", "i3"]
    assert again[-1] == "t19"
    assert len(again) < 7


def test_slice_of_a_replay_is_bounded() -> None:
    """Each is one turn of the event loop: a hundred items, or 256 KiB and one item."""
    session = KeptSession()
    for number in range(1000):
        session.item(user_text(f"i{number}", "x" * 100))
    for number in range(8):
        session.item({**user_text(f"l{number}", ""), "content": [{"type": "input_image", "image_url": "x" * 100_000}]})
    replay = session.replay().replay
    slices = []
    while taken := replay.take(is_final=True):
        slices.append(taken)
        for payload in taken:
            item = json.loads(payload)["item"]
            replay.received("conversation.item.done", upstream_frame({"type": "conversation.item.done", "item": item}))
    assert sum(map(len, slices)) == 1008
    assert max(map(len, slices)) <= 101
    assert max(sum(map(len, taken)) for taken in slices) < 262_144 + 101_000
    assert replay.is_done


def picture_and_texts() -> KeptSession:
    """A session that has dropped `t0` to `t2`, which were between the picture `i` and `t3`."""
    image = {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "x" * 1000}]}
    session = KeptSession(ContinuityLimits(item_bytes=1_200))
    session.client("conversation.item.create", item={**image, "id": "i"})
    session.item({**image, "id": "i"})
    for number in range(5):
        session.item(user_text(f"t{number}", "x" * 100), f"t{number - 1}" if number else "i")
        session.continuity.fold(session.now)
    assert [*session.continuity.mirror.items.dropped] == ["t0", "t1", "t2"]
    return session


@pytest.mark.parametrize("is_replaced", [False, True])
def test_item_after_one_that_was_dropped_keeps_its_place(*, is_replaced: bool) -> None:
    """It is after what was before that, in the conversation of the client as in that of the next upstream."""
    session = picture_and_texts()
    if is_replaced:
        recovered(session)
    frame = client_frame({"type": "conversation.item.create", "item": user_text("n", "new"), "previous_item_id": "t1"})
    done = session.continuity.intercept("conversation.item.create", frame, session.now)
    place = events_of(done.to_upstream)[0]["previous_item_id"] if done is not None else "t1"
    assert place == ("i" if is_replaced else "t1")
    session.item(user_text("n", "new"), place)
    assert [item["id"] for item in session.replay().run().items][:2] == ["i", "n"]


def test_deletion_of_a_dropped_item_is_forwarded_while_upstream_has_it() -> None:
    """The relay answers it only where a later upstream lacks the item."""
    session = picture_and_texts()
    recovered(session)
    session.item(user_text("t5", "x" * 500), "t4")
    session.continuity.fold(session.now)
    for item_id, is_answered in (("t1", True), ("t3", False)):
        assert item_id in session.continuity.mirror.items.dropped
        frame = client_frame({"type": "conversation.item.delete", "item_id": item_id})
        assert (session.continuity.intercept("conversation.item.delete", frame, session.now) is not None) is is_answered


def answered(session: KeptSession, kind: str, **fields: object) -> Event:
    """What the relay answers in the place of upstream."""
    frame = client_frame({"type": kind, "event_id": "mine", **fields})
    done = session.continuity.intercept(kind, frame, session.now)
    assert done is not None
    assert not done.to_upstream
    [answer] = done.to_client
    event: Event = json.loads(answer)
    return event


def test_item_that_was_dropped_is_refused_with_the_reason_and_deleted_once() -> None:
    """The client has seen it. Upstream would say that it does not exist."""
    session = picture_and_texts()
    recovered(session)
    error = answered(session, "conversation.item.retrieve", item_id="t1")["error"]
    assert (error["code"], error["param"], error["event_id"]) == ("item_retrieve_invalid_item_id", "item_id", "mine")
    assert "items_over_limit" in error["message"]
    cut = answered(session, "conversation.item.truncate", item_id="t1", content_index=0, audio_end_ms=5)
    assert (cut["type"], cut["item_id"], cut["audio_end_ms"]) == ("conversation.item.truncated", "t1", 5)
    assert answered(session, "conversation.item.delete", item_id="t1")["type"] == "conversation.item.deleted"
    recovered_again(session)
    for kind in ("delete", "retrieve", "truncate"):
        frame = client_frame({"type": f"conversation.item.{kind}", "item_id": "t1"})
        assert session.continuity.intercept(f"conversation.item.{kind}", frame, session.now) is None
    again = client_frame({"type": "conversation.item.create", "item": user_text("t1", "new"), "previous_item_id": "t2"})
    done = session.continuity.intercept("conversation.item.create", again, session.now)
    assert done is not None
    assert events_of(done.to_upstream)[0]["previous_item_id"] == "i"


def recovered_again(session: KeptSession) -> None:
    """Upstream is lost, and another one takes over."""
    session.lose()
    recovered(session)


def test_dropped_item_that_upstream_deletes_is_forgotten() -> None:
    """Its id can be used again behind a swap."""
    session = picture_and_texts()
    session.client("conversation.item.delete", item_id="t1")
    session.up("conversation.item.deleted", item_id="t1")
    recovered_again(session)
    frame = client_frame({"type": "conversation.item.create", "item": user_text("t1", "new")})
    assert session.continuity.intercept("conversation.item.create", frame, session.now) is None


def test_answer_to_a_request_for_approval_that_was_lost_is_refused_with_the_reason() -> None:
    """Upstream would say that it does not know the request."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_approval_request", "name": "f", "arguments": "{}", "server_label": "s"})
    recovered_again(session)
    item = {"type": "mcp_approval_response", "approval_request_id": "a", "approve": True}
    error = answered(session, "conversation.item.create", item=item)["error"]
    assert (error["code"], error["param"]) == ("invalid_value", "item.approval_request_id")
    assert "was lost" in error["message"]
    assert "unsupported" in answered(session, "conversation.item.retrieve", item_id="a")["error"]["message"]


def test_refused_item_is_created_once() -> None:
    """Also while an item after it awaits its transcript, so that not all of the conversation is sent."""
    session = KeptSession(transcription={"model": "t"})
    session.item(user_text("a", "hello"))
    committed(session, "b", 0, 100)
    replay = session.replay(transcription={"model": "t"}).replay
    taken = [payload for payload in replay.take(is_final=False) if b'"a"' in payload]
    error = {"event_id": json.loads(taken[0])["event_id"], "code": "x"}
    replay.received("error", upstream_frame({"type": "error", "error": error}))
    assert (len(taken), [*replay.refused]) == (1, ["a"])
    assert replay.take(is_final=False) == []


@pytest.mark.parametrize(("items", "refused", "fails"), [(5, 2, False), (5, 3, True), (30, 3, False), (30, 4, True)])
def test_preparation_bears_two_items_or_a_tenth_that_are_refused(items: int, refused: int, *, fails: bool) -> None:
    """A renewal has time for another connection."""
    session = KeptSession()
    for number in range(items):
        session.item(user_text(f"i{number}", "hello"))
    replay = session.replay().run(refused=[f"i{number}" for number in range(refused)]).replay
    assert (replay.fault is not None) is fails


def test_at_most_two_hundred_items_are_unacknowledged() -> None:
    """The provider's own bound on what it takes at once is not known."""
    session = KeptSession()
    for number in range(500):
        session.item(user_text(f"i{number}", "hello"))
    replay = session.replay().replay
    sent: list[bytes] = []
    while taken := replay.take(is_final=True):
        sent += taken
    assert len(sent) == 200
    item = json.loads(sent[0])["item"]
    replay.received("conversation.item.done", upstream_frame({"type": "conversation.item.done", "item": item}))
    assert len(replay.take(is_final=True)) == 1


def test_item_beyond_the_bound_is_kept_while_it_is_the_last() -> None:
    """The next answer is about it."""
    session = KeptSession(ContinuityLimits(item_bytes=1_000))
    session.item(user_text("a", "hello"))
    session.item(user_text("b", "x" * 2_000))
    assert [item["id"] for item in session.replay().run().items] == ["b"]


def test_items_that_were_dropped_are_remembered_within_a_bound() -> None:
    """A long call drops many; of each only its id and its place are kept."""
    session = KeptSession(ContinuityLimits(item_bytes=1_000))
    for number in range(5_000):
        session.item(user_text(f"i{number}", "x" * 500))
        session.continuity.fold(session.now)
    dropped = session.continuity.mirror.items.dropped
    assert (len(dropped), next(reversed(dropped))) == (4_096, "i4998")


def test_connection_in_step_needs_the_configuration_that_was_changed_since() -> None:
    """Also before that is sent."""
    session = KeptSession()
    replay = session.replay().run().replay
    assert replay.is_done
    session.up("session.updated", session=session_object(instructions="other"))
    session.continuity.fold(session.now)
    assert not replay.is_done


def test_messages_beyond_the_limit_are_counted_once() -> None:
    """Two pictures can exceed it."""
    session = KeptSession(ContinuityLimits(item_bytes=10_000))
    for item_id in ("a", "b", "c"):
        session.item(user_text(item_id, "x" * 4_000))
        session.continuity.fold(session.now)
    for _ in range(2):
        session.lose()
        new = session.replay().run()
        session.flush(new.replay)
        assert [item["id"] for item in new.items] == ["b", "c"]
        assert session.continuity.lost_turns == {"items_over_limit": 1}
