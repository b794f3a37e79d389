"""The pauses between refreshes."""

import pytest

from service.failures import Failure
from service.health.schedule import RefreshIntervals, RefreshSchedule

INTERVALS = RefreshIntervals(passing=60, first_retry=5, max_retry=30)


def test_pause_backs_off_while_checks_fail_and_starts_again_after_a_success() -> None:
    """Jitter is at most a fifth."""
    schedule = RefreshSchedule(INTERVALS)

    failing = [schedule.next_pause(all_pass=False, any_failed=True) for _ in range(5)]
    recovering = schedule.next_pause(all_pass=False, any_failed=False)
    passing = schedule.next_pause(all_pass=True, any_failed=False)

    assert [pytest.approx(seconds, rel=0.2) for seconds in (5, 10, 20, 30, 30)] == failing
    assert pytest.approx(5, rel=0.2) == recovering
    assert pytest.approx(60, rel=0.1) == passing


def test_retry_after_extends_the_minimum_distance() -> None:
    """The longest one counts; a new refresh starts with a distance of a second."""
    schedule = RefreshSchedule(INTERVALS)
    schedule.refresh_started(100.0)
    assert 1.0 == schedule.remaining_seconds(100.0)

    schedule.honour_retry_after(Failure("rate_limited", retry_after_seconds=20), 100.0)
    schedule.honour_retry_after(Failure("rate_limited", retry_after_seconds=10), 100.0)
    schedule.honour_retry_after(Failure("connect_refused"), 100.0)
    assert 20.0 == schedule.remaining_seconds(100.0)

    schedule.refresh_started(120.0)
    assert 1.0 == schedule.remaining_seconds(120.0)


def test_stale_age_exceeds_every_pause() -> None:
    """Retry-After is limited to 300 seconds."""
    assert 360.0 == RefreshSchedule(INTERVALS).stale_after_seconds
