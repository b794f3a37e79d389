"""What is intercepted behind a swap, because the new upstream has other items than the client."""

import json
from typing import Any

import pytest

from service.realtime.continuity.continuity import Boundary
from tests.support.continued_call import client_frame, upstream_frame
from tests.support.kept_session import (
    KeptSession,
    append,
    begin_call,
    committed,
    events_of,
    recovered,
    types,
    user_text,
)
from tests.support.numbered_speech import silence, speech
from tests.support.reference_api import Event


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


def intercepted(session: KeptSession, kind: str, **fields: Any) -> tuple[list[Event], list[Event]]:
    """What upstream and the client are sent in place of an event that is not forwarded."""
    done = intercept(session, kind, **fields)
    assert done is not None
    return done


def truncated(session: KeptSession, audio_end_ms: int) -> tuple[list[Event], list[Event]]:
    """The same for a truncation of `b`."""
    return intercepted(session, "conversation.item.truncate", item_id="b", content_index=0, audio_end_ms=audio_end_ms)


def test_truncation_of_a_text_replaces_it_by_what_was_heard() -> None:
    """Upstream would refuse it; the client gets the answer that it expects, and none of the relay's own."""
    session = swapped()
    (delete, create), (answer,) = truncated(session, 500)
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
    for event in truncated(session, 500)[0]:
        error = upstream_frame({"type": "error", "error": {"code": "x", "event_id": event["event_id"]}})
        assert session.continuity.swallow("error", error, session.now)
    assert not session.continuity.swallows


def test_acknowledgements_that_a_loss_has_cut_are_awaited_no_more() -> None:
    """The next upstream acknowledges only what the client has sent."""
    session = swapped()
    assert intercept(session, "conversation.item.truncate", item_id="b", content_index=0, audio_end_ms=500)
    session.lose()
    recovered(session)
    session.client("conversation.item.delete", item_id="b")
    deleted = upstream_frame({"type": "conversation.item.deleted", "item_id": "b"})
    assert not session.continuity.swallow("conversation.item.deleted", deleted, session.now)


@pytest.mark.parametrize(
    ("event_id", "is_hidden"), [("relay_replay_1", True), ("relay_own_1", True), ("mine_1", False)]
)
def test_late_error_about_an_event_of_the_relay_is_hidden(event_id: str, *, is_hidden: bool) -> None:
    """Behind its acknowledgement, as for an image that is checked then."""
    session = swapped()
    assert not session.continuity.swallows
    error = upstream_frame({"type": "error", "error": {"code": "x", "event_id": event_id}})
    assert session.continuity.swallow("error", error, session.now) is is_hidden


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
    done = intercepted(session, "conversation.item.delete", item_id="x")
    assert (done[0], types(done[1])) == ([], ["conversation.item.deleted"])
    assert intercept(session, "conversation.item.delete", item_id="x") is None


def test_item_behind_an_absent_one_goes_behind_the_one_before() -> None:
    """Upstream would refuse it."""
    session = swapped()
    item = user_text("n", "new")
    assert intercept(session, "conversation.item.create", item=item, previous_item_id="c") is None
    done = intercepted(session, "conversation.item.create", item=item, previous_item_id="x")
    assert done[0][0]["previous_item_id"] == "c"
    session.lose()
    assert types(recovered(session)[0]) == ["conversation.item.create"]


@pytest.mark.parametrize("is_other_first", [False, True])
def test_item_behind_an_absent_first_one_stays_first(*, is_other_first: bool) -> None:
    """Also at the upstream after the next, and before one that the client had put first: it has seen the later one last."""
    session = KeptSession()
    begin_call(session)
    other, new = user_text("f", "other"), user_text("n", "new")
    if is_other_first:
        session.client("conversation.item.create", item=other, previous_item_id="root")
    session.lose()
    session.client("conversation.item.create", item=new, previous_item_id="a")
    sent, _ = recovered(session)
    created = {event["item"]["id"]: event.get("previous_item_id") for event in sent if "item" in event}
    assert created.items() >= {"n": "root", **({"f": "root"} if is_other_first else {})}.items()
    session.item(other)
    session.item(new)
    session.lose()
    assert [item["id"] for item in session.replay().run().items] == ["n", "f"]


def placed(session: KeptSession, item: Event, before: str | None, kind: str = "conversation.item.added") -> str | None:
    """The item before that the client is sent with one that upstream adds."""
    event = {"type": kind, "item": item, "item_id": item["id"], "previous_item_id": before}
    payload = session.continuity.placed(kind, upstream_frame(event), session.now)
    place: str | None = json.loads(payload)["previous_item_id"] if payload else before
    return place


@pytest.mark.parametrize(("is_first", "before"), [(False, "b"), (True, None)])
def test_item_that_is_added_while_a_text_is_replaced_is_behind_it(is_first: bool, before: str | None) -> None:
    """Upstream lacks that item for a moment. What the client itself puts first is first."""
    session = KeptSession()
    session.answer("b", "one two three four", deltas=10)
    session.lose()
    recovered(session)
    truncated(session, 500)
    item = user_text("n", "new")
    if is_first:
        session.client("conversation.item.create", item=item, previous_item_id="root")
    assert placed(session, item, None) == before


@pytest.mark.parametrize("is_typed", [True, False])
def test_appended_item_is_behind_items_that_upstream_lacks(is_typed: bool) -> None:
    """The client knows them, and another upstream may have them again; each event about the item says the same."""
    session = swapped()
    item = user_text("n", "new")
    if is_typed:
        session.client("conversation.item.create", item=item)
    else:
        assert placed(session, item, "c", "input_audio_buffer.committed") == "x"
        session.up("input_audio_buffer.committed", item_id="n", previous_item_id="x")
    assert placed(session, item, "c") == "x"
    session.up("conversation.item.added", item=item, previous_item_id="x")
    assert placed(session, item, "c", "conversation.item.done") == "x"
    assert placed(session, item, None, "conversation.item.done") is None
    assert placed(session, user_text("m", "more"), "n") == "n"


