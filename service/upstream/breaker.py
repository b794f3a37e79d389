"""Circuit breaker and retry budget: which dials are not worth making.

One breaker serves all clients. Rules of this file:

* A definite failure that affects every client (key, credit, certificate) opens the breaker at its first occurrence, as
  pgbouncer's `server_login_retry` does. For `DEFINITE_OPEN_SECONDS` clients get the cause within a millisecond, and the
  provider does not get the bad key again.
* A temporary failure opens it after `FAILURES_TO_OPEN` dials without a success between them, and for a shorter time.
* A failure that affects one client only, such as an unknown model, proves that the provider answers. It closes the breaker.
* A refusal of a query or path counts neither way: it may affect every client, but any client can cause it, and five of one
  client must not stop the others.

Nothing here waits or reads a clock of its own.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from service.failures import Failure, Phase

DEFINITE_OPEN_SECONDS: Final = 15.0
TEMPORARY_OPEN_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long a temporary failure keeps the breaker open: each failed trial moves to the next step."""
MAX_RETRY_AFTER_SECONDS: Final = 30.0
"""Upper bound on how long a provider's Retry-After keeps the breaker open. Clients are given the whole Retry-After."""
FAILURES_TO_OPEN: Final = 5

_REQUEST_SPECIFIC: Final = frozenset({
    "model_not_found", "call_not_found", "client_left"
})  # fmt: skip
_UNCOUNTED: Final = frozenset({"request_rejected", "wrong_base_url"})


class CircuitBreaker:
    """Refuses dials while the provider is known to refuse them or to fail.

    Closed: `permit` lets every dial pass. Open: `permit` raises the failure that opened it, with phase `breaker` and the
    seconds until the next trial. Half-open, once the open time has passed: the next `permit` is the trial, and all others
    still raise until its `with` block ends. The holder of a permit reports the outcome with `succeeded` or `failed`. If a
    trial ends without a report, because its client disconnected, the next dial is the trial.

    `clock` returns seconds, like the event loop's time.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failure: Failure | None = None
        self._opened_at = 0.0
        self._open_until = 0.0
        self._trial_is_running = False
        self._temporary_failures = 0  # without a success between them
        self._times_opened = 0  # without a success between them
        self._retry_after_until = 0.0  # when the provider's own Retry-After ends
        self._generation = 0  # incremented by a success or a new key; outcomes of dials from before it do not count

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open or half-open."""
        return self._failure is not None

    @contextmanager
    def permit(self) -> Iterator["BreakerPermit"]:
        """Permit one dial, for the time of the `with` block; raises Failure with phase `breaker` if the breaker is open."""
        is_trial = self._admit()
        try:
            yield BreakerPermit(is_trial, self._generation)
        finally:
            if is_trial:
                self._trial_is_running = False

    def _admit(self) -> bool:
        if self._failure is None:
            return False
        now = self._clock()
        if now >= self._open_until and not self._trial_is_running:
            self._trial_is_running = True
            return True
        raise dataclasses.replace(
            self._failure,
            phase=Phase.BREAKER,
            retry_after_seconds=max(1, math.ceil(max(self._open_until, self._retry_after_until) - now)),
            detail=f"not dialled: a dial failed with this reason {now - self._opened_at:.1f} s ago",
        )

    def succeeded(self) -> None:
        """Close the breaker: a dial received its first event, or the key has changed."""
        self._failure, self._temporary_failures, self._times_opened = None, 0, 0
        self._generation += 1

    def failed(self, failure: Failure, permit: "BreakerPermit | None" = None) -> None:
        """Count a failed dial.

        With its permit, a dial that began before the last success, or before another dial opened the breaker, does not count.
        """
        if permit is not None and (permit.generation != self._generation or (self.is_open and not permit.is_trial)):
            return
        if failure.reason in _REQUEST_SPECIFIC:
            if failure.reason != "client_left":
                self.succeeded()
            return
        if failure.reason in _UNCOUNTED:
            return
        if failure.row.is_definite and not _may_be_request_specific(failure):
            self._open(failure, DEFINITE_OPEN_SECONDS)
            return
        self._temporary_failures += 1
        if self._temporary_failures >= FAILURES_TO_OPEN:
            step = TEMPORARY_OPEN_SECONDS[min(self._times_opened, len(TEMPORARY_OPEN_SECONDS) - 1)]
            self._open(failure, min(float(failure.retry_after_seconds or step), MAX_RETRY_AFTER_SECONDS))

    def _open(self, failure: Failure, seconds: float) -> None:
        self._opened_at = self._clock()
        self._failure, self._open_until = failure, self._opened_at + seconds
        self._retry_after_until = self._opened_at + (failure.retry_after_seconds or 0)
        self._times_opened += 1


def _may_be_request_specific(failure: Failure) -> bool:
    """Whether a 403 may be the answer of a server before the API to one client's query; only a series of them affects all."""
    if failure.phase not in {Phase.UPGRADE, Phase.FIRST_EVENT}:
        return False
    if failure.reason == "blocked_before_api":
        return True
    return failure.reason == "key_forbidden" and failure.phase is Phase.UPGRADE and failure.upstream_code is None


@dataclass(frozen=True, slots=True)
class BreakerPermit:
    """Permission for one dial. `is_trial`: its outcome closes the breaker or opens it again."""

    is_trial: bool
    generation: int = 0


class RetryBudget:
    """A token bucket that limits retries to a tenth of all dials: in an outage retries would add to the provider's load.

    It starts with one token, so that the first failure on an idle relay is retried.
    """

    RATIO: Final = 0.1
    MAX_TOKENS: Final = 10.0

    def __init__(self) -> None:
        self._tokens = 1.0

    def record_dial(self) -> None:
        """Count a dial that is not a retry."""
        self._tokens = min(self._tokens + self.RATIO, self.MAX_TOKENS)

    def try_acquire(self) -> bool:
        """Take a token for a retry; False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
