"""When the health checks run: the pauses between refreshes. Pure but for jitter; the caller supplies the time."""

import random
from dataclasses import dataclass
from typing import Final

from service.failures import Failure
from service.upstream.translate import RETRY_AFTER_MAX_SECONDS

_STALE_MARGIN_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class RefreshIntervals:
    """The pauses between refreshes, in seconds: while the checks pass, and after a failure (doubled up to the maximum)."""

    passing: float = 60.0
    first_retry: float = 5.0
    max_retry: float = 120.0
    readiness_grace: float = 60.0  # after the start, how long temporary failures keep `/readyz` closed


class RefreshSchedule:
    """The pause after each refresh, with jitter and backoff, and never before a Retry-After has passed."""

    def __init__(self, intervals: RefreshIntervals) -> None:
        self._intervals = intervals
        self._retry_seconds = intervals.first_retry
        self._not_before = 0.0

    @property
    def stale_after_seconds(self) -> float:
        """Results older than this mean that the monitor has stopped."""
        longest = max(self._intervals.passing, self._intervals.max_retry, RETRY_AFTER_MAX_SECONDS)
        return longest + _STALE_MARGIN_SECONDS

    def refresh_started(self, now: float) -> None:
        """Set the minimum distance to the next refresh: requests for a refresh must not cause unlimited calls upstream."""
        self._not_before = now + min(1.0, self._intervals.first_retry)

    def honour_retry_after(self, failure: Failure, now: float) -> None:
        """Wait at least as long as the provider asked for."""
        if failure.retry_after_seconds is not None:
            self._not_before = max(self._not_before, now + failure.retry_after_seconds)

    def remaining_seconds(self, now: float) -> float:
        """How long no refresh may start, even if one is requested; not above 0 if one may."""
        return self._not_before - now

    def next_pause(self, *, all_pass: bool, any_failed: bool) -> float:
        """The pause until the next refresh. While no check fails but one does not pass yet, backoff starts anew."""
        if not any_failed:
            self._retry_seconds = self._intervals.first_retry
        if all_pass:
            return self._intervals.passing * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        pause = self._retry_seconds
        self._retry_seconds = min(self._retry_seconds * 2, self._intervals.max_retry)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