@pytest.mark.parametrize("after", ["root", "a", "c"])
def test_item_is_where_the_client_puts_it_among_items_that_upstream_lacks(after: str) -> None:
    """Only what is appended is behind them."""
    session = swapped()
    item = user_text("n", "new")
    session.client("conversation.item.create", item=item, previous_item_id=after)
    before = None if after == "root" else after
    assert placed(session, item, before) == before


def test_item_is_created_behind_none_that_the_client_deletes() -> None:
    """Upstream would refuse that, and lack the item: the deletion is before it."""
    session = swapped()
    session.lose()
    session.client("conversation.item.delete", item_id="a")
    session.client("conversation.item.truncate", item_id="b", content_index=0, audio_end_ms=500)
    session.client("conversation.item.delete", item_id="c")
    session.client("conversation.item.create", item=user_text("n", "new"), previous_item_id="x")
    sent, _ = recovered(session)
    places = {event["item"]["id"]: event["previous_item_id"] for event in sent if "item" in event}
    assert places == {"b": "root", "n": "b"}


def test_item_that_upstream_refuses_from_the_relay_is_absent() -> None:
    """The relay answers for it from then on, and creates it again at another upstream."""
    session = swapped()
    done = truncated(session, 500)
    error = {"type": "error", "error": {"code": "x", "event_id": done[0][-1]["event_id"]}}
    assert session.continuity.swallow("error", upstream_frame(error), session.now)
    done = truncated(session, 200)
    assert (done[0], types(done[1])) == ([], ["conversation.item.truncated"])
    session.lose()
    assert "b" in session.replay().run().texts


def test_loss_forgets_the_approval_that_upstream_waited_for() -> None:
    """Else the session would not be renewed any more."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_approval_request", "name": "f", "arguments": "{}", "server_label": "s"})
    session.continuity.fold(session.now)
    assert session.continuity.not_renewable == "mcp_approval"
    session.lose()
    recovered(session)
    assert session.continuity.not_renewable is None


def test_item_that_upstream_lacks_is_shown_by_the_relay() -> None:
    """openai-agents retrieves an answer that it has truncated; the error of upstream would reach the application."""
    session = swapped()
    done = intercepted(session, "conversation.item.retrieve", item_id="x")
    assert (done[0], types(done[1])) == ([], ["conversation.item.retrieved"])
    item = done[1][0]["item"]
    assert (item["id"], item["role"], item["status"]) == ("x", "assistant", "incomplete")
    for item_id in ("b", "unknown"):
        assert intercept(session, "conversation.item.retrieve", item_id=item_id) is None


def test_answer_that_is_cut_to_nothing_can_be_retrieved() -> None:
    """Upstream has lost it with that."""
    session = swapped()
    truncated(session, 0)
    done = intercepted(session, "conversation.item.retrieve", item_id="b")
    assert done[1][0]["item"]["content"] == [{"type": "output_audio", "transcript": ""}]


def test_id_of_an_item_that_upstream_lacks_is_not_used_twice() -> None:
    """The client gets the error that it would get without a swap."""
    session = swapped()
    done = intercepted(session, "conversation.item.create", event_id="mine", item=user_text("x", "new"))
    error = done[1][0]["error"]
    assert (done[0], error["code"], error["event_id"]) == ([], "item_create_duplicate_item_id", "mine")


def test_request_names_no_item_that_upstream_lacks() -> None:
    """Upstream would refuse the whole request."""
    session = swapped()
    source = [{"type": "item_reference", "id": name} for name in ("a", "x", "c")] + [user_text("q", "question")]
    request = {"conversation": "none", "metadata": {"n": "1"}}
    (event,), answers = intercepted(session, "response.create", event_id="mine", response={**request, "input": source})
    known = [part for part in source if part["id"] != "x"]
    assert (event, answers) == (
        {"type": "response.create", "event_id": "mine", "response": {**request, "input": known}},
        [],
    )
    assert intercept(session, "response.create", response={**request, "input": known}) is None
    assert intercept(session, "response.create") is None


def test_answers_of_a_flush_come_in_slices() -> None:
    """Those to requests for an item that upstream lacks may be far longer than the requests."""
    session = KeptSession()
    session.item(user_text("a", "x" * 100_000))
    session.lose()
    for _ in range(10):
        session.client("conversation.item.retrieve", item_id="a")
    session.continuity.begin_flush(session.replay().run(refused=["a"]).replay, session.now)
    answered = []
    while (step := session.continuity.next_flush(session.now)) is not None:
        answered.append(len(step.to_client))
    assert (sum(answered), max(answered)) == (10, 3)


def test_item_is_announced_at_a_switch_between_its_events() -> None:
    """Nothing else of the connection before reaches the client, and the next one has the item."""
    session = KeptSession(detection={"type": "server_vad", "create_response": False})
    session.client("conversation.item.create", item=user_text("a", "hello"))
    session.up("conversation.item.added", item=user_text("a", "hello"), previous_item_id=None)
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "b", 0, 800)
    assert session.continuity.boundary(session.now) is Boundary.SOFT
    answered = session.flush(session.replay().run().replay)[1]
    assert [(event["type"], event["item"]["id"], event["previous_item_id"]) for event in answered] == [
        ("conversation.item.done", "a", None),
        ("conversation.item.added", "b", "a"),
        ("conversation.item.done", "b", "a"),
    ]
    assert session.flush(session.replay().run().replay)[1] == []
