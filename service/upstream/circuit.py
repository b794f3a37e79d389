"""One circuit: remembers that dials of one kind fail, and for how long none is worth making. The clock is a parameter."""

import dataclasses
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from service.failures import Failure, Phase

DEFINITE_OPEN_SECONDS: Final = 15.0
TEMPORARY_OPEN_SECONDS: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
"""How long a temporary failure keeps a circuit open: each failed trial moves to the next step."""
RECOVERY_TRIAL_SECONDS: Final = 2.0
"""After this long a dial for a call that has lost its upstream is the trial of a temporary failure."""
MAX_RETRY_AFTER_SECONDS: Final = 30.0
"""Upper bound on how long a provider's Retry-After keeps a circuit open. Clients are given the whole Retry-After."""
FAILURES_TO_OPEN: Final = 5
WITNESS_SECONDS: Final = 60.0
"""For how long the failure of one client is compared with those of others."""


class Witness(NamedTuple):
    """Who dialled, and what: the client's name (with open access its address), the route, the model, and the user if any."""

    client: str
    route: str
    model: str
    user: str = ""

    @property
    def endpoint(self) -> tuple[str, str]:
        """Route and model."""
        return self.route, self.model


class Circuit:
    """Closed: every dial passes. Open: none does. Half-open, once the open time has passed: one dial at a time, the trial.

    `is_shared(failure, first, second)` returns whether a failure that both witnesses met concerns every client that this
    circuit refuses; until it does, the circuit stays closed. Without it one witness is enough.
    """

    def __init__(
        self, clock: Callable[[], float], is_shared: Callable[[Failure, Witness, Witness], bool] | None = None
    ) -> None:
        self._clock = clock
        self._is_shared = is_shared
        self.failure: Failure | None = None
        self.open_until = 0.0
        self.trial_is_running = False
        self._opened_at = 0.0
        self._temporary_failures = 0  # without a success between them
        self._times_opened = 0  # without a success between them
        self._retry_after_until = 0.0  # when the provider's own Retry-After ends
        self._first: tuple[str, Witness, float] | None = None  # reason, who met it first, and when

    @property
    def is_open(self) -> bool:
        """Whether it is open or half-open."""
        return self.failure is not None

    @property
    def refuses(self) -> bool:
        """Whether its open time has not passed."""
        return self.failure is not None and self._clock() < self.open_until

    def admit(self, *, is_recovery: bool = False) -> bool:
        """Let a dial pass and return whether it is the trial; raises Failure with phase `breaker`.

        `is_recovery`: a call waits for it, for seconds only, so that its trial is earlier.
        """
        if self.failure is None:
            return False
        open_until = self.open_until
        if is_recovery and not self.failure.row.is_definite:
            open_until = min(open_until, max(self._opened_at + RECOVERY_TRIAL_SECONDS, self._retry_after_until))
        if self._clock() >= open_until and not self.trial_is_running:
            self.trial_is_running = True
            return True
        raise self.refusal()

    def refusal(self) -> Failure:
        """The failure that opened it, with phase `breaker` and the seconds until the next trial."""
        assert self.failure is not None  # noqa: S101 - callers check it
        now = self._clock()
        return dataclasses.replace(
            self.failure,
            phase=Phase.BREAKER,
            retry_after_seconds=max(1, math.ceil(max(self.open_until, self._retry_after_until) - now)),
            detail=f"not dialled: a dial failed with this reason {now - self._opened_at:.1f} s ago",
        )

    def close(self) -> None:
        """Close it: a dial succeeded."""
        self.failure, self._first, self._temporary_failures, self._times_opened = None, None, 0, 0

    def failed(self, failure: Failure, witness: Witness, *, is_definite: bool) -> None:
        """Count a failed dial; a definite failure opens the circuit at once, others in a series."""
        if not is_definite:
            self._temporary_failures = min(self._temporary_failures + 1, FAILURES_TO_OPEN)
        if not self._has_two_witnesses(failure, witness):
            return
        if is_definite:
            self.open(failure, DEFINITE_OPEN_SECONDS)
        elif self._temporary_failures >= FAILURES_TO_OPEN:
            self.open_for_a_step(failure)

    def open_for_a_step(self, failure: Failure) -> None:
        """Open it for the Retry-After of a temporary failure, or for the next step."""
        step = TEMPORARY_OPEN_SECONDS[min(self._times_opened, len(TEMPORARY_OPEN_SECONDS) - 1)]
        self.open(failure, min(float(failure.retry_after_seconds or step), MAX_RETRY_AFTER_SECONDS))

    def open(self, failure: Failure, seconds: float) -> None:
        """Open it, or open it again."""
        self._opened_at = self._clock()
        # A copy: the traceback of the exception would keep the client's request, its handler and its sockets in memory.
        self.failure, self.open_until = dataclasses.replace(failure), self._opened_at + seconds
        self._retry_after_until = self._opened_at + (failure.retry_after_seconds or 0)
        self._times_opened += 1
        self._first = None

    def _has_two_witnesses(self, failure: Failure, witness: Witness) -> bool:
        if self._is_shared is None:
            return True
        now = self._clock()
        if self._first is not None and now - self._first[2] <= WITNESS_SECONDS and self._first[0] == failure.reason:
            return self._is_shared(failure, self._first[1], witness)
        self._first = (failure.reason, witness, now)
        return False
