"""Breaker and retry of dials over real sockets: what clients get while the provider fails."""

import asyncio
from collections.abc import Iterator

import pytest

from service.failures import Failure, Phase
from service.upstream import circuit as module
from service.upstream.circuit import FAILURES_TO_OPEN, Witness
from tests.support.harness import eventually, open_raw, simulated_relay
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection
from tests.support.scripted_upstream import scripted_relay
from tests.upstream.test_breaker import ORIGIN, PATH


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
