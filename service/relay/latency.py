"""How long the user waits for an answer, timed by the events of a session. Pure but for the clock that it is given.

The upstream pipe asks for each message whether its type is in `watched_types`, which holds the types that would change the
state now. Most messages are deltas of a response; only the first one is watched.
"""

from collections.abc import Callable
from typing import Final, Protocol

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
CLIENT_TYPES: Final = frozenset({COMMIT, CREATE})
"""The types that count when the client sends them. A client that sends a server event must not change the metrics."""
_IDLE: Final = frozenset({SPEECH_STARTED, SPEECH_STOPPED})
_WAITING: Final = _IDLE | {CREATED}
_RESPONDING: Final = _WAITING | DELTAS


class ResponseTimer(Protocol):
    """What the pipes of a session report events to."""

    watched_types: frozenset[str]
    client_types: frozenset[str]

    def event_passed(self, event_type: str) -> None:
        """Process an event: of upstream's those in `watched_types`, of the client's those in `client_types`."""


class LatencyTimer:
    """Times the responses of one session.

    Calls `on_audio` with the seconds from the end of the user's speech to the first audio, and `on_delta` with those from
    `response.create` to the first delta, each at most once for a response. Deltas of an earlier response do not count.
    """

    __slots__ = (
        "_clock",
        "_on_audio",
        "_on_delta",
        "_requested_at",
        "_speech_ended_at",
        "client_types",
        "watched_types",
    )

    def __init__(
        self, clock: Callable[[], float], on_audio: Callable[[float], object], on_delta: Callable[[float], object]
    ) -> None:
        self._clock = clock
        self._on_audio = on_audio
        self._on_delta = on_delta
        self._speech_ended_at: float | None = None
        self._requested_at: float | None = None
        self.client_types = CLIENT_TYPES
        self.watched_types = _IDLE

    def event_passed(self, event_type: str) -> None:
        """Process an event: of upstream's those in `watched_types`, of the client's those in `client_types`."""
        if event_type in DELTAS:
            self._first_delta(event_type)
        elif event_type == CREATED:
            self.watched_types = _RESPONDING
            return
        elif event_type == SPEECH_STARTED:
            self._speech_ended_at = None  # the user goes on speaking
        elif event_type == CREATE:
            self._requested_at = self._clock()
        elif (
            event_type == SPEECH_STOPPED or self._speech_ended_at is None
        ):  # a commit after it is the same end of speech
            self._speech_ended_at = self._clock()
        self._watch(is_responding=event_type in DELTAS)

    def response_ended(self) -> None:
        """Stop waiting for the first delta of a response that has ended."""
        if self.watched_types is _RESPONDING:
            self._speech_ended_at = self._requested_at = None
            self._watch(is_responding=False)

    def _first_delta(self, event_type: str) -> None:
        if self._requested_at is not None:
            self._on_delta(self._clock() - self._requested_at)
            self._requested_at = None
        if self._speech_ended_at is not None and event_type == AUDIO_DELTA:
            self._on_audio(self._clock() - self._speech_ended_at)
            self._speech_ended_at = None

    def _watch(self, *, is_responding: bool) -> None:
        if self._speech_ended_at is None and self._requested_at is None:
            self.watched_types = _IDLE
        elif not is_responding:
            self.watched_types = _WAITING
