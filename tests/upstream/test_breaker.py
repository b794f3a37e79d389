"""service/upstream/breaker.py and connector.py: what is tried again, and what is answered from memory."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import DIAL_FAILURES, Failure, Phase, Retry
from service.upstream import breaker as module
from service.upstream.breaker import DEFINITE_OPEN_SECONDS, FAILURES_TO_OPEN, Breaker, RetryBudget
from tests.support.harness import eventually, open_raw, simulated_relay
from tests.support.raw_websocket_server import CREATED, Script, Wire
from tests.support.scripted_upstream import relay_before

PATH = "/v1/realtime?model=scripted"
DEFINITE = sorted(
    reason
    for reason, row in DIAL_FAILURES.items()
    if row.retry is Retry.NEVER and reason not in {"model_not_found", "call_not_found"}
)
ORIGIN = {"Origin": "http://localhost"}


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


def passes(breaker: Breaker) -> bool:
    """Whether a dial would be let through now; what it finds out stays open."""
    try:
        with breaker.permit():
            return True
    except Failure:
        return False


@pytest.mark.parametrize("reason", DEFINITE)
def test_a_definite_refusal_is_remembered(reason: str, clock: Clock) -> None:
    """The next callers hear it at once, as the provider's own words, with the time after which one of them tries."""
    breaker = Breaker(clock)
    breaker.failed(Failure(reason, Phase.UPGRADE, http_status=401, upstream_code="invalid_api_key"))
    clock.now += 5

    with pytest.raises(Failure) as caught, breaker.permit():
        pass
    assert (reason, Phase.BREAKER, 401) == (caught.value.reason, caught.value.phase, caught.value.wire_status)
    assert DEFINITE_OPEN_SECONDS - 5 == caught.value.retry_after_seconds


def test_one_caller_finds_out(clock: Clock) -> None:
    """After the pause one dial is the trial; while it runs the others still wait; a trial that is given up frees the next."""
    breaker = Breaker(clock)
    breaker.failed(Failure("key_rejected"))
    clock.now += DEFINITE_OPEN_SECONDS

    with breaker.permit() as permit:
        assert permit.is_trial
        assert not passes(breaker)
    assert passes(breaker)

    breaker.succeeded()
    assert not breaker.is_open


@pytest.mark.parametrize("reason", ["model_not_found", "call_not_found", "model_missing", "bad_request"])
def test_what_concerns_one_caller_holds_nobody_back(reason: str, clock: Clock) -> None:
    """A wrong model is one caller's own matter, and shows that the key is taken."""
    breaker = Breaker(clock)
    breaker.failed(Failure("key_rejected"))
    breaker.failed(Failure(reason))

    assert not breaker.is_open


def test_trouble_that_may_pass_opens_late_and_longer_each_time(clock: Clock) -> None:
    """So many failures in a row open it, for a second first; a trial that meets the trouble again opens it for longer."""
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert passes(breaker)
        breaker.failed(Failure("upstream_overloaded"))
    assert not passes(breaker)

    lengths = []
    for _ in range(6):
        before = clock.now
        while not passes(breaker):
            clock.now += 0.5
        lengths.append(clock.now - before)
        breaker.failed(Failure("upstream_overloaded"))
    assert [1, 2, 4, 8, 15, 15] == lengths


def test_a_bare_403_is_not_everybodys_at_once(clock: Clock) -> None:
    """The edge may answer one caller's query so; only several in a row hold the others back."""
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        assert not breaker.is_open
        breaker.failed(Failure("key_forbidden", Phase.UPGRADE, http_status=403))

    assert breaker.is_open


def test_a_success_between_failures_starts_the_row_again(clock: Clock) -> None:
    """Only failures without a success between them open it."""
    breaker = Breaker(clock)
    for _ in range(20):
        breaker.failed(Failure("dropped_early"))
        breaker.succeeded()

    assert not breaker.is_open


def test_dials_under_way_do_not_escalate(clock: Clock) -> None:
    """Sixty dials that fail together open it once, for its first pause; what began before the key changed adds nothing."""
    breaker = Breaker(clock)
    permits = []
    for _ in range(60):
        with breaker.permit() as permit:
            permits.append(permit)
    for permit in permits:
        breaker.failed(Failure("connect_timeout"), permit)
    clock.now += module.TRANSIENT_OPEN_SECONDS[0]
    assert passes(breaker)

    breaker.succeeded()
    breaker.failed(Failure("key_rejected"), permits[0])
    assert not breaker.is_open


def test_the_providers_patience_is_told_whole(clock: Clock) -> None:
    """Callers are held back for half a minute at the most, and told the whole of what the provider asked for."""
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(Failure("rate_limited", retry_after_seconds=300))
    with pytest.raises(Failure) as caught, breaker.permit():
        pass

    assert 300 == caught.value.retry_after_seconds


def test_retry_after_holds_back_but_not_for_long(clock: Clock) -> None:
    """The provider's own waiting time holds callers back, up to half a minute."""
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(Failure("rate_limited", retry_after_seconds=300))
    clock.now += 29
    assert not passes(breaker)
    clock.now += 1
    assert passes(breaker)


