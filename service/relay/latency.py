"""How long the user waits: a session's turns, timed by the events that pass. Pure but for the clock that it is given.

The pipe of the provider's events asks of each message whether its type is in `watched`, which holds the types that would
change something now: the deltas of an answer, most of all messages, only while the first one is awaited.
"""

from collections.abc import Callable
from typing import Final

SPEECH_STARTED: Final = "input_audio_buffer.speech_started"
SPEECH_STOPPED: Final = "input_audio_buffer.speech_stopped"
COMMIT: Final = "input_audio_buffer.commit"
CREATE: Final = "response.create"
AUDIO_DELTA: Final = "response.output_audio.delta"
DELTAS: Final = frozenset(
    {
        AUDIO_DELTA,
        "response.output_text.delta",
        "response.output_audio_transcript.delta",
        "response.function_call_arguments.delta",
        "response.mcp_call_arguments.delta",
    }
)
CREATED: Final = "response.created"
OF_CLIENTS: Final = frozenset({COMMIT, CREATE})
"""What counts from the client's side; a client that sends the provider's events could write the metrics."""
_QUIET: Final = frozenset({SPEECH_STARTED, SPEECH_STOPPED})
_ASKED: Final = _QUIET | {CREATED}
_BEGUN: Final = _ASKED | DELTAS


class LatencyTimer:
    """Times one session: tells `heard` the seconds from speech to audio, `answered` those from a request to the first delta.

    Only a response that was created since counts: what still comes of the one before is no answer.
    """

    __slots__ = ("_answered", "_asked_at", "_clock", "_heard", "_spoken_at", "watched")

    def __init__(
        self, clock: Callable[[], float], heard: Callable[[float], object], answered: Callable[[float], object]
    ) -> None:
        self._clock = clock
        self._heard = heard
        self._answered = answered
        self._spoken_at: float | None = None
        self._asked_at: float | None = None
        self.watched = _QUIET

    def passed(self, kind: str) -> None:
        """An event has passed: of upstream's in `watched`, or of the client's in `OF_CLIENTS`."""
        if kind in DELTAS:
            self._take_delta(kind)
        elif kind == CREATED:
            self.watched = _BEGUN
            return
        elif kind == SPEECH_STARTED:
            self._spoken_at = None  # the user goes on
        elif kind == CREATE:
            self._asked_at = self._clock()
        elif kind == SPEECH_STOPPED or self._spoken_at is None:  # a commit behind it is the same end
            self._spoken_at = self._clock()
        self._watch(begun=kind in DELTAS)

    def response_ended(self) -> None:
        """What was awaited of a response has come, or will not come any more."""
        if self.watched is _BEGUN:
            self._spoken_at = self._asked_at = None
            self._watch(begun=False)

    def _take_delta(self, kind: str) -> None:
        if self._asked_at is not None:
            self._answered(self._clock() - self._asked_at)
            self._asked_at = None
        if self._spoken_at is not None and kind == AUDIO_DELTA:
            self._heard(self._clock() - self._spoken_at)
            self._spoken_at = None

    def _watch(self, *, begun: bool) -> None:
        if self._spoken_at is None and self._asked_at is None:
            self.watched = _QUIET
        elif not begun:
            self.watched = _ASKED
