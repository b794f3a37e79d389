"""What a pipe asks of its session, and reports to it."""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple, Protocol

from service.realtime.closing import CloseCode
from service.realtime.events import Direction
from service.realtime.live_events import Transcript
from service.realtime.redaction import redact_json
from service.realtime.scanner_items import Message, Violation
from service.relay.session_info import SessionInfo

MAX_REDACTED_BYTES: Final = 262_144
"""A larger event that has to be redacted is not forwarded: the search would delay other sessions."""
UNSEARCHED: Final = Violation(
    CloseCode.POLICY_VIOLATION,
    "an event over 256 KiB reports a failure, or has no type: the relay does not forward it, because it may contain the key",
)


class Verdict(Enum):
    """What becomes of an event that was read whole."""

    FORWARD = auto()
    REDACT = auto()  # it reports a failure, or has no type: its text may contain a part of the key
    DROP = auto()


class Rewritten(NamedTuple):
    """The payload that is forwarded in place of an event; `is_redacted` as with `Verdict.REDACT`."""

    payload: bytes
    is_redacted: bool


def replacement(verdict: Verdict | Rewritten, payload: bytes, redact: Callable[[str], str]) -> bytes | None:
    """The payload that the client gets in place of an event, redacted or rewritten; None: it is unchanged.

    An event that `is_unsearchable` must not be shown.
    """
    rewritten = verdict.payload if isinstance(verdict, Rewritten) else None
    return (redact_json(rewritten or payload, redact) if _is_redacted(verdict) else None) or rewritten


def is_unsearchable(verdict: Verdict | Rewritten, payload: bytes) -> bool:
    """Whether an event has to be redacted and is too large for that."""
    return len(payload) > MAX_REDACTED_BYTES and _is_redacted(verdict)


def _is_redacted(verdict: Verdict | Rewritten) -> bool:
    return verdict is Verdict.REDACT or (isinstance(verdict, Rewritten) and verdict.is_redacted)


class PipeOwner(Protocol):
    """The session, as its pipes see it. `direction` names the pipe, and with it the peer at its source."""

    info: SessionInfo

    def peer_closed(self, direction: Direction, code: int | None, reason: str) -> None:
        """The source sent a close frame."""

    def peer_lost(self, direction: Direction) -> None:
        """The source disconnected. May be called after `peer_closed`, and more than once."""

    def peer_broke_protocol(self, direction: Direction, violation: Violation) -> None:
        """The source violated RFC 6455 or the limit on messages."""

    def end(self, reason: str, detail: str | None = None) -> None:
        """End the session for a reason of the relay's own; `detail` says more about it."""

    def rate_exceeded(self) -> None:
        """The source sent more frames than its rate allows, as counted while they were parsed."""

    def event_read(self, direction: Direction, message: Message) -> Verdict | Rewritten:
        """The source sent one of the few events that the relay reads whole. Called before it is forwarded."""

    def transcripts_passed(self, transcripts: list[Transcript]) -> None:
        """Upstream sent these, and they were forwarded, since the last call."""

    def event_discarded(self, event_type: str | None, payload: bytes) -> None:
        """Upstream sent such an event after the end of the session."""

    def redact(self, text: str) -> str:
        """Replace secrets in a text."""

    def fail(self) -> None:
        """An unexpected exception was raised; called while it is handled."""
