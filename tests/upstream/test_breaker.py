"""The breaker and the retries of the connector."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import DIAL_FAILURES, Failure, Phase
from service.upstream import circuit as module
from service.upstream.breaker import CircuitBreaker, RetryBudget
from service.upstream.circuit import DEFINITE_OPEN_SECONDS, FAILURES_TO_OPEN, Witness

PATH = "/v1/realtime?model=scripted"
UNCOUNTED = ["request_rejected", "wrong_base_url"]
DEFINITE = sorted(
    reason
    for reason, row in DIAL_FAILURES.items()
    if row.is_definite and reason not in {"model_not_found", "call_not_found", "blocked_before_api", *UNCOUNTED}
)
CLIENT = Witness("client", "conversation", "gpt-realtime")
ORIGIN = {"Origin": "http://localhost"}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock at an arbitrary time."""
    return Clock()


def permits(breaker: CircuitBreaker) -> bool:
    """Whether the breaker permits a dial now; the dial reports no outcome."""
    try:
        with breaker.permit(CLIENT):
            return True
    except Failure:
        return False


def fail(breaker: CircuitBreaker, failure: Failure) -> None:
    """Let a dial of the client fail."""
    with breaker.permit(CLIENT) as permit:
        breaker.failed(failure, permit)


@pytest.mark.parametrize("reason", DEFINITE)
def test_definite_failure_opens_the_breaker(reason: str, clock: Clock) -> None:
    """Later dials get the same failure, with the seconds until the trial."""
    breaker = CircuitBreaker(clock)
    fail(breaker, Failure(reason, Phase.UPGRADE, http_status=401, upstream_code="invalid_api_key"))
    clock.now += 5

    with pytest.raises(Failure) as caught, breaker.permit(CLIENT):
        pass
    assert (reason, Phase.BREAKER, 401) == (caught.value.reason, caught.value.phase, caught.value.wire_status)
    assert DEFINITE_OPEN_SECONDS - 5 == caught.value.retry_after_seconds


def test_half_open_breaker_permits_one_trial_at_a_time(clock: Clock) -> None:
    """A trial that ends without an outcome leaves the trial to the next dial."""
    breaker = CircuitBreaker(clock)
    fail(breaker, Failure("key_rejected"))
    clock.now += DEFINITE_OPEN_SECONDS

    with breaker.permit(CLIENT) as permit:
        assert permit.is_trial
        assert not permits(breaker)
    assert permits(breaker)

    breaker.succeeded(CLIENT)
    assert not breaker.is_open


@pytest.mark.parametrize("reason", ["model_not_found", "call_not_found"])
def test_request_specific_failure_closes_the_breaker(reason: str, clock: Clock) -> None:
    """The refusal of a model shows that the provider accepts the key."""
    breaker = CircuitBreaker(clock)
    with breaker.permit(CLIENT) as permit:
        fail(breaker, Failure("key_rejected"))
        breaker.failed(Failure(reason), permit)

    assert not breaker.is_open


@pytest.mark.parametrize("reason", UNCOUNTED)
@pytest.mark.parametrize("phase", [Phase.UPGRADE, Phase.FIRST_EVENT])
def test_refusals_of_a_query_or_path_stop_no_other_client(reason: str, phase: Phase, clock: Clock) -> None:
    """Any client can cause them. They do not close an open breaker either: they do not show that the key works."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN * 2):
        fail(breaker, Failure(reason, phase))
    assert not breaker.is_open

    with breaker.permit(CLIENT) as permit:
        fail(breaker, Failure("quota_exhausted", Phase.FIRST_EVENT))
        breaker.failed(Failure(reason, phase), permit)
    assert breaker.is_open


def test_temporary_failures_open_the_breaker_after_a_series_and_for_longer_each_time(clock: Clock) -> None:
    """A failed trial opens it again for the next step of the backoff."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert permits(breaker)
        fail(breaker, Failure("upstream_overloaded"))
    assert not permits(breaker)

    open_seconds = []
    for _ in range(6):
        before = clock.now
        while not permits(breaker):
            clock.now += 0.5
        open_seconds.append(clock.now - before)
        fail(breaker, Failure("upstream_overloaded"))
    assert [1, 2, 4, 8, 15, 15] == open_seconds


