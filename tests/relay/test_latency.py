"""Response latency: which events start and stop the measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.relay.latency import (
    AUDIO_DELTA,
    CLIENT_TYPES,
    COMMIT,
    CREATE,
    CREATED,
    DELTAS,
    SPEECH_STARTED,
    SPEECH_STOPPED,
    LatencyTimer,
)  # fmt: skip

TEXT = "response.output_text.delta"
DONE = "response.done"


class TimedEvents:
    """A timer on a clock that advances by a second with each event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.audio_seconds: list[float] = []
        self.delta_seconds: list[float] = []
        self.timer = LatencyTimer(lambda: self.now, self.audio_seconds.append, self.delta_seconds.append)
        self.calls = 0  # of the timer

    def play(self, *events: str) -> "TimedEvents":
        """Pass events to the timer as a pipe does; `response.done` is passed by the session, which parses it."""
        for event in events:
            self.now += 1
            if event == DONE:
                self.timer.response_ended()
            elif event in self.timer.watched_types | CLIENT_TYPES:
                self.calls += 1
                self.timer.event_passed(event)
        return self


@pytest.mark.parametrize(
    ("events", "audio_seconds", "delta_seconds"),
    [
        ([SPEECH_STARTED, SPEECH_STOPPED, COMMIT, CREATED, TEXT, AUDIO_DELTA, AUDIO_DELTA, DONE], [4], []),
        ([COMMIT, CREATE, CREATED, AUDIO_DELTA, AUDIO_DELTA, DONE], [3], [2]),
        ([CREATE, CREATED, TEXT, TEXT, DONE], [], [2]),
        ([CREATE, CREATED, DONE, TEXT], [], []),
        # The user goes on speaking: the last end of speech counts.
        ([SPEECH_STARTED, SPEECH_STOPPED, SPEECH_STARTED, SPEECH_STOPPED, CREATED, AUDIO_DELTA], [2], []),
        # Deltas of the response before do not count.
        ([CREATE, CREATED, TEXT, CREATE, TEXT, DONE, CREATED, TEXT], [], [2, 4]),
        # A response without audio.
        ([SPEECH_STOPPED, CREATED, TEXT, DONE, CREATED, AUDIO_DELTA], [], []),
        # Two turns.
        ([CREATE, CREATED, TEXT, DONE, CREATE, CREATED, "response.function_call_arguments.delta"], [], [2, 2]),
        ([AUDIO_DELTA, DONE, CREATED, AUDIO_DELTA], [], []),
    ],
)
def test_latency_of_event_sequences(events: list[str], audio_seconds: list[float], delta_seconds: list[float]) -> None:
    """From the end of speech to the first audio, and from the request to the first delta, each at most once per turn."""
    timed_events = TimedEvents().play(*events)

    assert (audio_seconds, delta_seconds) == (timed_events.audio_seconds, timed_events.delta_seconds)


def test_only_the_first_delta_reaches_the_timer() -> None:
    """Deltas are most of all messages: after the first one they are not watched."""
    timed_events = TimedEvents().play(CREATE, CREATED)
    before = timed_events.calls
    timed_events.play(*[TEXT] * 100)

    assert 1 == timed_events.calls - before
    assert not DELTAS & timed_events.timer.watched_types


@given(
    st.lists(
        st.sampled_from([*sorted(DELTAS), SPEECH_STARTED, SPEECH_STOPPED, COMMIT, CREATE, CREATED, DONE]), max_size=40
    )
)
def test_latencies_are_positive_for_any_order_of_events(events: list[str]) -> None:
    """And none is measured more often than it was started."""
    timed_events = TimedEvents().play(*events)

    assert all(seconds > 0 for seconds in timed_events.audio_seconds + timed_events.delta_seconds)
    assert len(timed_events.delta_seconds) <= events.count(CREATE)
    assert len(timed_events.audio_seconds) <= events.count(SPEECH_STOPPED) + events.count(COMMIT)
