"""The health endpoints during outages, with checks that hang or crash, and their queries; the metrics."""

import asyncio
from itertools import groupby
from typing import Any

import aiohttp
import pytest

from service.failures import CATALOGUE
from service.health.schedule import RefreshIntervals
from service.simulator import Simulator, SimulatorOptions
from tests.support.harness import (
    RawClient,
    Relay,
    eventually,
    open_raw,
    running_relay,
    simulated_relay,
    taking_less_than,
)
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

# A thousandth of the default intervals: 30 minutes pass in 1.8 s, with a refresh every 60 ms.
SCALE = 1000
FAST = RefreshIntervals(passing=0.06, first_retry=0.005, max_retry=0.12, readiness_grace=0.06)


async def probe(relay: Relay, path: str, *, internal: bool = True, method: str = "GET") -> tuple[int, str, Any]:
    """The status, body and headers of a probe's response."""
    base = relay.internal_url if internal else relay.url
    async with aiohttp.ClientSession() as session, session.request(method, base + path) as response:
        return response.status, await response.text(), response.headers


async def statuses(relay: Relay) -> list[int]:
    """The statuses of liveness, readiness and health."""
    return [(await probe(relay, path))[0] for path in ("/livez", "/readyz", "/healthz")]


async def test_concurrent_probes_share_the_first_refresh() -> None:
    """Two hundred probes before the first result: one model request, one handshake, two hundred responses."""
    async with simulated_relay() as relay:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def healthz() -> int:
                async with session.get(f"{relay.internal_url}/healthz") as response:
                    return response.status

            responses = await asyncio.gather(*(healthz() for _ in range(200)))

        assert 200 == responses.count(200)
        assert relay.simulator is not None
        assert (1, 1) == (len(relay.simulator.connections), len(relay.simulator.rest_calls))


async def test_outage_of_thirty_minutes_affects_healthz_only() -> None:
    """It fails after three failures and recovers after two successes; the open /readyz stays open."""
    simulator = Simulator(SimulatorOptions(pace=0))
    await simulator.start()
    port = int(simulator.url.rsplit(":", 1)[1].split("/")[0])
    async with running_relay(simulator=simulator, intervals=FAST) as relay:
        await eventually(lambda: relay.app.monitor.ready)
        responses = {tuple(await statuses(relay))}
        await simulator.stop()
        end = asyncio.get_running_loop().time() + 30 * 60 / SCALE
        while asyncio.get_running_loop().time() < end or relay.app.monitor.handshake.failures < 10:
            responses.add(tuple(await statuses(relay)))

        assert {(200, 200, 200), (200, 200, 503)} == responses
        changes = groupby(line["handshake"] for line in relay.events("health.changed"))  # the reason may change as well
        assert ["pass", "warn", "fail"] == [status for status, _ in changes][:3]
        assert relay.app.monitor.handshake.failures >= 10  # the checks went on, at most two minutes apart

        again = Simulator(SimulatorOptions(pace=0))
        await again.start(port=port)
        await eventually(lambda: relay.app.monitor.handshake.status == "pass")
        assert relay.app.monitor.handshake.successes >= 2
        await eventually(lambda: relay.app.monitor.key.status == "pass")
        assert [200, 200, 200] == await statuses(relay)
        await again.stop()


