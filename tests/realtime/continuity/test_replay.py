"""How a conversation is created again on another upstream."""

import base64
import json

import pytest

from service.realtime.continuity.continuity import Boundary
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.mirror_items import cut_text
from service.realtime.continuity.replay import ReplayFault
from service.realtime.continuity.session_form import SessionForm, differing_keys
from tests.support.continued_call import upstream_frame
from tests.support.kept_session import DETECTION, KeptSession, session_object, user_text
from tests.support.numbered_speech import numbers_of, silence, speech
from tests.support.reference_api import Event


@pytest.mark.parametrize(
    ("end_ms", "expected"),
    [(0, ""), (300, "one"), (550, "one two"), (690, "one two"), (1000, "one two three"), (2000, "one two three")],
)
def test_transcript_is_cut_at_a_word(end_ms: float, expected: str) -> None:
    """Never within a word, and never behind what was heard."""
    assert cut_text("one two three", end_ms, 1000) == expected


def test_transcript_without_spaces_is_cut_at_a_character() -> None:
    """Some languages have no spaces."""
    assert cut_text("一二三四五六七八九十", 500, 1000) == "一二三四五"


def test_items_are_created_in_order_with_their_ids() -> None:
    """No item names the one before it, so that one refusal is one item."""
    session = KeptSession(transcription={"model": "t"})
    session.item(user_text("a", "hello"))
    session.answer("b", "hi there")
    session.up("input_audio_buffer.committed", item_id="c", previous_item_id="b")
    session.up("conversation.item.input_audio_transcription.completed", item_id="c", transcript="how are you")
    new = session.replay().run()
    assert [(item["id"], item["role"], item["after"]) for item in new.items] == [
        ("a", "user", None),
        ("b", "assistant", None),
        ("c", "user", None),
    ]
    assert new.texts == {"a": "hello", "b": "hi there", "c": "how are you"}
    assert new.items[1]["content"][0]["type"] == "output_text"
    assert new.replay.is_done


