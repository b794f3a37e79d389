"""How much of a conversation is kept to be created again, and how much of it is sent at once."""

import json

import pytest

from service.realtime.continuity.limits import ContinuityLimits
from tests.support.continued_call import client_frame, upstream_frame
from tests.support.kept_session import KeptSession, committed, events_of, recovered, user_text


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