async def test_revoked_key_fails_at_the_next_refresh() -> None:
    """Readiness, once open, stays open: every instance has the same key."""
    refuse = False

    async def upstream(connection: ServerConnection) -> None:
        if refuse:
            connection.send(
                b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":"x"}}'
            )
            connection.send_close(3000, "invalid_request_error.invalid_api_key")
        else:
            connection.send(CREATED)
        if (close := await connection.until_close()) is not None:
            connection.send_close(close[0])

    async with (
        raw_upstream(upstream) as raw,
        running_relay(OPENAI_BASE_URL=raw.url, RELAY_MODEL="scripted", intervals=FAST) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        refuse = True
        # Set at the end of a refresh, after the handshake.
        await eventually(lambda: relay.app.monitor.key.status == "fail")

        assert relay.app.monitor.handshake.failures == 1 or relay.app.monitor.handshake.is_definite
        assert "key_rejected" == relay.app.monitor.key.reason
        assert [200, 200, 503] == await statuses(relay)


async def test_checks_wait_for_retry_after() -> None:
    """No call upstream meanwhile; the endpoint responds with a warning."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        key = "sk-sim-http-429"
        async with running_relay(simulator=simulator, intervals=FAST, OPENAI_API_KEY=key) as relay:
            await relay.app.monitor.wait_for_first_refresh(30)
            before = len(simulator.rest_calls)
            loop = asyncio.get_running_loop()
            until = loop.time() + 0.5  # time for a hundred refreshes
            while loop.time() < until:
                status, _, headers = await probe(relay, "/healthz")

            assert before == len(simulator.rest_calls) == 1
            assert (200, "warn") == (status, headers["X-Health-Status"])


async def test_hanging_check_does_not_delay_probes() -> None:
    """They are answered from the last results."""
    hang = asyncio.Event()
    hanging = asyncio.Event()

    async def upstream(connection: ServerConnection) -> None:
        if hang.is_set():
            hanging.set()
            await connection.wait_closed()
            return
        connection.send(CREATED)
        if (close := await connection.until_close()) is not None:
            connection.send_close(close[0])

    async with (
        raw_upstream(upstream) as raw,
        running_relay(OPENAI_BASE_URL=raw.url, RELAY_MODEL="scripted", intervals=FAST) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        hang.set()
        await hanging.wait()
        async with taking_less_than(2):
            assert [200, 200, 200] == await statuses(relay)


async def test_stale_results_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    """If all checks are excluded, their age does not count."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        monkeypatch.setattr(relay.app.monitor, "_refreshed_at", -1e9)
        status, body, headers = await probe(relay, "/healthz?verbose")

        assert (200, "warn") == (status, headers["X-Health-Status"])
        assert "stale" in body
        assert "pass" == (await probe(relay, "/healthz?exclude=key&exclude=handshake"))[2]["X-Health-Status"]


async def test_crashed_monitor_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The crash is logged and counted; the endpoints respond meanwhile."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        monkeypatch.setattr(relay.app.monitor, "refresh", raising)
        relay.app.monitor.key_changed()
        await eventually(lambda: relay.metric("realtime_relay_background_task_crashes_total") == 1)

        assert [200, 200, 200] == await statuses(relay)
        assert ["health"] == [line["task"] for line in relay.events("task.crashed")]
        monkeypatch.undo()
        age = relay.app.monitor.age_seconds
        await eventually(lambda: relay.app.monitor.age_seconds < age)


async def raising() -> None:
    """Fail with an unexpected exception."""
    raise RuntimeError("unexpected")


async def test_readiness_stays_open_at_the_session_limit() -> None:
    """A refusal with Retry-After is of more use to a client than a service without endpoints."""
    async with simulated_relay(RELAY_MAX_SESSIONS="1") as relay:
        await eventually(lambda: relay.app.monitor.ready)
        admitted = await open_raw(relay.app.public_port)
        refused = await open_raw(relay.app.public_port)

        assert (503, "relay_full") == (refused.answer.status, refused.answer.error["code"])
        assert [200, 200, 200] == await statuses(relay)
        await close_all(admitted, refused)


async def close_all(*clients: RawClient) -> None:
    """Close the connections."""
    for client in clients:
        await client.close()


async def test_healthz_selects_checks_by_path_and_query() -> None:
    """Unknown names are reported without being repeated; HEAD has no body; the public port shows no detail."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        for path in ("/healthz/key", "/healthz/handshake", "/healthz?exclude=key", "/readyz", "/livez"):
            assert 200 == (await probe(relay, path))[0]
            status, body, _ = await probe(relay, path, method="HEAD")
            assert (200, "") == (status, body)
        status, body, _ = await probe(relay, "/healthz/nonsense-CANARY")
        assert 404 == status
        assert "key, handshake" in body
        assert "CANARY" not in body
        _, body, _ = await probe(relay, "/healthz?verbose&exclude=nonsense-CANARY&exclude=key")
        assert "excluded: key" in body
        assert "1 name(s)" in body
        assert "CANARY" not in body
        assert '"upstream:handshake"' in (await probe(relay, "/healthz/handshake?verbose"))[1]
        assert '"upstream:key"' not in (await probe(relay, "/healthz/handshake?verbose"))[1]
        for path in ("/healthz?verbose", "/healthz/key?verbose"):
            assert '{"status": "pass"}' == (await probe(relay, path, internal=False))[1]


async def test_healthz_of_one_check_ignores_the_other() -> None:
    """By path and by exclusion."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-quota-exhausted") as relay:
        await relay.app.monitor.wait_for_first_refresh(30)

        assert (200, 503) == ((await probe(relay, "/healthz/key"))[0], (await probe(relay, "/healthz/handshake"))[0])
        assert 200 == (await probe(relay, "/healthz?exclude=handshake"))[0]


