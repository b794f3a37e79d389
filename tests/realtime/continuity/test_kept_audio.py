"""service/realtime/continuity/kept_audio.py: audio in runs is freed and divided as if each event were kept by itself."""

from hypothesis import given
from hypothesis import strategies as st

from service.realtime.continuity.journal import Journal
from service.realtime.continuity.journal_entries import UNSENT
from service.realtime.continuity.kept_audio import KeptAudio, Run
from tests.support.continued_call import client_frame
from tests.support.kept_session import KeptSession, append, heard, recovered
from tests.support.numbered_speech import numbers_of, speech

numbers = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.75, 5.0, 8.0, 1000.0])
runs = st.builds(
    Run,
    order=st.just(1),
    frames=st.lists(st.just(b"frame"), min_size=1, max_size=6),
    time=numbers,
    step=st.sampled_from([0.0, 0.25, 1.0]),
    length_ms=st.sampled_from([0.0, 0.25, 1.0]),
    start_ms=st.one_of(numbers, st.just(UNSENT)),
)


@given(st.lists(runs, max_size=4), st.integers(0, 4), numbers, numbers)
def test_runs_are_freed_as_single_appends_are(kept: list[Run], opened: int, time: float, position: float) -> None:
    """Also if the first ones were divided already."""
    audio = KeptAudio()
    for number, run in enumerate(kept):
        audio.add(run)
        if number + 1 == opened:
            assert audio.entries
    single = [append for run in kept for append in run.appends()]
    ends = [append.end_ms for append in single if append.time < time]
    assert audio.end_before(time) == (ends[-1] if ends else 0.0)
    size, total = audio.drop(sent_before=time, ended_before=position), len(single)
    while single and single[0].time < time and single[0].end_ms <= position:
        del single[0]
    assert (size, len(audio)) == (5 * (total - len(single)), len(single))
    assert audio.first_time == (single[0].time if single else float("inf"))
    left = [(entry.time, entry.length_ms, entry.start_ms) for entry in audio.entries]
    assert left == [(entry.time, entry.length_ms, entry.start_ms) for entry in single]


def test_appends_that_are_kept_together_are_spread_over_their_time() -> None:
    """One of another size begins another run."""
    journal = Journal(audio_limit=1_000_000, event_limit=1_000_000)
    frames = [client_frame({"type": "input_audio_buffer.append", "audio": "A" * size}) for size in (640, 640, 64, 640)]
    journal.append(frames, 10.0, 12.0)
    assert [entry.raw for entry in journal.appends] == frames
    assert [entry.time for entry in journal.appends] == [10.5, 11.0, 11.5, 12.0]
    assert [entry.start_ms for entry in journal.appends] == [0, 10, 20, 21]
    assert [entry.order for entry in journal.appends] == [1, 2, 3, 4]
    assert journal.audio_bytes == sum(map(len, frames))


def test_audio_before_an_answered_ping_is_freed_at_once_unless_an_event_waits() -> None:
    """In that event speech may have begun."""
    for waits in (False, True):
        session = KeptSession()
        session.continuity.fold(session.now)
        for second in range(1, 6):
            frame = client_frame({"type": "input_audio_buffer.append", "audio": "A" * 8000})
            session.continuity.keep_appends([frame] * 8, second - 1.0, float(second))
        if waits:
            session.now = 5.0
            session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=1_000)
        before = session.continuity.journal.audio_bytes
        session.continuity.reached(5.0)
        assert (session.continuity.journal.audio_bytes == before) is waits
        session.continuity.fold(6.0)
        kept = {entry.start_ms for entry in session.continuity.journal.appends}
        assert min(kept) == (875 if waits else 3_625)


def test_audio_that_is_kept_together_is_sent_again_whole() -> None:
    """Behind the turn that upstream committed within it."""
    session = KeptSession()
    pieces = [speech(range(at, at + 5)) for at in range(1, 61, 5)]
    for piece in pieces:
        append(session, piece)
    session.up("input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    session.lose()
    assert heard(recovered(session)[0]) == numbers_of(b"".join(pieces))
