"""How an answer that is cut ends for the client, and what of it is asked again."""

import pytest

from tests.support.kept_session import (
    CALL,
    DETECTION,
    KeptSession,
    append,
    begin_call,
    committed,
    heard,
    recovered,
    types,
    user_text,
)
from tests.support.numbered_speech import silence, speech


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


OUTSIDE = {"conversation": "none", "output_modalities": ["text"]}


def test_request_outside_the_conversation_leaves_the_answer_to_the_turn_owed() -> None:
    """An application classifies each turn beside its answer; the loss is before upstream has begun either."""
    session = KeptSession()
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    session.client("response.create", response=OUTSIDE)
    session.lose()
    sent, _ = recovered(session)
    assert [event.get("response") for event in sent if event["type"] == "response.create"] == [None, OUTSIDE]


@pytest.mark.parametrize("is_first", [True, False])
def test_response_outside_the_conversation_answers_its_own_request(is_first: bool) -> None:
    """Whichever upstream begins first: each is requested again as it was."""
    session = KeptSession()
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    session.client("response.create", response=OUTSIDE)
    outside = {"id": "r", "conversation_id": None, "metadata": None}
    if is_first:
        session.up("response.created", response=outside)
    session.answer("b", "one two", is_whole=False)
    if not is_first:
        session.up("response.created", response=outside)
    session.lose()
    sent, _ = recovered(session)
    assert [event.get("response") for event in sent if event["type"] == "response.create"] == [OUTSIDE, None]


@pytest.mark.parametrize("why", ["cancelled", "speaks", "asks"])
def test_request_outside_the_conversation_is_asked_again_alone(why: str) -> None:
    """The answer of the conversation is cancelled, not wanted while the user speaks, or requested by the client."""
    session = KeptSession(detection={"type": "server_vad", "interrupt_response": False})
    session.client("response.create", response=OUTSIDE)
    session.up("response.created", response={"id": "r", "conversation_id": None})
    session.answer("b", "one two", is_whole=False)
    if why == "speaks":
        append(session, speech(range(1, 31)))
        session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    elif why == "cancelled":
        session.client("response.cancel")
    session.lose()
    if why == "asks":
        session.client("response.create", response={"instructions": "again"})
    sent = [event.get("response") for event in recovered(session)[0] if event["type"] == "response.create"]
    assert sent == [OUTSIDE, *([{"instructions": "again"}] if why == "asks" else [])]


def test_turn_is_owed_an_answer_beside_one_outside_the_conversation() -> None:
    """Upstream gives both at the same time."""
    session = KeptSession()
    request = {"conversation": "none", "metadata": {"n": "1"}}
    session.client("response.create", response=request)
    session.up("response.created", response={"id": "r", "conversation_id": None, "metadata": {"n": "1"}})
    append(session, speech(range(1, 31)))
    committed(session, "a", 0, 600)
    session.lose()
    requests = [event.get("response") for event in recovered(session)[0] if event["type"] == "response.create"]
    assert requests == [request, None]


@pytest.mark.parametrize("is_late", [False, True])
def test_cancellation_outside_the_conversation_stops_no_other_answer(*, is_late: bool) -> None:
    """Also if the client sends it while upstream is missing."""
    session = KeptSession()
    session.client("response.create", response={"conversation": "none"})
    session.up("response.created", response={"id": "r", "conversation_id": None})
    session.client("response.create", response={"metadata": {"n": "1"}})
    session.begin_answer("b", metadata={"n": "1"})
    if is_late:
        session.lose()
    session.client("response.cancel", response_id="r")
    session.lose()
    assert recovered(session)[0] == [{"type": "response.create", "response": {"metadata": {"n": "1"}}}]


def test_end_of_one_cancelled_answer_is_no_answer_to_the_cancellation_of_another() -> None:
    """The second is still under way when upstream is lost."""
    session = KeptSession()
    session.client("response.create", response={"conversation": "none"})
    session.up("response.created", response={"id": "r", "conversation_id": None})
    session.begin_answer("b")
    session.client("response.cancel")
    details = {"type": "cancelled", "reason": "client_cancelled"}
    session.up("response.done", response={"id": "r", "status": "cancelled", "status_details": details})
    session.continuity.fold(session.now)
    assert [entry.kind for entry in session.continuity.journal.events] == ["response.cancel"]


def test_nothing_is_asked_in_place_of_an_answer_outside_the_conversation_without_a_request() -> None:
    """An answer in the conversation would be another one."""
    session = KeptSession()
    session.up("response.created", response={"id": "r", "conversation_id": None})
    session.lose()
    assert recovered(session)[0] == []


def test_answer_is_asked_again_while_the_user_speaks_if_upstream_answers_no_turn() -> None:
    """The client asks for each, and waits for this one."""
    session = KeptSession(detection={**DETECTION, "create_response": False, "interrupt_response": False})
    session.client("response.create", response={})
    session.begin_answer("b")
    append(session, speech(range(1, 11)))
    session.up("input_audio_buffer.speech_started", audio_start_ms=0, item_id="a")
    session.lose()
    assert types(recovered(session)[0])[:1] == ["response.create"]


@pytest.mark.parametrize("is_over", [False, True])
def test_audio_is_that_of_the_answer_which_is_spoken(*, is_over: bool) -> None:
    """And not of a text outside the conversation that begins, and perhaps ends, meanwhile."""
    session = KeptSession()
    session.answer("b", "one two three four", deltas=5, is_whole=False)
    session.up("response.created", response={"id": "r", "conversation_id": None})
    text = {"id": "t", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    session.up("response.output_item.added", response_id="r", output_index=0, item=text)
    session.up("response.content_part.added", response_id="r", item_id="t", part={"type": "text", "text": ""})
    if is_over:
        session.up("response.done", response={"id": "r", "conversation_id": None, "status": "completed"})
    session.audio("b", 5)
    session.continuity.fold(session.now)
    output = session.continuity.mirror.answers.output("b")
    assert output is not None
    assert output.audio_ms == pytest.approx(1000, rel=0.01)


def test_call_without_its_arguments_holds_up_no_items_behind_it() -> None:
    """Upstream ended it as incomplete: it never gets them."""
    session = KeptSession()
    begin_call(session)
    item = {**CALL, "status": "incomplete"}
    session.up("conversation.item.done", item=item, previous_item_id=None)
    session.up("response.output_item.done", response_id="r", output_index=0, item=item)
    session.up("response.done", response={"id": "r", "status": "incomplete"})
    session.item(user_text("b", "hello"), "a")
    assert [event["id"] for event in session.replay().run(is_final=False).items] == ["b"]


def test_request_is_sent_again_without_an_item_that_is_deleted_since() -> None:
    """Upstream would refuse it, and the client get an error about a request that was accepted."""
    session = KeptSession()
    session.item(user_text("a", "hello"))
    question = user_text("q", "question")
    request = {"conversation": "none", "input": [{"type": "item_reference", "id": "a"}, question]}
    session.client("response.create", event_id="mine", response=request)
    session.up("response.created", response={"id": "r", "conversation_id": None})
    session.client("conversation.item.delete", item_id="a")
    session.up("conversation.item.deleted", item_id="a")
    session.lose()
    (event,) = recovered(session)[0]
    assert (event["event_id"], event["response"]) == ("mine", {"conversation": "none", "input": [question]})
