"""What a session does that depends on the API: which events it reads, what an ending means, how upstream is closed."""

import time
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from service.realtime.events import Direction
from service.realtime.incidents import ERROR, RESPONSE_DONE, Incident
from service.realtime.live_events import Transcript
from service.realtime.server_events import parse_server_event
from service.relay.ending import Ending
from service.relay.latency import LatencyTimer, ResponseTimer
from service.relay.pipe_owner import Rewritten, Verdict
from service.relay.reporter import SessionReporter
from service.telemetry.conversations import ConversationMetrics
from service.upstream.dial import UpstreamConnection

_SESSION_EXPIRED: Final = Incident(ERROR, "session_expired")


Position = Callable[[], int]
"""Returns the number of upstream's messages before the event that is being read."""


class SendError(Protocol):
    """Sends the client an `error` event within the session."""

    def __call__(self, reason: str, hint: str | None, param: str | None = None, event_id: str | None = None) -> None:
        """For a reason and a remedy, and the field and the id of the client's event where they are known."""


class Call(Protocol):
    """The part of a session that knows its API. A session calls it within its own turn; none of its methods raises."""

    timer: ResponseTimer
    settle_seconds: float  # how long upstream may outlast the end of the session

    @property
    def has_expired(self) -> bool:
        """Whether the provider has reported that the session reached its maximum duration."""

    def event_read(
        self, direction: Direction, event_type: str | None, payload: bytes, position: Position
    ) -> Verdict | Rewritten:
        """Process an event that was read whole."""

    def transcripts_passed(self, transcripts: list[Transcript]) -> None:
        """Process transcripts of upstream that were forwarded."""

    def event_discarded(self, event_type: str | None, payload: bytes) -> None:
        """Process such an event of upstream that is not forwarded any more."""

    def activity(self, messages: int) -> int:
        """A number that grows while the conversation goes on; `messages` is that of all messages."""

    def ending(self, end: Ending) -> Ending:
        """The ending that upstream's own words make of `end`."""

    def shown(self, payload: bytes) -> bytes | None:
        """What the client may see of an event that it gets in the place of upstream's; None for nothing."""

    def upstream_replaced(self) -> None:
        """Forget what the former upstream connection reported about itself: another one carries the session."""

    def due_ending(self) -> Ending | None:
        """The ending that is due because of what upstream reported, or None; asked at every tick."""

    async def settle(self, connected: UpstreamConnection, deadline: float) -> None:
        """Close the session upstream, before its socket is closed; upstream is alive, and at a message boundary."""

    def summary(self) -> Mapping[str, object]:
        """Further fields of the log line `session.ended`; called once, when both sides are closed."""


NewCall = Callable[[SessionReporter, SendError], Call]
"""Creates the call of a session."""


class RealtimeCall:
    """A session of the Realtime API: it ends with its socket, and is billed by the tokens of its responses."""

    settle_seconds = 0.0

    def __init__(self, reporter: SessionReporter, _: SendError, *, metrics: ConversationMetrics) -> None:
        self._reporter = reporter
        self._timer = LatencyTimer(time.perf_counter, metrics.speech_to_audio.observe, metrics.first_delta.observe)
        self.timer: ResponseTimer = self._timer
        self.has_expired = False

    def event_read(
        self,
        direction: Direction,
        event_type: str | None,
        payload: bytes,
        position: Position,
    ) -> Verdict | Rewritten:
        """Count what an upstream event reports."""
        if direction == Direction.CLIENT_TO_UPSTREAM:
            return Verdict.FORWARD
        if event_type is None:
            return Verdict.REDACT
        event = parse_server_event(event_type, payload)
        self.has_expired = self.has_expired or event.incident == _SESSION_EXPIRED
        self._reporter.event_parsed(event, position())
        if event.response is not None:
            self._timer.response_ended()
        # The text of a response belongs to the conversation, whatever it contains.
        return Verdict.FORWARD if event.incident is None else Verdict.REDACT

    def transcripts_passed(self, transcripts: list[Transcript]) -> None:
        """Nothing: those of this API are only forwarded."""

    def event_discarded(self, event_type: str | None, payload: bytes) -> None:
        """Count the response that the end of a session with a budget cut off. Another has no listener."""
        if event_type == RESPONSE_DONE and self._reporter.spending.on_change is not None:
            self._reporter.event_parsed(parse_server_event(event_type, payload), 0)

    def activity(self, messages: int) -> int:
        """Every message."""
        return messages

    def ending(self, end: Ending) -> Ending:
        """The same."""
        return end

    def shown(self, payload: bytes) -> bytes | None:
        """All of it."""
        return payload

    def upstream_replaced(self) -> None:
        """That it has expired."""
        self.has_expired = False

    def due_ending(self) -> Ending | None:
        """None."""
        return None

    async def settle(self, connected: UpstreamConnection, deadline: float) -> None:
        """Nothing."""

    def summary(self) -> Mapping[str, object]:
        """Nothing."""
        return {}
