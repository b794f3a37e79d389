"""The response check: off by default, within its budget, and finding what the handshake does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import monitor as module
from service.health.response_check import DAY_SECONDS, ResponseCheckBudget, request_response
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode
from service.simulator import Simulator, SimulatorOptions
from tests.health.test_endpoints import FAST, probe
from tests.support.harness import (
    eventually,
    running_relay,
    simulated_relay,
)
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream


async def test_response_check_is_off_by_default() -> None:
    """It exists only with RELAY_HEALTH_TURNS_PER_DAY."""
    async with simulated_relay() as relay:
        assert 404 == (await probe(relay, "/healthz/turn"))[0]
        assert relay.metric("realtime_relay_health_check_status", check="turn", status="unknown") == 0


async def test_response_check_stays_within_its_budget() -> None:
    """It runs with the first refresh, and with no later one until the next is due."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        async with running_relay(simulator=simulator, intervals=FAST, RELAY_HEALTH_TURNS_PER_DAY="24") as relay:
            await eventually(lambda: relay.app.monitor.turn is not None and relay.app.monitor.turn.status == "pass")
            refreshed = len(simulator.rest_calls)
            await eventually(lambda: len(simulator.rest_calls) >= refreshed + 5)

            assert 200 == (await probe(relay, "/healthz/turn"))[0]
            assert 1 == relay.metric("realtime_relay_health_check_status", check="turn", status="pass")
        sent = [event_type for connection in simulator.connections for event_type in connection.client_events]
        assert ["response.create"] == sent


@pytest.mark.parametrize(
    ("scenario", "reason", "status"),
    [("model-access-late", "model_not_found", 503), ("server-error-mid", "upstream_error", 200)],
)
async def test_response_check_finds_failures_that_the_handshake_does_not(
    scenario: str, reason: str, status: int
) -> None:
    """Key and handshake pass, and no response comes. A definite failure fails the check immediately."""
    settings = {"OPENAI_API_KEY": f"sk-sim-{scenario}", "RELAY_HEALTH_TURNS_PER_DAY": "1"}
    async with simulated_relay(None, **settings) as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        turn = relay.app.monitor.turn

        assert turn is not None
        assert (reason, "pass") == (turn.reason, relay.app.monitor.handshake.status)
        assert status == (await probe(relay, "/healthz"))[0]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (None, "dropped_early"),
        (b"", "upstream_error"),
        (close_payload(1013, ""), "upstream_overloaded"),
        (
            b'{"type":"error","error":{"type":"insufficient_quota","code":"credit_balance_exhausted"}}',
            "quota_exhausted",
        ),
    ],
)
async def test_response_check_fails_and_closes_its_connection(
    reply: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On FIN, silence, a close frame, or an error instead of the response."""
    monkeypatch.setattr(module, "request_response", lambda connected: request_response(connected, 0.1))

    async def upstream(connection: ServerConnection) -> None:
        connection.send(CREATED)
        if b"response.create" not in await connection.next_message():
            return  # the handshake check
        if reply is None:
            return
        if reply:
            connection.send(reply, Opcode.TEXT if reply[:1] == b"{" else Opcode.CLOSE)
        await connection.wait_closed()

    async with (
        raw_upstream(upstream) as raw,
        running_relay(OPENAI_BASE_URL=raw.url, RELAY_MODEL="scripted", RELAY_HEALTH_TURNS_PER_DAY="1") as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(30)
        turn = relay.app.monitor.turn

        assert turn is not None
        assert reason == turn.reason
        await eventually(lambda: raw.open == 0)


@given(st.integers(0, 50), st.lists(st.floats(0, 20_000), max_size=200))
def test_response_check_budget_holds_within_any_24_hours(per_day: int, pauses: list[float]) -> None:
    """For any pauses between refreshes. The first check is not delayed."""
    budget = ResponseCheckBudget(per_day)
    now, acquired = 0.0, []
    for pause in pauses:
        now += pause
        if budget.try_acquire(now):
            acquired.append(now)

    assert bool(acquired) is (per_day > 0 and bool(pauses))
    assert (
        all(later - first >= DAY_SECONDS for first, later in zip(acquired, acquired[per_day:], strict=False))
        if per_day
        else not acquired
    )