def test_item_of_the_client_is_created_by_its_own_words() -> None:
    """Upstream does not show an image or its `detail` again."""
    session = KeptSession()
    image = [{"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "high"}]
    session.client("conversation.item.create", item={"type": "message", "role": "user", "content": image})
    session.item({"id": "a", "type": "message", "role": "user", "content": [{"type": "input_image"}]})
    assert session.replay().run().items[0]["content"] == image


def test_truncated_answer_is_created_up_to_what_was_heard() -> None:
    """Its duration is that of its events of audio."""
    session = KeptSession()
    session.answer("b", "one two three four", deltas=10)
    session.up("conversation.item.truncated", item_id="b", content_index=0, audio_end_ms=500)
    assert session.replay().run().texts == {"b": "one two"}


def test_answer_that_was_not_heard_is_omitted() -> None:
    """There is no message without a text."""
    session = KeptSession()
    session.answer("b", "one two")
    session.up("conversation.item.truncated", item_id="b", content_index=0, audio_end_ms=0)
    new = session.replay().run()
    assert (new.items, new.replay.omitted) == ([], {"b": "empty"})


def test_call_is_created_with_its_arguments_and_its_output() -> None:
    """A call whose tool still runs as well: upstream refuses the output of a call that it does not know."""
    session = KeptSession()
    call = {"id": "a", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "status": "completed"}
    session.item(call)
    session.item({"id": "b", "type": "function_call_output", "call_id": "c1", "output": "1"})
    session.item({**call, "id": "c", "call_id": "c2"})
    assert [item["id"] for item in session.replay().run().items] == ["a", "b", "c"]


def test_output_of_a_call_beyond_the_limit_is_omitted() -> None:
    """The oldest items go; upstream would refuse the output."""
    session = KeptSession(ContinuityLimits(item_bytes=700))
    call = {"id": "a", "type": "function_call", "call_id": "c1", "name": "f", "arguments": "x" * 100}
    session.item({**call, "status": "completed"})
    session.item({"id": "b", "type": "function_call_output", "call_id": "c1", "output": "1"})
    session.item(user_text("c", "hello"))
    new = session.replay().run()
    assert [item["id"] for item in new.items] == ["c"]
    assert new.replay.omitted == {"b": "no_call"}


def test_session_that_must_keep_all_is_not_renewable_beyond_the_limit() -> None:
    """With `truncation: disabled` upstream would not drop the oldest items either."""
    limits = ContinuityLimits(item_bytes=1000)
    for truncation, reason in (("auto", None), ("disabled", "items_over_limit")):
        session = KeptSession(limits, truncation=truncation)
        for number in range(10):
            session.item(user_text(f"i{number}", "x" * 100))
        session.continuity.fold(session.now)
        assert session.continuity.not_renewable == reason
        assert session.continuity.mirror.size < 3000


def test_speech_without_a_transcript_is_created_as_audio() -> None:
    """Exactly the samples of the turn."""
    session = KeptSession()
    audio = silence(20) + speech(range(1, 31)) + silence(10)
    session.client("input_audio_buffer.append", audio=base64.b64encode(audio + silence(7)).decode())
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=100)
    session.up("input_audio_buffer.speech_stopped", item_id="a", audio_end_ms=1200)
    session.up("input_audio_buffer.committed", item_id="a", previous_item_id=None)
    created = base64.b64decode(session.replay().run().items[0]["content"][0]["audio"])
    assert numbers_of(created) == list(range(1, 31))
    assert len(created) == 1101 * 48


def test_speech_beyond_the_audio_limit_is_counted_as_lost() -> None:
    """The oldest turn goes first."""
    session = KeptSession(ContinuityLimits(audio_bytes=90_000))
    for number in range(3):
        audio = base64.b64encode(speech(range(20))).decode()
        session.client("input_audio_buffer.append", audio=audio)
        session.up("input_audio_buffer.speech_started", item_id=f"i{number}", audio_start_ms=400 * number)
        session.up("input_audio_buffer.speech_stopped", item_id=f"i{number}", audio_end_ms=400 * (number + 1))
        session.up("input_audio_buffer.committed", item_id=f"i{number}", previous_item_id=None)
    session.continuity.fold(session.now)
    assert session.continuity.journal.audio_bytes <= 90_000
    new = session.replay().run()
    assert [item["id"] for item in new.items] == ["i1", "i2"]
    session.flush(new.replay)
    assert session.continuity.lost_turns == {"audio_over_limit": 1}


def test_tool_list_of_a_server_is_omitted() -> None:
    """Upstream lists the tools again."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_list_tools", "server_label": "s", "tools": []})
    session.item({"id": "b", "type": "mcp_call", "name": "find", "arguments": "{}", "output": "42"})
    new = session.replay().run()
    assert new.texts == {"b": "Tool find returned: 42"}
    assert new.replay.omitted == {"a": "unsupported"}


def test_session_that_waits_for_an_approval_is_not_renewable() -> None:
    """A request for approval cannot be created."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_approval_request", "name": "f", "arguments": "{}"})
    session.continuity.fold(session.now)
    assert session.continuity.not_renewable == "mcp_approval"
    assert session.continuity.boundary(session.now) is Boundary.NONE
    session.item({"id": "b", "type": "mcp_approval_response", "approval_request_id": "a", "approve": True})
    session.continuity.fold(session.now)
    assert session.continuity.not_renewable is None


# -- the difference while the old upstream goes on --------------------------------------------------------------------


def test_difference_follows_what_the_mirror_gains() -> None:
    """Items are added and deleted, and answers cut; what goes between two items names the one before it."""
    session = KeptSession()
    session.item(user_text("a", "hello"))
    session.answer("b", "one two three four", deltas=10)
    new = session.replay().run(is_final=False)
    assert new.replay.is_ready
    session.item(user_text("c", "more"))
    session.item(user_text("d", "between"), after="a")
    session.up("conversation.item.truncated", item_id="b", content_index=0, audio_end_ms=500)
    session.up("conversation.item.deleted", item_id="a")
    session.continuity.fold(session.now)
    assert not new.replay.is_done
    new.run(is_final=False)
    assert new.deleted == ["a", "b"]
    assert [(item["id"], item["after"]) for item in new.items[2:]] == [("d", "root"), ("b", "d"), ("c", None)]
    assert new.texts["b"] == "one two"


