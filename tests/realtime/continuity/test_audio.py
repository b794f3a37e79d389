"""The audio that a session keeps: where turns are divided, and how it is bounded."""

import base64

from service.realtime.continuity.limits import ContinuityLimits
from tests.support.kept_session import KeptSession, append, committed, heard, recovered, user_text
from tests.support.numbered_speech import numbers_of, silence, speech


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


def test_audio_and_events_in_small_pieces_count_as_what_they_take_in_memory() -> None:
    """A client must not keep four times of what is counted."""
    session = KeptSession(detection=None)
    for _ in range(1_000):
        session.client("input_audio_buffer.append", audio="")
    session.continuity.fold(session.now, 10_000)
    assert session.continuity.kept_bytes > 300_000
    session.lose()
    events = 0
    while not session.continuity.is_full:
        session.client("input_audio_buffer.clear")
        session.continuity.fold(session.now)
        events += 1
    assert events < 1_000  # of 262,144 bytes


def test_audio_that_may_not_have_arrived_and_exceeds_the_bound_is_a_lost_turn() -> None:
    """Upstream answers no ping, so that speech may be in it. Silence that has arrived is no loss."""
    for has_arrived in (False, True):
        session = KeptSession(ContinuityLimits(audio_bytes=50_000))
        for _ in range(100):
            append(session, silence(10))
            if has_arrived:
                session.continuity.reached(session.now + 0.001)
        session.continuity.fold(session.now)
        assert session.continuity.journal.audio_bytes <= 50_000
        session.lose()
        recovered(session)
        assert session.continuity.lost_turns == ({} if has_arrived else {"audio_over_limit": 1})


def test_turns_are_kept_within_a_bound() -> None:
    """Of turns without a transcript in an endless call, even if they are without audio."""
    session = KeptSession()
    for number in range(2_100):
        session.up("input_audio_buffer.committed", item_id=f"i{number}", previous_item_id=None)
        session.continuity.fold(session.now)
    assert len(session.continuity.journal.turns) == 2_000


def test_commit_of_a_client_ends_the_turn_that_a_loss_has_cut() -> None:
    """Upstream need not have noticed its speech once more."""
    session = KeptSession(detection={"type": "server_vad", "create_response": False})
    append(session, speech(range(1, 31)))
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    session.lose()
    recovered(session)
    assert session.continuity.journal.speech_is_open
    session.client("input_audio_buffer.commit")
    session.up("input_audio_buffer.committed", item_id="b", previous_item_id=None)
    session.continuity.fold(session.now)
    assert not session.continuity.journal.speech_is_open
