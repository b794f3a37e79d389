"""What is not tried: retries beyond a budget, and dials right after a refusal that another dial would only meet again.

Pure but for the clock that is handed in. Rules of this file:

* A definite refusal that concerns every caller (the key, the credit, the certificate) opens the breaker at once, as
  pgbouncer's `server_login_retry` does: for `DEFINITE_SECONDS` callers are answered from memory, then one of them is the
  trial. Waiting callers learn the cause in a millisecond, and the provider is not hammered with a bad key.
* Trouble that may pass opens it only after `IN_A_ROW` dials, and for a shorter time.
* What concerns one caller only, such as the model asked for, proves that the provider answers, and closes it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from service.failures import Failure, Phase, Retry

DEFINITE_SECONDS: Final = 15.0
TRANSIENT_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long trouble that may pass is answered from memory; longer each time that the trial meets it again."""
RETRY_AFTER_SECONDS: Final = 30.0
"""The longest that a provider's Retry-After holds all callers back; each caller is told the whole of it."""
IN_A_ROW: Final = 5

_FOR_ONE_CALLER: Final = frozenset({"model_not_found", "model_missing", "call_not_found", "bad_request", "client_left"})


class Breaker:
    """Remembers the last refusal that concerns every caller. `clock` yields seconds, like a loop's time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failure: Failure | None = None
        self._since = 0.0
        self._until = 0.0
        self._trying = False
        self._row = 0  # transient failures without a success between them
        self._opened = 0  # how often in a row
        self._patience = 0.0  # until when the provider itself asked everybody to wait
        self._generation = 0  # raised when what was known is over: a dial that began before says nothing any more

    @property
    def is_open(self) -> bool:
        """Whether callers are answered from memory, but for the trial."""
        return self._failure is not None

    @contextmanager
    def passage(self) -> Iterator["BreakerPermit"]:
        """Let a dial pass; raises Failure with phase breaker while others have just been refused."""
        is_trial = self._admit()
        passage = BreakerPermit(is_trial, self._generation)
        try:
            yield passage
        finally:
            if is_trial:
                self._trying = False

    def _admit(self) -> bool:
        if self._failure is None:
            return False
        now = self._clock()
        if now >= self._until and not self._trying:
            self._trying = True
            return True
        raise dataclasses.replace(
            self._failure,
            phase=Phase.BREAKER,
            retry_after_seconds=max(1, math.ceil(max(self._until, self._patience) - now)),
            detail=f"answered from memory, {now - self._since:.1f} s after the provider's own answer",
        )

    def succeeded(self) -> None:
        """A first event came, or the key changed: whatever was remembered is over."""
        self._failure, self._row, self._opened = None, 0, 0
        self._generation += 1

    def failed(self, failure: Failure, passage: "BreakerPermit | None" = None) -> None:
        """A dial came to nothing. Dials that were under way when it opened, or before the key changed, add nothing."""
        if passage is not None and (passage.generation != self._generation or (self.is_open and not passage.is_trial)):
            return
        if failure.reason in _FOR_ONE_CALLER:
            if failure.reason != "client_left":
                self.succeeded()
            return
        if failure.row.retry is Retry.NEVER and not _may_be_one_callers(failure):
            self._open(failure, DEFINITE_SECONDS)
            return
        self._row += 1
        if self._row >= IN_A_ROW:
            step = TRANSIENT_SECONDS[min(self._opened, len(TRANSIENT_SECONDS) - 1)]
            self._open(failure, min(float(failure.retry_after_seconds or step), RETRY_AFTER_SECONDS))

    def _open(self, failure: Failure, seconds: float) -> None:
        self._since = self._clock()
        self._failure, self._until = failure, self._since + seconds
        self._patience = self._since + (failure.retry_after_seconds or 0)
        self._opened += 1


def _may_be_one_callers(failure: Failure) -> bool:
    """A bare 403 may be the edge's answer to one caller's query; only in a row it is everybody's."""
    return failure.reason == "key_forbidden" and failure.phase is Phase.UPGRADE and failure.upstream_code is None


@dataclass(frozen=True, slots=True)
class BreakerPermit:
    """Leave to dial. `is_trial`: this is the one dial that finds out whether the trouble is over."""

    is_trial: bool
    generation: int = 0


class RetryBudget:
    """Retries are at most a tenth of the dials, so that an outage is not made worse by half as much again."""

    SHARE: Final = 0.1
    MOST: Final = 10.0

    def __init__(self) -> None:
        self._tokens = 1.0  # a lone caller's first bad luck

    def dialled(self) -> None:
        """A dial that was no retry."""
        self._tokens = min(self._tokens + self.SHARE, self.MOST)

    def take(self) -> bool:
        """Whether one more retry may be made."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