def test_speech_waits_for_its_transcript_until_the_last_difference() -> None:
    """What follows it waits as well, to keep the order."""
    session = KeptSession(transcription={"model": "t"})
    session.client("input_audio_buffer.append", audio=base64.b64encode(speech(range(1, 31))).decode())
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    session.up("input_audio_buffer.speech_stopped", item_id="a", audio_end_ms=600)
    session.up("input_audio_buffer.committed", item_id="a", previous_item_id=None)
    session.item(user_text("b", "typed"))
    new = session.replay(transcription={"model": "t"}).run(is_final=False)
    assert new.items == []
    new.run(is_final=True)
    assert [item["id"] for item in new.items] == ["a", "b"]
    assert new.items[0]["content"][0]["type"] == "input_audio"


def test_refused_item_is_counted_and_many_fail_a_renewal() -> None:
    """After a loss, a call without some items is better than none."""
    session = KeptSession()
    for number in range(10):
        session.item(user_text(f"i{number}", "hello"))
    one = session.replay().run(refused=["i3"])
    assert (one.replay.fault, one.replay.refused) == (None, {"i3": "invalid_value"})
    assert session.replay().run(refused=["i1", "i2", "i3"]).replay.fault is ReplayFault.ITEMS_REFUSED
    session.lose()
    assert session.replay().run(refused=["i1", "i2", "i3"]).replay.fault is None


# -- configuration ----------------------------------------------------------------------------------------------------


def test_update_has_what_differs_from_a_new_session() -> None:
    """Read-only keys and defaults are not sent; a null within an object is a key that was not set."""
    detection = {"type": "semantic_vad", "eagerness": "low", "idle_timeout_ms": None}
    session = KeptSession(instructions="be brief", detection=detection, voice="marin")
    new = session.replay().run()
    assert new.updates == [
        {
            "instructions": "be brief",
            "audio": {
                "input": {"turn_detection": {"type": "semantic_vad", "eagerness": "low"}},
                "output": {"voice": "marin"},
            },
            "type": "realtime",
        }
    ]


def test_turn_detection_that_is_off_is_sent_as_null() -> None:
    """Null is a value there, and not the default."""
    update = KeptSession(detection=None).replay().run().updates[0]
    assert update["audio"] == {"input": {"turn_detection": None}}


def test_session_like_a_new_one_needs_no_update() -> None:
    """Only its id and its times differ."""
    new = KeptSession().replay().run()
    assert (new.updates, new.replay.is_configured) == ([], True)


@pytest.mark.parametrize(
    "secrets",
    [
        {"type": "mcp", "authorization": "secret"},
        {"type": "mcp", "headers": {"Authorization": "secret"}},
        {"type": "mcp", "connector_id": "c", "authorization": "secret", "headers": {"x-key": "secret"}},
        {"type": "of_the_future", "key": "secret"},
    ],
)
def test_tools_with_credentials_are_sent_as_the_client_sent_them(secrets: Event) -> None:
    """What upstream shows of them may lack the credentials, or hide them; the client has sent others since."""
    tool = {"server_label": "s", **secrets}
    function = {"type": "function", "name": "f", "parameters": {}}
    for shown in ({"type": tool["type"], "server_label": "s"}, {**tool, "authorization": None, "headers": "***"}):
        session = KeptSession()
        for words in ("old", "new"):
            tools = [function, {**tool, "description": words}]
            session.client("session.update", session={"type": "realtime", "tools": tools})
            session.up("session.updated", session=session_object(tools=[function, shown]))
        session.client("session.update", session={"type": "realtime", "instructions": "be brief"})
        session.up("session.updated", session=session_object(tools=[function, shown], instructions="be brief"))
        new = session.replay().run(session=session_object(tools=[function, shown], instructions="be brief"))
        assert new.updates[0]["tools"] == tools
        assert new.replay.differing == ()


