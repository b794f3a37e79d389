"""Measures a session of GPT-Live from its events: billed seconds, responses of backend models, latency of speech. Pure."""

from dataclasses import dataclass
from typing import Final

from service.realtime.live_events import BackendResponse, Decision, LiveEvent, Transcript

MAX_RESPONSE_IDS: Final = 4096
"""Response ids that are remembered. A session of two hours with a response each two seconds has fewer."""

_SETTLE_MS: Final = 2_000
"""Transcripts of the user arrive up to 1.2 s after the speech, the answer within 0.6 s of it: an answer is measured only once
the timeline is this far behind its start."""
_NEW_SPEECH_GAP_MS: Final = 400
"""Speech of the assistant after a shorter gap continues what it said before. Fragments lie on a grid of 200 ms."""
_MAX_ANSWER_MS: Final = 60_000
"""After a longer silence the assistant speaks of its own accord."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one event adds to the usage of its session."""

    active_seconds: float = 0.0
    paused_seconds: float = 0.0
    backend: BackendResponse | Decision | None = None


class LiveMeter:
    """The usage of one session. The sum of all charges is what the session has used so far: each is counted once.

    Durations are cumulative: the greatest report counts. Each response id counts once.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._active_seconds = 0.0
        self._paused_seconds = 0.0
        self._charged = 0.0
        self._charged_active = 0.0
        self._response_ids: dict[str, None] = {}
        self.usage_ratio: float | None = None
        """The greatest used share of the context window; it decreases after a compaction."""
        self.is_confirmed = False
        """Whether the provider has reported the final usage. A session that ends without it may be billed for longer."""

    def add(self, event: LiveEvent) -> Charge:
        """Evaluate an event; returns what it adds."""
        if event.usage_ratio is not None:
            self.usage_ratio = max(event.usage_ratio, self.usage_ratio or 0.0)
        if event.usage is not None:
            self._seconds = max(self._seconds, event.usage.seconds)
            self._active_seconds = max(self._active_seconds, event.usage.active_seconds or 0.0)
            self._paused_seconds = max(self._paused_seconds, event.usage.paused_seconds or 0.0)
            self.is_confirmed = self.is_confirmed or event.closed_reason is not None
        active, paused = self._new_seconds()
        return Charge(active, paused, self._new_backend(event))

    def _new_seconds(self) -> tuple[float, float]:
        """What is to be charged. Seconds that were charged as active, and later are called paused, are not charged twice."""
        active, paused = self.billable_seconds()
        new = max(0.0, active + paused - self._charged)
        new_active = min(new, max(0.0, active - self._charged_active))
        self._charged = max(self._charged, active + paused)
        self._charged_active += new_active
        return new_active, new - new_active

    def billable_seconds(self) -> tuple[float, float]:
        """The active and the paused seconds so far. Seconds that no report calls paused are active."""
        return max(self._active_seconds, self._seconds - self._paused_seconds), self._paused_seconds

    def _new_backend(self, event: LiveEvent) -> BackendResponse | Decision | None:
        response = event.response
        if response is None:
            return event.decision
        if response.id in self._response_ids:
            return None
        if len(self._response_ids) >= MAX_RESPONSE_IDS:
            del self._response_ids[next(iter(self._response_ids))]
        self._response_ids[response.id] = None
        return response


class SpeechTimer:
    """Measures the time from the end of the user's speech to the start of the answer, on the timeline of the session.

    Audio shows neither, because it is continuous in both directions; so the times are those of the transcripts.
    """

    def __init__(self) -> None:
        self._user_end: float | None = None  # of speech that has no answer yet
        self._later_user_end: float | None = None  # of speech that ended after the pending answer began
        self._assistant_end: float | None = None
        self._answer_start: float | None = None  # pending: earlier speech of the user may still arrive

    def add(self, transcript: Transcript) -> float | None:
        """Evaluate a fragment; returns the seconds of an answer that has become certain."""
        start = self._answer_start
        seconds = self._settle(start) if start is not None and transcript.start_ms >= start + _SETTLE_MS else None
        if transcript.speaker == "user":
            self._add_user(transcript.end_ms)
        else:
            self._add_assistant(transcript)
        return seconds

    def finish(self) -> float | None:
        """Return the seconds of the last answer, if it is pending, at the end of the session."""
        return None if self._answer_start is None else self._settle(self._answer_start)

    def _settle(self, answer_start: float) -> float | None:
        waited = None if self._user_end is None else answer_start - self._user_end
        self._user_end, self._later_user_end, self._answer_start = self._later_user_end, None, None
        return waited / 1000 if waited is not None and waited <= _MAX_ANSWER_MS else None

    def _add_user(self, end: float) -> None:
        if self._answer_start is not None and end > self._answer_start:
            self._later_user_end = max(end, self._later_user_end or 0.0)
        else:
            self._user_end = max(end, self._user_end or 0.0)

    def _add_assistant(self, transcript: Transcript) -> None:
        was_silent = self._assistant_end is None or transcript.start_ms - self._assistant_end >= _NEW_SPEECH_GAP_MS
        if self._answer_start is None and was_silent:
            self._answer_start = transcript.start_ms
            if self._user_end is not None and self._user_end > transcript.start_ms:
                self._later_user_end, self._user_end = self._user_end, None
        self._assistant_end = max(transcript.end_ms, self._assistant_end or 0.0)
