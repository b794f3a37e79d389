"""When a session may go over to another upstream, and what sessions of other kinds keep."""

import pytest

from service.realtime.continuity.continuity import Boundary, Continuity
from service.realtime.continuity.limits import ContinuityLimits
from tests.support.continued_call import upstream_frame
from tests.support.kept_session import (
    CALL,
    KeptSession,
    append,
    committed,
    heard,
    recovered,
    session_object,
    types,
)
from tests.support.numbered_speech import silence, speech
from tests.support.reference_api import Event
from tests.support.talk import Talk

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


def test_mcp_call_blocks_a_boundary_for_two_minutes() -> None:
    """Some servers send no end of it."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "s"})
    assert session.continuity.boundary(session.now + 119) is Boundary.NONE
    assert session.continuity.boundary(session.now + 121) is Boundary.SOFT


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_mcp_call_that_has_ended_blocks_no_boundary(end: str) -> None:
    """Also if its item shows no output."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "s"})
    session.up(f"response.mcp_call.{end}", item_id="a", output_index=0)
    assert session.continuity.boundary(session.now) is Boundary.SOFT


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


def test_boundary_of_a_transcription_session_waits_for_the_transcript() -> None:
    """Else the next upstream would transcribe the turn once more."""
    session = KeptSession(type="transcription")
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    assert session.continuity.boundary(session.now) is Boundary.HARD
    session.up("conversation.item.input_audio_transcription.completed", item_id="a", transcript="one")
    assert session.continuity.boundary(session.now) is Boundary.SOFT


@pytest.mark.parametrize(("audio_bytes", "is_shown"), [(4 << 20, False), (1000, True)])
def test_late_transcript_of_a_turn_that_is_sent_again_is_hidden(audio_bytes: int, is_shown: bool) -> None:
    """Of a transcription session, too: the next upstream transcribes it as another item, unless its audio is gone."""
    session = KeptSession(ContinuityLimits(audio_bytes=audio_bytes), type="transcription")
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    sent, _ = session.flush(session.replay(type="transcription").run().replay)
    assert bool(heard(sent)) is not is_shown
    for part in ("delta", "completed"):
        kind = f"conversation.item.input_audio_transcription.{part}"
        late = upstream_frame({"type": kind, "item_id": "a", "delta": "x", "transcript": "late"})
        assert session.continuity.old_upstream_event(kind, late, session.now) is is_shown


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


def test_update_that_states_no_expiry_leaves_the_one_that_is_known() -> None:
    """Else the session would not be renewed any more."""
    session = KeptSession()
    update = session_object()
    del update["expires_at"]
    session.up("session.updated", session=update)
    session.continuity.fold(session.now)
    assert session.continuity.expires_at == 5000


def test_answer_that_is_owed_blocks_a_boundary_for_ten_seconds() -> None:
    """Later than that none comes, as where the provider has answered a turn with nothing."""
    session = KeptSession()
    committed(session, "a", 0, 100)
    session.continuity.reached(session.now + 20)
    assert session.continuity.boundary(session.now + 9) is Boundary.NONE
    assert session.continuity.boundary(session.now + 11) is Boundary.SOFT


def test_responses_that_upstream_never_ends_are_bounded() -> None:
    """Those of a server that sends no `response.done`."""
    session = KeptSession()
    for number in range(1_000):
        session.up(
            "response.created", response={"id": f"r{number}", "conversation_id": "v", "metadata": {"x": "x" * 1000}}
        )
    session.continuity.fold(session.now, 10_000)
    assert session.continuity.kept_bytes < 64_000
    assert len(session.lose()) == 32


def test_turn_whose_audio_format_was_changed_is_lost_and_counted() -> None:
    """A new upstream would hear noise: an item has no format of its own."""
    session = KeptSession()
    append(session, speech(range(1, 31)) + silence(10))
    committed(session, "a", 0, 800)
    session.up("session.updated", session=session_object(format={"type": "audio/pcmu"}))
    session.lose()
    replay = session.replay().run().replay
    assert replay.omitted == {"a": "format_changed"}
    session.flush(replay)
    assert session.continuity.lost_turns == {"format_changed": 1}


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_boundary_waits_for_the_result_of_an_mcp_call(end: str) -> None:
    """It is in the item, behind the event that ends the call; a loss between the two does not end the call once more."""
    session = KeptSession()
    call = {"id": "m", "type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "s", "output": None}
    session.up("conversation.item.added", item=call, previous_item_id=None)
    session.up("response.mcp_call.in_progress", item_id="m", output_index=0)
    session.up(f"response.mcp_call.{end}", item_id="m", output_index=0)
    assert session.continuity.boundary(session.now) is Boundary.NONE
    result = {"output": "found"} if end == "completed" else {"error": {"type": "http_error"}}
    session.up("conversation.item.done", item={**call, **result}, previous_item_id=None)
    assert session.continuity.boundary(session.now) is Boundary.SOFT
    session.up("response.mcp_call.in_progress", item_id="m", output_index=0)
    session.up("conversation.item.added", item={**call, "id": "n"}, previous_item_id=None)
    session.up(f"response.mcp_call.{end}", item_id="n", output_index=0)
    assert "response.mcp_call.failed" not in types(session.lose())


def test_boundary_waits_for_the_call_that_an_approval_allows() -> None:
    """It begins by itself, at the connection that has the answer only."""
    session = KeptSession()
    session.item({"id": "a", "type": "mcp_approval_request", "name": "f", "arguments": "{}", "server_label": "s"})
    session.item({"id": "b", "type": "mcp_approval_response", "approval_request_id": "a", "approve": True})
    assert session.continuity.boundary(session.now) is Boundary.NONE
    call = {"id": "c", "type": "mcp_call", "name": "f", "arguments": "{}", "server_label": "s"}
    session.item({**call, "approval_request_id": "a", "output": "found"})
    session.up("response.mcp_call.completed", item_id="c", output_index=0)
    assert session.continuity.boundary(session.now) is Boundary.SOFT