@pytest.mark.parametrize("reason", ["key_forbidden", "blocked_before_api"])
def test_refusal_that_may_concern_one_client_opens_the_breaker_only_after_a_series(reason: str, clock: Clock) -> None:
    """A 403 without an error code may be the edge's answer to the path or query of one client."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert not breaker.is_open
        fail(breaker, Failure(reason, Phase.UPGRADE, http_status=403))

    assert breaker.is_open


def test_success_resets_the_count_of_temporary_failures(clock: Clock) -> None:
    """The breaker stays closed, however many failures there are in total."""
    breaker = CircuitBreaker(clock)
    for _ in range(20):
        fail(breaker, Failure("dropped_early"))
        breaker.succeeded(CLIENT)

    assert not breaker.is_open


def test_concurrent_failures_open_the_breaker_once(clock: Clock) -> None:
    """Sixty dials that fail together do not advance the backoff; the failure of a dial with the previous key is ignored."""
    breaker = CircuitBreaker(clock)
    concurrent = []
    for _ in range(60):
        with breaker.permit(CLIENT) as permit:
            concurrent.append(permit)
    for permit in concurrent:
        breaker.failed(Failure("connect_timeout"), permit)
    clock.now += module.TEMPORARY_OPEN_SECONDS[0]
    assert permits(breaker)

    breaker.reset()
    breaker.failed(Failure("key_rejected"), concurrent[0])
    assert not breaker.is_open


def test_clients_get_the_whole_retry_after_of_the_provider(clock: Clock) -> None:
    """Although the breaker stays open for half a minute at most."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        fail(breaker, Failure("rate_limited", retry_after_seconds=300))
    with pytest.raises(Failure) as caught, breaker.permit(CLIENT):
        pass

    assert 300 == caught.value.retry_after_seconds


def test_retry_after_keeps_the_breaker_open_for_at_most_30_seconds(clock: Clock) -> None:
    """A longer Retry-After does not block the trial."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        fail(breaker, Failure("rate_limited", retry_after_seconds=300))
    clock.now += 29
    assert not permits(breaker)
    clock.now += 1
    assert permits(breaker)


steps = st.lists(
    st.tuples(st.sampled_from(["ok", "client_left", *DIAL_FAILURES]), st.floats(0, 20)), min_size=1, max_size=60
)


@given(steps)
def test_breaker_always_permits_a_trial_in_the_end_and_never_two_at_once(sequence: list[tuple[str, float]]) -> None:
    """For any sequence of outcomes, 30 seconds are the upper bound."""
    clock = Clock()
    breaker, refused = CircuitBreaker(clock), list[Failure]()
    for outcome, seconds in sequence:
        clock.now += seconds
        try:
            with breaker.permit(CLIENT) as permit:
                if permit.is_trial:
                    assert not permits(breaker)
                if outcome == "ok":
                    breaker.succeeded(CLIENT)
                else:
                    breaker.failed(Failure(outcome), permit)
        except Failure as failure:
            refused.append(failure)
    assert all(failure.phase is Phase.BREAKER for failure in refused)
    assert all(1 <= (failure.retry_after_seconds or 0) <= module.MAX_RETRY_AFTER_SECONDS for failure in refused)
    clock.now += module.MAX_RETRY_AFTER_SECONDS
    assert permits(breaker)


@given(st.integers(0, 500))
def test_retry_budget_allows_a_tenth_of_the_dials(dials: int) -> None:
    """Plus the one token that the budget starts with."""
    budget = RetryBudget()
    retries = 0
    for _ in range(dials):
        budget.record_dial()
        retries += budget.try_acquire()

    assert retries <= dials * RetryBudget.RATIO + 1


# -- over sockets -------------------------------------------------------------------------------------------------------


def test_recovery_is_an_earlier_trial(clock: Clock) -> None:
    """Once every `RECOVERY_TRIAL_SECONDS`; other dials wait for the whole step, and for its outcome."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        fail(breaker, Failure("upstream_overloaded", Phase.UPGRADE))
    for _ in range(3):  # open for 4 s from now on
        clock.now += 15
        fail(breaker, Failure("upstream_overloaded", Phase.UPGRADE))
    clock.now += module.RECOVERY_TRIAL_SECONDS - 0.1
    with pytest.raises(Failure), breaker.permit(CLIENT, is_recovery=True):
        pass
    clock.now += 0.2
    assert not permits(breaker)
    with breaker.permit(CLIENT, is_recovery=True) as permit:
        assert permit.is_trial
        with pytest.raises(Failure), breaker.permit(CLIENT, is_recovery=True):
            pass
        breaker.failed(Failure("upstream_overloaded", Phase.UPGRADE), permit)
    with pytest.raises(Failure), breaker.permit(CLIENT, is_recovery=True):
        pass


@pytest.mark.parametrize(
    "failure",
    [
        Failure("upstream_overloaded", Phase.UPGRADE, retry_after_seconds=20),
        Failure("key_rejected", Phase.UPGRADE, http_status=401, upstream_code="invalid_api_key"),
    ],
)
def test_recovery_waits_for_what_the_provider_asks(failure: Failure, clock: Clock) -> None:
    """A Retry-After holds for every dial, and so does a definite failure."""
    breaker = CircuitBreaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        if permits(breaker):
            fail(breaker, failure)
    clock.now += 3
    with pytest.raises(Failure), breaker.permit(CLIENT, is_recovery=True):
        pass
