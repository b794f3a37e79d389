"""The state of a check, and the report from the checks."""

from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE, DIAL_FAILURES, Failure
from service.health import report
from service.health.checks import FAILURE_THRESHOLD, SUCCESS_THRESHOLD, HealthCheck

TEMPORARY = Failure("connect_refused")
DEFINITE = Failure("key_rejected")


def check(*outcomes: Failure | None) -> HealthCheck:
    """A check after these outcomes; None is a success."""
    result = HealthCheck("handshake")
    for number, outcome in enumerate(outcomes):
        if outcome is None:
            result.succeeded(float(number + 1), 0.1)
        else:
            result.failed(outcome, float(number + 1), 0.1)
    return result


def test_first_success_passes_a_new_check() -> None:
    """Before its first result a check is unknown."""
    assert check().status == "unknown"
    assert check(None).status == "pass"


def test_temporary_failures_warn_and_fail_at_the_third_in_a_row() -> None:
    """A success between them resets the count."""
    assert [check(*[TEMPORARY] * n).status for n in range(1, 5)] == ["warn", "warn", "fail", "fail"]
    assert check(None, TEMPORARY, None, TEMPORARY, TEMPORARY).status == "warn"


def test_definite_failure_fails_the_check_immediately() -> None:
    """A failure by the count of temporary ones is not definite."""
    assert check(None, DEFINITE).status == "fail"
    assert check(None, DEFINITE).is_definite
    assert not check(*[TEMPORARY] * FAILURE_THRESHOLD).is_definite


def test_failed_check_recovers_after_two_successes_in_a_row() -> None:
    """One success does not hide an outage."""
    assert check(*[TEMPORARY] * FAILURE_THRESHOLD, None).status == "fail"
    assert check(*[TEMPORARY] * FAILURE_THRESHOLD, None, TEMPORARY, None).status == "fail"
    assert check(*[TEMPORARY] * FAILURE_THRESHOLD, *[None] * SUCCESS_THRESHOLD).status == "pass"


@given(st.lists(st.none() | st.sampled_from(sorted(DIAL_FAILURES)).map(Failure), max_size=30))
def test_thresholds_hold_for_any_history(history: list[Failure | None]) -> None:
    """The output of a check that does not pass has the sentence of the catalogue."""
    result = check(*history)

    if history[-SUCCESS_THRESHOLD:] == [None] * SUCCESS_THRESHOLD:
        assert result.status == "pass"
    if history and (last := history[-1]) is not None:
        assert result.status == "fail" if last.row.is_definite else result.status in {"warn", "fail"}
        assert CATALOGUE[last.reason].sentence in (result.output() or "")
    assert (result.output() is None) == (result.status == "pass")


def test_overall_status_is_the_worst_of_the_checks() -> None:
    """An unknown check counts as fail; without checks the status is pass."""
    passing, warning, failing = check(None), check(TEMPORARY), check(DEFINITE)

    assert report.overall([passing, passing]) == "pass"
    assert report.overall([passing, warning]) == "warn"
    assert report.overall([failing, warning]) == "fail"
    assert report.overall([passing, check()]) == "fail"
    assert report.overall([]) == "pass"