def test_unequal_session_is_configured_by_the_words_of_the_client_then_fails() -> None:
    """A recovery goes on with the difference, and counts it."""
    session = KeptSession()
    session.client("session.update", session={"type": "realtime", "instructions": "be brief"})
    session.up("session.updated", session=session_object(instructions="be brief"))
    other = session_object(instructions="other")
    new = session.replay().run(session=other)
    assert new.updates == [{"instructions": "be brief", "type": "realtime"}] * 2
    assert new.replay.fault is ReplayFault.UPDATE_UNEQUAL
    assert new.replay.differing == ("instructions",)
    session.lose()
    new = session.replay().run(session=other)
    assert new.replay.fault is None
    assert new.replay.is_done


def test_accepted_updates_are_merged() -> None:
    """The keys of audio one by one."""
    form = SessionForm()
    form.accepted(b'{"session":{"instructions":"a","audio":{"input":{"transcription":null},"output":{"speed":1}}}}')
    form.accepted(b'{"session":{"instructions":"b","audio":{"input":{"noise_reduction":null}}}}')
    source: Event = {"transcription": None, "noise_reduction": None}
    assert form.own == {"instructions": "b", "audio": {"input": source, "output": {"speed": 1}}}


@pytest.mark.parametrize("key", ["expires_at", "model", "object", "created_at"])
def test_keys_that_no_client_can_set_do_not_differ(key: str) -> None:
    """They differ in each session, those that a later version of the API adds as well."""
    session = KeptSession(None, **{key: "one"})
    session.client("session.update", session={"type": "realtime", "instructions": "be brief"})
    session.up("session.updated", session=session_object(instructions="be brief", **{key: "one"}))
    new = session.replay(**{key: "two"}).run()
    assert (new.updates, new.replay.differing) == ([{"instructions": "be brief", "type": "realtime"}], ())


def test_key_that_only_the_client_knows_is_set_again() -> None:
    """A later version of the API has it."""
    session = KeptSession()
    session.client("session.update", session={"type": "realtime", "new": 1})
    session.up("session.updated", session=session_object(new=1))
    assert session.replay().run().updates == [{"new": 1, "type": "realtime"}]


def test_session_of_a_newer_server_may_show_more() -> None:
    """Its defaults are no difference: servers are replaced while calls go on."""
    tool = {"type": "function", "name": "f"}
    session = KeptSession(instructions="be brief", tools=[tool])
    detection = {**DETECTION, "later": True}
    shown = session_object(instructions="be brief", tools=[{**tool, "strict": False}], detection=detection, more=1)
    new = session.replay(detection=detection, more=1).run(session=shown)
    assert (new.replay.differing, new.replay.fault) == ((), None)


def test_update_that_was_accepted_is_good_enough_after_a_loss_if_that_of_the_client_is_refused() -> None:
    """The provider fixes some keys once they are set, such as `tracing`."""
    session = KeptSession()
    session.client("session.update", session={"type": "realtime", "instructions": "be brief"})
    session.up("session.updated", session=session_object(instructions="be brief"))
    session.lose()
    replay = session.replay().replay
    [first] = replay.take(is_final=True)
    shown = {"type": "session.updated", "session": session_object(instructions="other")}
    replay.received("session.updated", upstream_frame(shown))
    [second] = replay.take(is_final=True)
    event_id = json.loads(second)["event_id"]
    replay.received("error", upstream_frame({"type": "error", "error": {"code": "x", "event_id": event_id}}))
    assert (json.loads(first)["session"], replay.take(is_final=True)) == (json.loads(second)["session"], [])
    assert (replay.fault, replay.is_done, replay.differing) == (None, True, ("instructions",))


def test_differing_keys_are_named_with_their_path() -> None:
    """For the log, which has no contents."""
    assert differing_keys(session_object(voice="a", tools=[1]), session_object(voice="b")) == (
        "audio.output.voice",
        "tools",
    )