async def test_internal_readyz_shows_why_it_is_closed() -> None:
    """With ?verbose one line for each condition, with reason and remedy; the public port shows no reason."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        lines = (await probe(relay, "/readyz?verbose"))[1].splitlines()

        cause = relay.app.monitor.key.output()
        assert cause is not None
        assert CATALOGUE["key_rejected"].sentence in cause
        assert "OPENAI_API_KEY" in cause
        assert ["[+]drain ok", f"[-]key failed: {cause}", f"[-]handshake failed: {cause}", "check failed"] == lines
        assert (503, "key_rejected\n") == (await probe(relay, "/readyz"))[:2]
        assert (503, "not ready\n") == (await probe(relay, "/readyz?verbose", internal=False))[:2]
        assert (200, "[+]background-tasks ok\ncheck passed\n") == (await probe(relay, "/livez?verbose"))[:2]


async def test_handshake_without_first_event_does_not_prove_the_key() -> None:
    """A refused key gets a 101, too. The refusal of the model request decides, and readiness stays closed."""
    settings = {"OPENAI_API_KEY": "sk-sim-key-rejected", "RELAY_FIRST_EVENT": "optional"}
    async with simulated_relay(None, **settings) as relay:
        await relay.app.monitor.wait_for_first_refresh(30)

        assert "key_rejected" == relay.app.monitor.key.reason
        assert [200, 503, 503] == await statuses(relay)


async def test_request_during_a_refresh_causes_one_more() -> None:
    """The new key may have been set after the refresh read the previous one."""
    async with simulated_relay() as relay:
        monitor = relay.app.monitor
        await monitor.wait_for_first_refresh(30)
        assert relay.simulator is not None
        simulator = relay.simulator
        before = len(simulator.rest_calls)
        monitor.key_changed()
        await eventually(lambda: len(simulator.rest_calls) > before)
        monitor.key_changed()  # the refresh has started
        await eventually(lambda: len(simulator.rest_calls) > before + 1)


async def test_handshake_check_requests_no_response_and_closes_within_two_seconds() -> None:
    """It costs no tokens."""
    async with simulated_relay() as relay:
        assert relay.simulator is not None
        simulator = relay.simulator
        await relay.app.monitor.wait_for_first_refresh(30)
        await eventually(lambda: simulator.open_count == 0, 2)

        (connection,) = simulator.connections
        assert [] == [event_type for event_type in connection.client_events if event_type == "response.create"]
        assert 0 == relay.metric("realtime_relay_sessions_ended_total", reason="client_closed")
