"""service/health/checks.py and report.py."""

from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE, DIAL_FAILURES, Failure, Retry
from service.health import report
from service.health.checks import FAILURE_THRESHOLD, SUCCESS_THRESHOLD, Check

TRANSIENT = Failure("connect_refused")
DEFINITE = Failure("key_rejected")


def check(*outcomes: Failure | None) -> Check:
    """A check after these answers; None is a yes."""
    result = Check("handshake")
    for number, outcome in enumerate(outcomes):
        if outcome is None:
            result.succeeded(float(number + 1), 0.1)
        else:
            result.failed(outcome, float(number + 1), 0.1)
    return result


def test_one_yes_opens_a_new_check() -> None:
    """Before anything was asked a check is unknown; one yes is enough then."""
    assert check().status == "unknown"
    assert check(None).status == "pass"


def test_transient_trouble_warns_and_fails_at_the_third_time() -> None:
    """Two misses are a warning, three a failure."""
    assert [check(*[TRANSIENT] * n).status for n in range(1, 5)] == ["warn", "warn", "fail", "fail"]
    assert check(None, TRANSIENT, None, TRANSIENT, TRANSIENT).status == "warn"


def test_a_definite_refusal_fails_at_once() -> None:
    """What waiting does not mend is not waited for."""
    assert check(None, DEFINITE).status == "fail"
    assert check(None, DEFINITE).is_definite
    assert not check(*[TRANSIENT] * FAILURE_THRESHOLD).is_definite


def test_two_answers_in_a_row_mend() -> None:
    """One lucky call does not hide an outage."""
    assert check(*[TRANSIENT] * FAILURE_THRESHOLD, None).status == "fail"
    assert check(*[TRANSIENT] * FAILURE_THRESHOLD, None, TRANSIENT, None).status == "fail"
    assert check(*[TRANSIENT] * FAILURE_THRESHOLD, *[None] * SUCCESS_THRESHOLD).status == "pass"


@given(st.lists(st.none() | st.sampled_from(sorted(DIAL_FAILURES)).map(Failure), max_size=30))
def test_any_history_keeps_the_rules(history: list[Failure | None]) -> None:
    """Whatever happened: two yeses pass, a definite no fails, and what is wrong is told in the catalogue's words."""
    result = check(*history)

    if history[-SUCCESS_THRESHOLD:] == [None] * SUCCESS_THRESHOLD:
        assert result.status == "pass"
    if history and (last := history[-1]) is not None:
        assert result.status == "fail" if last.row.retry is Retry.NEVER else result.status in {"warn", "fail"}
        assert CATALOGUE[last.reason].sentence in (result.output() or "")
    assert (result.output() is None) == (result.status == "pass")


def test_the_worst_check_speaks_for_all() -> None:
    """pass, warn and fail add up to the gravest; what was never checked is not well; with nothing to check all is well."""
    good, odd, bad = check(None), check(TRANSIENT), check(DEFINITE)

    assert report.overall([good, good]) == "pass"
    assert report.overall([good, odd]) == "warn"
    assert report.overall([bad, odd]) == "fail"
    assert report.overall([good, check()]) == "fail"
    assert report.overall([]) == "pass"
