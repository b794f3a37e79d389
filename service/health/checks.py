"""The state of a check. Pure: it is given outcomes and read by the reports.

A definite failure fails a check immediately, since waiting changes nothing. A temporary one warns, and fails at the third in
a row. A failed check needs two successes in a row to pass again: one success must not hide an outage.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from service.failures import CATALOGUE, Failure

Status = Literal["pass", "warn", "fail", "unknown"]
Source = Literal["active", "traffic"]

FAILURE_THRESHOLD: Final = 3
SUCCESS_THRESHOLD: Final = 2
CHECKS: Final = ("key", "handshake")
TURN: Final = "turn"
"""The check that requests a response; it exists only if RELAY_HEALTH_TURNS_PER_DAY is above 0."""
LIVE: Final = "live"
"""The check of the key for GPT-Live; it exists only with RELAY_HEALTH_LIVE."""
STORE: Final = "store"
"""The check of the shared store; it exists only if RELAY_STORE_URL names a server."""


@dataclass(slots=True)
class HealthCheck:
    """One check and its last results. Times are wall clock, for display only; nothing is computed from them."""

    name: str
    component: str = "upstream"
    is_required: bool = True  # whether its failure closes /readyz and fails /healthz
    caveat: str | None = None  # what a pass without evidence from traffic leaves open
    status: Status = "unknown"
    reason: str | None = None
    hint: str | None = None  # replaces the remedy of the reason's row
    failures: int = 0  # in a row
    successes: int = 0  # in a row
    checked_at: float | None = None
    passed_at: float | None = None
    seconds: float | None = None
    source: Source = "active"
    # Of the last failure, not the exception itself: its traceback would keep the headers of a request alive.
    evidence: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_definite(self) -> bool:
        """Whether the last result is a definite failure."""
        return self.status == "fail" and self.reason is not None and CATALOGUE[self.reason].is_definite

    def reset(self) -> None:
        """Return to the state before the first result; the times stay."""
        self.status, self.reason, self.hint, self.failures, self.successes = "unknown", None, None, 0, 0

    def succeeded(self, now: float, seconds: float | None, source: Source = "active") -> None:
        """Record a success."""
        self.checked_at = self.passed_at = now
        self.seconds, self.source = seconds, source
        self.failures, self.successes = 0, self.successes + 1
        if self.status == "fail" and self.successes < SUCCESS_THRESHOLD:
            return  # keeps the status and the reason
        self.status, self.reason, self.hint = "pass", None, None

    def failed(self, failure: Failure, now: float, seconds: float | None, source: Source = "active") -> None:
        """Record a failure."""
        self.checked_at, self.seconds, self.source = now, seconds, source
        self.failures, self.successes = self.failures + 1, 0
        self.reason, self.hint, self.evidence = failure.reason, failure.hint, failure.evidence
        has_failed = failure.row.is_definite or self.failures >= FAILURE_THRESHOLD or self.status == "fail"
        self.status = "fail" if has_failed else "warn"

    def output(self) -> str | None:
        """Reason, sentence and operator's action of the last failure, or "not checked yet"; None if the check passes."""
        if self.status == "unknown":
            return "not checked yet"
        if self.reason is None:
            return None
        row = CATALOGUE[self.reason]
        is_counted = self.status == "warn"
        count = f" ({min(self.failures, FAILURE_THRESHOLD)}/{FAILURE_THRESHOLD})" if is_counted else ""
        return f"{row.reason}{count}: {row.sentence} {self.hint or row.operator_action}"
