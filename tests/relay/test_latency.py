"""The timing of turns: which events begin and end what is measured."""

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


class Timed:
    """A timer on a clock that goes on by a second with each event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.heard: list[float] = []
        self.answered: list[float] = []
        self.timer = LatencyTimer(lambda: self.now, self.heard.append, self.answered.append)
        self.asked = 0  # how often the timer was called

    def play(self, *events: str) -> "Timed":
        """Let events pass as a pipe does; `response.done` comes from the reading of the event."""
        for event in events:
            self.now += 1
            if event == DONE:
                self.timer.response_ended()
            elif event in self.timer.watched_types | CLIENT_TYPES:
                self.asked += 1
                self.timer.event_passed(event)
        return self


@pytest.mark.parametrize(
    ("events", "heard", "answered"),
    [
        ([SPEECH_STARTED, SPEECH_STOPPED, COMMIT, CREATED, TEXT, AUDIO_DELTA, AUDIO_DELTA, DONE], [4], []),
        ([COMMIT, CREATE, CREATED, AUDIO_DELTA, AUDIO_DELTA, DONE], [3], [2]),
        ([CREATE, CREATED, TEXT, TEXT, DONE], [], [2]),
        ([CREATE, CREATED, DONE, TEXT], [], []),
        # The user goes on talking: the end of the speech is the last one.
        ([SPEECH_STARTED, SPEECH_STOPPED, SPEECH_STARTED, SPEECH_STOPPED, CREATED, AUDIO_DELTA], [2], []),
        # What still comes of the response before is no answer.
        ([CREATE, CREATED, TEXT, CREATE, TEXT, DONE, CREATED, TEXT], [], [2, 4]),
        # An answer in text alone is never heard.
        ([SPEECH_STOPPED, CREATED, TEXT, DONE, CREATED, AUDIO_DELTA], [], []),
        # Two turns.
        ([CREATE, CREATED, TEXT, DONE, CREATE, CREATED, "response.function_call_arguments.delta"], [], [2, 2]),
        ([AUDIO_DELTA, DONE, CREATED, AUDIO_DELTA], [], []),
    ],
)
def test_what_is_measured(events: list[str], heard: list[float], answered: list[float]) -> None:
    """From the end of speech to the first audio, from the request to the first delta, each at most once a turn."""
    timed = Timed().play(*events)

    assert (heard, answered) == (timed.heard, timed.answered)


def test_deltas_cost_nothing_but_the_first() -> None:
    """The deltas of an answer are watched for until the first has come, since they are most of all messages."""
    timed = Timed().play(CREATE, CREATED)
    before = timed.asked
    timed.play(*[TEXT] * 100)

    assert 1 == timed.asked - before
    assert not DELTAS & timed.timer.watched_types


@given(
    st.lists(
        st.sampled_from([*sorted(DELTAS), SPEECH_STARTED, SPEECH_STOPPED, COMMIT, CREATE, CREATED, DONE]), max_size=40
    )
)
def test_any_order_of_events(events: list[str]) -> None:
    """Whatever order events come in, no time is negative, and nothing is measured more often than it was begun."""
    timed = Timed().play(*events)

    assert all(seconds > 0 for seconds in timed.heard + timed.answered)
    assert len(timed.answered) <= events.count(CREATE)
    assert len(timed.heard) <= events.count(SPEECH_STOPPED) + events.count(COMMIT)
