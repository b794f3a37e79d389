"""How much of a conversation is kept to be created again, and how much of it is sent at once."""

import json

from service.realtime.continuity.limits import ContinuityLimits
from tests.support.continued_call import upstream_frame
from tests.support.kept_session import KeptSession, user_text


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
