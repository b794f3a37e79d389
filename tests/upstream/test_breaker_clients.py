"""What one client meets at the provider refuses that client, and others only after two have met the same."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import DIAL_FAILURES, Failure, Phase
from service.upstream import breaker as module
from service.upstream.breaker import MONITOR, CircuitBreaker
from service.upstream.circuit import (
    DEFINITE_OPEN_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    WITNESS_SECONDS,
    Witness,
)
from tests.support.harness import DEFAULT_PATH, Relay, eventually, open_raw, running_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.scripted_upstream import scripted_relay
from tests.upstream.test_breaker import Clock

ADA, BOB = (Witness(name, "conversation", "a") for name in ("ada", "bob"))
OTHER_MODEL = Witness("bob", "conversation", "b")
PROBE = Witness(MONITOR, "conversation", "probe")
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "ada:" + "a" * 32 + ",bob:" + "b" * 32}


@pytest.fixture
def clock() -> Clock:
    """A clock at an arbitrary time."""
    return Clock()


def permits(breaker: CircuitBreaker, witness: Witness) -> bool:
    """Whether a dial passes now; it reports no outcome."""
    try:
        with breaker.permit(witness):
            return True
    except Failure:
        return False


def fail(breaker: CircuitBreaker, witness: Witness, reason: str, phase: Phase = Phase.FIRST_EVENT) -> bool:
    """Let a dial fail if it passes; returns whether it did."""
    try:
        with breaker.permit(witness) as permit:
            breaker.failed(Failure(reason, phase), permit)
            return True
    except Failure:
        return False


def test_refusal_of_one_client_refuses_that_client_on_that_model(clock: Clock) -> None:
    """Not on another model, and no other client."""
    breaker = CircuitBreaker(clock)
    fail(breaker, ADA, "quota_exhausted")

    assert not permits(breaker, ADA)
    assert permits(breaker, ADA._replace(model="b"))
    assert permits(breaker, ADA._replace(route="translation"))
    assert permits(breaker, BOB)


def test_refusal_of_one_user_refuses_that_user(clock: Clock) -> None:
    """Two users with the same reason refuse all users of the client on that model, until one of them succeeds."""
    breaker = CircuitBreaker(clock)
    first, second, third = (ADA._replace(user=name) for name in ("1", "2", "3"))
    fail(breaker, first, "quota_exhausted")
    assert not permits(breaker, first)
    assert breaker.is_provoked(Failure("quota_exhausted", Phase.BREAKER), first)
    assert all(permits(breaker, other) for other in (second, ADA, BOB, first._replace(model="b")))

    fail(breaker, second, "key_forbidden")
    assert permits(breaker, third)
    fail(breaker, third, "key_forbidden")
    assert not permits(breaker, ADA._replace(user="4"))
    assert permits(breaker, ADA)
    assert permits(breaker, BOB._replace(user="4"))

    clock.now += DEFINITE_OPEN_SECONDS + 1
    breaker.succeeded(third)
    assert permits(breaker, ADA._replace(user="4"))


def test_two_clients_with_one_refusal_on_a_model_refuse_all_clients_on_that_model(clock: Clock) -> None:
    """Other models and routes stay open."""
    breaker = CircuitBreaker(clock)
    fail(breaker, ADA, "quota_exhausted")
    fail(breaker, BOB, "quota_exhausted")

    assert not permits(breaker, Witness("eve", "conversation", "a"))
    assert permits(breaker, Witness("eve", "conversation", "b"))
    assert not breaker.refuses_all


@pytest.mark.parametrize(
    ("second", "reason", "phase"),
    [
        (OTHER_MODEL, "quota_exhausted", Phase.FIRST_EVENT),
        (BOB, "key_rejected", Phase.FIRST_EVENT),
        (BOB, "tls_untrusted", Phase.CONNECT),
    ],
)
def test_refusal_that_two_clients_share_refuses_all(second: Witness, reason: str, phase: Phase, clock: Clock) -> None:
    """Two models, a key that is refused, or a failure before the request."""
    breaker = CircuitBreaker(clock)
    fail(breaker, ADA, reason, phase)
    assert not breaker.refuses_all
    fail(breaker, second, reason, phase)

    assert breaker.refuses_all
    assert not permits(breaker, Witness("eve", "translation", "c"))


@pytest.mark.parametrize(
    ("reason", "seconds"), [("key_rejected", 0.0), ("quota_exhausted", WITNESS_SECONDS + 1)], ids=["other", "old"]
)
def test_different_or_old_refusals_of_two_clients_refuse_nobody_else(reason: str, seconds: float, clock: Clock) -> None:
    """They are not the same."""
    breaker = CircuitBreaker(clock)
    fail(breaker, ADA, "quota_exhausted")
    clock.now += seconds
    fail(breaker, OTHER_MODEL, reason)

    assert not breaker.refuses_all


def test_monitor_is_the_trial(clock: Clock) -> None:
    """It is asked once per opening; clients wait for its outcome, unless it does not dial."""
    breaker, due = CircuitBreaker(clock), list[float]()
    breaker.on_trial_due = due.append
    fail(breaker, ADA, "key_rejected")
    breaker.monitor_failed(Failure("key_rejected", Phase.FIRST_EVENT), PROBE)
    for _ in range(3):
        assert not permits(breaker, BOB)
    assert [clock.now + DEFINITE_OPEN_SECONDS] == due

    clock.now = due[0]
    assert not permits(breaker, BOB)
    breaker.monitor_failed(Failure("key_rejected", Phase.FIRST_EVENT), PROBE)
    assert not permits(breaker, BOB)
    assert [due[0], clock.now + DEFINITE_OPEN_SECONDS] == due

    breaker.succeeded(PROBE)
    assert permits(breaker, BOB)


def test_monitor_that_meets_another_reason_ends_the_refusal_of_all_clients(clock: Clock) -> None:
    """Its own model may be refused while those of clients are not."""
    breaker = CircuitBreaker(clock)
    fail(breaker, ADA, "key_rejected")
    fail(breaker, BOB, "key_rejected")
    clock.now += DEFINITE_OPEN_SECONDS
    breaker.monitor_failed(Failure("quota_exhausted", Phase.FIRST_EVENT), PROBE)

    assert not breaker.refuses_all


def test_client_is_the_trial_if_the_monitor_does_not_dial(clock: Clock) -> None:
    """One client's failed trial does not open the breaker again; the next client's does."""
    breaker = CircuitBreaker(clock)
    breaker.on_trial_due = lambda _: None
    fail(breaker, ADA, "key_rejected")
    fail(breaker, BOB, "key_rejected")
    clock.now += DEFINITE_OPEN_SECONDS + module.MONITOR_TRIAL_SECONDS
    assert fail(breaker, ADA, "key_rejected")
    assert fail(breaker, BOB, "key_rejected")
    assert not permits(breaker, Witness("eve", "conversation", "z"))


def test_only_the_clients_own_definite_refusal_counts_against_it(clock: Clock) -> None:
    """Not one that the monitor met as well: then the client is not the cause."""
    breaker = CircuitBreaker(clock)
    fail(breaker, ADA, "quota_exhausted")
    memory = Failure("quota_exhausted", Phase.BREAKER)

    assert breaker.is_provoked(memory, ADA)
    assert not breaker.is_provoked(Failure("quota_exhausted", Phase.FIRST_EVENT), ADA)
    assert not breaker.is_provoked(memory, BOB)
    breaker.monitor_failed(Failure("quota_exhausted", Phase.FIRST_EVENT), PROBE)
    assert not breaker.is_provoked(memory, ADA)


steps = st.lists(
    st.tuples(
        st.sampled_from(["ok", "client_left", *DIAL_FAILURES]),
        st.sampled_from(list(Phase)),
        st.sampled_from(["conversation", "translation", "sideband"]),
        st.integers(0, 200),
        st.floats(0, 20),
    ),
    max_size=60,
)


@given(steps)
def test_one_client_never_refuses_others(sequence: list[tuple[str, Phase, str, int, float]]) -> None:
    """Whatever it meets, on whatever routes and models, and however often."""
    clock = Clock()
    breaker = CircuitBreaker(clock)
    for reason, phase, route, model, seconds in sequence:
        clock.now += seconds
        witness = Witness("ada", route, str(model))
        if reason == "ok":
            breaker.succeeded(witness)
        else:
            fail(breaker, witness, reason, phase)
        assert permits(breaker, witness._replace(client="bob"))
    clock.now += MAX_RETRY_AFTER_SECONDS
    assert all(permits(breaker, Witness("ada", route, str(model))) for _, _, route, model, _ in sequence)


@given(steps)
def test_refusal_of_all_clients_ends(sequence: list[tuple[str, Phase, str, int, float]]) -> None:
    """With many clients and a monitor that never dials."""
    clock = Clock()
    breaker = CircuitBreaker(clock)
    breaker.on_trial_due = lambda _: None
    for reason, phase, route, model, seconds in sequence:
        clock.now += seconds
        if reason != "ok":
            fail(breaker, Witness(str(model % 7), route, str(model)), reason, phase)
    clock.now += MAX_RETRY_AFTER_SECONDS + module.MONITOR_TRIAL_SECONDS

    assert permits(breaker, Witness("eve", "conversation", "z"))


def test_memory_of_the_breaker_is_bounded(clock: Clock) -> None:
    """A client that makes up models evicts what failed longest ago."""
    breaker = CircuitBreaker(clock)
    for number in range(2 * module.MAX_CLIENTS):
        fail(breaker, Witness("ada", "conversation", str(number)), "quota_exhausted")

    assert (module.MAX_ENDPOINTS, module.MAX_CLIENTS) == (len(breaker._endpoints), len(breaker._clients))


# -- over sockets -------------------------------------------------------------------------------------------------------


def refusal_of(code: str) -> bytes:
    """An error event, after which the script closes with 3000."""
    error = {"type": "invalid_request_error", "code": code, "message": "x"}
    return json.dumps({"type": "error", "error": error}).encode()


async def refuse_bad_models(connection: ServerConnection) -> None:
    """Models that start with `scripted-bad` have no quota, `scripted-slow` sends nothing."""
    if "model=scripted-slow" in connection.head:
        await connection.wait_closed()
        return
    if "model=scripted-bad" in connection.head:
        connection.send(refusal_of("insufficient_quota"))
        connection.send_close(1013, "insufficient_quota")
    else:
        connection.send(CREATED)
    if (close := await connection.until_close()) is not None and "model=scripted-bad" not in connection.head:
        connection.send_close(close[0])


@asynccontextmanager
async def relay_for_two(**settings: str) -> AsyncIterator[Relay]:
    """A relay with two clients."""
    async with scripted_relay(refuse_bad_models, behind_101=b"", **TOKENS | settings) as (relay, _):
        yield relay


async def connect(relay: Relay, client: str, model: str) -> tuple[int, str | None]:
    """Connect once; returns the status and the reason."""
    headers = {"Authorization": f"Bearer {client[0] * 32}"}
    connection = await open_raw(relay.app.public_port, f"/v1/realtime?model=scripted-{model}", headers=headers)
    await connection.close()
    answer = connection.answer
    return answer.status, None if answer.status == 101 else str(answer.error["code"])


async def test_client_without_quota_refuses_no_other_client() -> None:
    """Its second request is answered from memory; two models of two clients refuse all clients."""
    async with relay_for_two() as relay:
        assert [(424, "quota_exhausted")] * 2 == [await connect(relay, "ada", "bad") for _ in range(2)]
        phases = [line["phase"] for line in relay.events("upstream.connect_failed")]
        assert ["first_event", "breaker"] == phases
        assert (101, None) == await connect(relay, "bob", "good")

        await connect(relay, "ada", "bad-2")
        await connect(relay, "bob", "bad-3")
        assert (424, "quota_exhausted") == await connect(relay, "bob", "good")


async def test_slow_dials_of_one_client_leave_slots_for_others() -> None:
    """One client holds half of them."""
    async with relay_for_two(RELAY_MAX_DIALS="6", RELAY_DIAL_TIMEOUT_SECONDS="30") as relay:
        slow = [asyncio.create_task(connect(relay, "ada", "slow")) for _ in range(6)]
        await eventually(lambda: len(relay.events("admission.refused")) == 3)

        assert {"3 of 3 dials of one client in use"} == {line["detail"] for line in relay.events("admission.refused")}
        assert (101, None) == await connect(relay, "bob", "good")
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)


async def test_refusals_from_memory_count_as_reconnects() -> None:
    """A client that does not wait is refused by its rate in the end; the other is not."""
    async with relay_for_two(RELAY_MAX_RECONNECTS_PER_MINUTE="3") as relay:
        reasons = [(await connect(relay, "ada", "bad"))[1] for _ in range(6)]

        assert ["quota_exhausted"] * 4 + ["too_many_connects"] * 2 == reasons
        assert (101, None) == await connect(relay, "bob", "good")


async def test_monitor_ends_the_refusal_of_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """It dials when the open time has passed; no client's dial is needed."""
    monkeypatch.setattr("service.upstream.circuit.DEFINITE_OPEN_SECONDS", 0.2)
    async with relay_for_two() as relay:
        await connect(relay, "ada", "bad")
        await connect(relay, "bob", "bad-2")
        breaker = relay.app.connector.breaker
        assert (424, "quota_exhausted") == await connect(relay, "bob", "good")
        await eventually(lambda: not breaker.refuses_all)

        assert (101, None) == await connect(relay, "bob", "good")


async def test_scenarios_of_the_simulator_do_not_refuse_each_other() -> None:
    """Each is remembered for itself, as the documents ask a newcomer to try one after the other."""
    async with running_relay(RELAY_UPSTREAM="simulator", OPENAI_API_KEY="") as relay:
        statuses = []
        for query in ("&simulate=key-rejected", "&simulate=http-503", "", "&simulate=key-rejected"):
            client = await open_raw(relay.app.public_port, DEFAULT_PATH + query)
            await client.close()
            statuses.append(client.answer.status)

        assert [424, 503, 101, 424] == statuses
        assert 1 == relay.metric("realtime_relay_connection_failures_total", phase="breaker", reason="key_rejected")
