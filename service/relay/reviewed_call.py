"""A session of the Realtime API with a locked policy: its client's events are reviewed, and instructions hidden from it."""

from service.realtime.events import Direction
from service.realtime.policy import Policy, without_instructions, without_quotation
from service.realtime.policy_review import review
from service.relay.call import Position, RealtimeCall, SendError
from service.relay.pipe_owner import Rewritten, Verdict
from service.relay.reporter import SessionReporter
from service.telemetry.conversations import ConversationMetrics


class ReviewedCall(RealtimeCall):
    """See `Call`. A refused event is dropped whole, as the provider does with an invalid one, and the session goes on.

    `instructions` are those with which the session started.
    """

    def __init__(
        self,
        reporter: SessionReporter,
        send_error: SendError,
        *,
        metrics: ConversationMetrics,
        policy: Policy,
        instructions: str | None,
    ) -> None:
        super().__init__(reporter, send_error, metrics=metrics)
        self._send_error = send_error
        self._refused = metrics.refused_events
        self._policy = policy
        self._instructions = instructions

    def event_read(
        self, direction: Direction, event_type: str | None, payload: bytes, position: Position
    ) -> Verdict | Rewritten:
        """Let no client event pass that the policy locks; count what an upstream event reports."""
        if direction == Direction.CLIENT_TO_UPSTREAM:
            return self._review(payload)
        verdict = super().event_read(direction, event_type, payload, position)
        return self._hide(event_type, payload, verdict) if self._policy.hides_instructions else verdict

    def shown(self, payload: bytes) -> bytes | None:
        """Hide the instructions."""
        return without_instructions(payload) if self._policy.hides_instructions else payload

    def _hide(self, event_type: str | None, payload: bytes, verdict: Verdict | Rewritten) -> Verdict | Rewritten:
        """Hide the instructions in events that show the session, of types that the relay does not know, and in failures."""
        is_failure = verdict is Verdict.REDACT
        shown = without_instructions(payload)
        if shown is None:
            if event_type is not None:
                return Verdict.DROP
            shown = payload  # no event
        if is_failure and self._instructions:
            shown = without_quotation(shown, self._instructions)
        return verdict if shown is payload else Rewritten(shown, is_redacted=is_failure)

    def _review(self, payload: bytes) -> Verdict:
        refusal = review(self._policy, payload)
        if refusal is None:
            return Verdict.FORWARD
        self._refused.labels(refusal.reason).inc()
        self._send_error(refusal.reason, refusal.hint, refusal.param, refusal.event_id)
        return Verdict.DROP
