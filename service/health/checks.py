"""The state of a check: pure, fed with outcomes, read by the reports.

Definite refusals fail at once: waiting changes nothing. Transient trouble warns, and fails at the third time in a row;
after that two successes in a row are asked for, so that one lucky call does not hide an outage.
"""

from dataclasses import dataclass
from typing import Final, Literal

from service.failures import CATALOGUE, Failure, Retry

Status = Literal["pass", "warn", "fail", "unknown"]
Source = Literal["active", "traffic"]

FALL: Final = 3
RISE: Final = 2
CHECKS: Final = ("key", "handshake")
TURN: Final = "turn"
"""The deep check, which exists only where RELAY_HEALTH_TURNS_PER_DAY asks for it."""


@dataclass(slots=True)
class Check:
    """One question and its last answers. Times are wall clock, for people; nothing is computed from them."""

    name: str
    status: Status = "unknown"
    reason: str | None = None
    failures: int = 0  # in a row
    successes: int = 0  # in a row
    checked_at: float | None = None
    passed_at: float | None = None
    seconds: float | None = None
    source: Source = "active"

    @property
    def is_definite(self) -> bool:
        """Whether the last answer was a refusal that waiting does not mend."""
        return self.status == "fail" and self.reason is not None and CATALOGUE[self.reason].retry is Retry.NEVER

    def forget(self) -> None:
        """As if it had never been asked."""
        self.status, self.reason, self.failures, self.successes = "unknown", None, 0, 0

    def succeeded(self, now: float, seconds: float | None, source: Source = "active") -> None:
        """The answer was yes."""
        self.checked_at = self.passed_at = now
        self.seconds, self.source = seconds, source
        self.failures, self.successes = 0, self.successes + 1
        if self.status == "fail" and self.successes < RISE:
            return  # still the reason of before
        self.status, self.reason = "pass", None

    def failed(self, failure: Failure, now: float, seconds: float | None, source: Source = "active") -> None:
        """The answer was no, or there was none."""
        self.checked_at, self.seconds, self.source = now, seconds, source
        self.failures, self.successes = self.failures + 1, 0
        self.reason = failure.reason
        definite = failure.row.retry is Retry.NEVER
        self.status = "fail" if definite or self.failures >= FALL or self.status == "fail" else "warn"

    def output(self) -> str | None:
        """What is wrong, in the catalogue's words."""
        if self.status == "unknown":
            return "not checked yet"
        if self.reason is None:
            return None
        row = CATALOGUE[self.reason]
        times = f" ({min(self.failures, FALL)}/{FALL})" if self.status == "warn" else ""
        return f"{row.reason}{times}: {row.sentence} {row.remedy}"
