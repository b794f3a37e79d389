"""The breaker and the retries of the connector."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import DIAL_FAILURES, Failure, Phase
from service.upstream import circuit as module
from service.upstream.breaker import CircuitBreaker, RetryBudget
from service.upstream.circuit import DEFINITE_OPEN_SECONDS, FAILURES_TO_OPEN, Witness
from tests.support.harness import eventually, open_raw, simulated_relay
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection
from tests.support.scripted_upstream import scripted_relay

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


def drops(times: int) -> Script:
    """A script that disconnects after its 101 the first `times` times, and opens sessions after that."""
    outcomes: Iterator[bool] = iter([False] * times)

    async def script(connection: ServerConnection) -> None:
        if next(outcomes, True):
            connection.send(CREATED)
            if (close := await connection.until_close()) is not None:
                connection.send_close(close[0])

    return script


async def test_dial_retries_once_after_a_dropped_handshake() -> None:
    """The client gets its session; the retry is counted, and no failure."""
    async with scripted_relay(drops(1)) as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH)
        first = await client.next_event()
        await client.close()

        assert "session.created" == first["type"]
        assert (2, 1) == (
            upstream.upgrades,
            relay.metric("realtime_relay_upstream_retries_total", upstream="compatible"),
        )
        assert 1 == relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="ok")
        assert [] == relay.events("upstream.connect_failed")


async def test_failed_retry_is_reported_once() -> None:
    """Two dials, one log line."""
    async with scripted_relay(drops(9)) as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH)
        await client.close()

        assert (502, "dropped_early") == (client.answer.status, client.answer.error["code"])
        assert 2 == upstream.upgrades
        assert 1 == len(relay.events("upstream.connect_failed"))


async def test_dial_is_not_retried_without_time_left() -> None:
    """A retry would turn the cause into a timeout."""
    async with scripted_relay(drops(9), RELAY_DIAL_TIMEOUT_SECONDS="1") as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH)
        await client.close()

        assert (502, 1) == (client.answer.status, upstream.upgrades)


async def test_outage_opens_the_breaker_for_clients_in_series() -> None:
    """Retries stay within the budget, and most clients are refused without a dial."""
    async with scripted_relay(drops(10_000)) as (relay, upstream):
        for _ in range(40):
            client = await open_raw(relay.app.public_port, PATH)
            await client.close()
            assert 502 == client.answer.status

        assert upstream.upgrades <= FAILURES_TO_OPEN + 2
        assert 1 == relay.metric("realtime_relay_breaker_open", upstream="compatible")
        assert 0 < relay.metric(
            "realtime_relay_connection_failures_total",
            upstream="compatible", phase="breaker", status="none", reason="dropped_early",
        )  # fmt: skip


async def test_open_breaker_refuses_clients_with_the_original_failure() -> None:
    """Without a dial; a client with an Origin gets it as an event."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        answers = []
        for headers in ({}, {}, ORIGIN):
            client = await open_raw(relay.app.public_port, headers=headers)
            if headers:
                answers.append((await client.next_event())["error"])
                assert (3000, "invalid_request_error.invalid_api_key") == await client.until_close()
            else:
                assert 424 == client.answer.status
                answers.append(client.answer.error)
            await client.close()

        for answer in answers:
            del answer["session_id"]
        assert answers[0] == answers[1] == answers[2]
        phases = [str(line["phase"]) for line in relay.events("upstream.connect_failed")]
        assert ["first_event", "breaker", "breaker"] == phases
        assert relay.simulator is not None
        for phase, times in (("first_event", 1), ("breaker", 2)):
            assert times == relay.metric(
                "realtime_relay_connection_failures_total",
                upstream="compatible", phase=phase, status="3000", reason="key_rejected",
            )  # fmt: skip


async def test_successful_trial_closes_the_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client whose dial is the trial gets its session."""
    monkeypatch.setattr(module, "DEFINITE_OPEN_SECONDS", 0.05)
    refused = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        if not refused.is_set():
            refused.set()
            connection.send(
                b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":"x"}}'
            )
            connection.send_close(3000, "invalid_request_error.invalid_api_key")
        else:
            connection.send(CREATED)
        await connection.until_close()

    async with scripted_relay(script) as (relay, _):
        first = await open_raw(relay.app.public_port, PATH)
        assert 424 == first.answer.status
        assert relay.app.connector.breaker.is_open
        await eventually(lambda: not relay.app.connector.breaker.is_open)
        second = await open_raw(relay.app.public_port, PATH)

        assert 101 == second.answer.status
        assert not relay.app.connector.breaker.is_open
        for client in (first, second):
            await client.close()


async def test_client_disconnect_during_the_trial_frees_the_trial() -> None:
    """The breaker does not wait for an outcome that never comes."""

    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with scripted_relay(silent) as (relay, upstream):
        breaker = relay.app.connector.breaker
        client = Witness("127.0.0.1", "conversation", "scripted")
        with breaker.permit(client) as permit:
            breaker.failed(Failure("key_rejected", Phase.FIRST_EVENT), permit)
        circuit = breaker._clients[client]
        circuit.open_until = 0.0
        trial = asyncio.create_task(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: upstream.open == 1)
        assert circuit.trial_is_running
        trial.cancel()
        await asyncio.wait([trial])
        await eventually(lambda: not circuit.trial_is_running)
        await eventually(lambda: upstream.open == 0)