steps = st.lists(
    st.tuples(st.sampled_from(["ok", "client_left", *DIAL_FAILURES]), st.floats(0, 20)), min_size=1, max_size=60
)


@given(steps)
def test_a_breaker_always_tries_again(sequence: list[tuple[str, float]]) -> None:
    """Whatever happened, it never holds back for longer than its longest pause, and never lets two trials run at once."""
    clock = Clock()
    breaker, held_back = Breaker(clock), list[Failure]()
    for outcome, seconds in sequence:
        clock.now += seconds
        try:
            with breaker.permit() as permit:
                assert permit.is_trial is breaker.is_open
                if breaker.is_open:
                    assert not passes(breaker)
                if outcome == "ok":
                    breaker.succeeded()
                else:
                    breaker.failed(Failure(outcome))
        except Failure as failure:
            held_back.append(failure)
    assert all(failure.phase is Phase.BREAKER for failure in held_back)
    assert all(1 <= (failure.retry_after_seconds or 0) <= module.MAX_RETRY_AFTER_SECONDS for failure in held_back)
    clock.now += module.MAX_RETRY_AFTER_SECONDS
    assert passes(breaker)


@given(st.integers(0, 500))
def test_retries_are_a_tenth(dials: int) -> None:
    """However many dials fail, retries stay within a tenth of them and the one that a lone caller has."""
    budget = RetryBudget()
    retries = 0
    for _ in range(dials):
        budget.record_dial()
        retries += budget.try_acquire()

    assert retries <= dials * RetryBudget.RATIO + 1


# -- on sockets -------------------------------------------------------------------------------------------------------


def drops(times: int) -> Script:
    """An upstream that hangs up behind its 101 so many times, and is well after that."""
    answers: Iterator[bool] = iter([False] * times)

    async def script(wire: Wire) -> None:
        if next(answers, True):
            wire.send(CREATED)
            if (close := await wire.until_close()) is not None:
                wire.send_close(close[0])

    return script


async def test_bad_luck_is_tried_again_once() -> None:
    """One dropped handshake is not the caller's to see: the relay dials once more, and counts that."""
    async with relay_before(drops(1)) as (relay, upstream):
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


async def test_bad_luck_twice_is_told() -> None:
    """A second failure is the answer: one count, one log line, two dials."""
    async with relay_before(drops(9)) as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH)
        await client.close()

        assert (502, "dropped_early") == (client.answer.status, client.answer.error["code"])
        assert 2 == upstream.upgrades
        assert 1 == len(relay.events("upstream.connect_failed"))


async def test_no_retry_without_time() -> None:
    """A dial whose time is nearly over is not tried again: the cause would only become a timeout."""
    async with relay_before(drops(9), RELAY_DIAL_TIMEOUT_SECONDS="1") as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH)
        await client.close()

        assert (502, 1) == (client.answer.status, upstream.upgrades)


async def test_an_outage_is_not_made_worse() -> None:
    """Callers in a row meet an outage: retries stay within the budget, and soon the relay answers from memory."""
    async with relay_before(drops(10_000)) as (relay, upstream):
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


async def test_a_refused_key_is_answered_from_memory_on_all_surfaces() -> None:
    """The second caller is told the same as the first, at once and without a dial; a browser, too."""
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


async def test_a_trial_ends_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the pause is over one caller dials; if he gets through, all do."""
    monkeypatch.setattr(module, "DEFINITE_OPEN_SECONDS", 0.05)
    refused = asyncio.Event()

    async def script(wire: Wire) -> None:
        if not refused.is_set():
            refused.set()
            wire.send(
                b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":"x"}}'
            )
            wire.send_close(3000, "invalid_request_error.invalid_api_key")
        else:
            wire.send(CREATED)
        await wire.until_close()

    async with relay_before(script) as (relay, _):
        first = await open_raw(relay.app.public_port, PATH)
        assert 424 == first.answer.status
        assert relay.app.connector.breaker.is_open
        await eventually(lambda: relay.app.connector.breaker._open_until <= asyncio.get_running_loop().time())
        second = await open_raw(relay.app.public_port, PATH)

        assert 101 == second.answer.status
        assert not relay.app.connector.breaker.is_open
        for client in (first, second):
            await client.close()


async def test_a_trial_that_is_given_up_frees_the_next() -> None:
    """A client that leaves during the trial does not leave the breaker waiting for it."""

    async def silent(wire: Wire) -> None:
        await wire.gone()

    async with relay_before(silent) as (relay, upstream):
        breaker = relay.app.connector.breaker
        breaker.failed(Failure("key_rejected", Phase.FIRST_EVENT))
        breaker._open_until = 0.0
        trial = asyncio.create_task(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: upstream.open == 1)
        assert breaker._trial_is_running
        trial.cancel()
        await asyncio.wait([trial])
        await eventually(lambda: not breaker._trial_is_running)
        await eventually(lambda: upstream.open == 0)
