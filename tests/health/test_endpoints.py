"""The health endpoints under stress: hung checks, outages of half an hour, crashed tasks, and what they may be asked."""

import asyncio
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.health import monitor as module
from service.health.response_check import DAY_SECONDS, ResponseCheckBudget, request_response
from service.health.schedule import RefreshIntervals
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode
from service.simulator import Simulator, SimulatorOptions
from tests.support.harness import RawClient, Relay, eventually, open_raw, running_relay, simulated_relay
from tests.support.raw_websocket_server import CREATED, Wire, raw_upstream

# A thousandth of the real pace: 30 minutes pass in 1.8 s, a refresh each 60 ms.
SCALE = 1000
FAST = RefreshIntervals(passing=0.06, first_retry=0.005, max_retry=0.12, readiness_grace=0.06)


async def ask(relay: Relay, path: str, *, internal: bool = True, method: str = "GET") -> tuple[int, str, Any]:
    """Status, body and headers of a probe."""
    base = relay.internal_url if internal else relay.url
    async with aiohttp.ClientSession() as session, session.request(method, base + path) as response:
        return response.status, await response.text(), response.headers


async def statuses(relay: Relay) -> list[int]:
    """What liveness, readiness and health answer."""
    return [(await ask(relay, path))[0] for path in ("/livez", "/readyz", "/healthz")]


async def test_a_thousand_cold_probes_cost_one_call() -> None:
    """J1: a thousand parallel probes of a cold relay: one models call, one handshake, every probe answered."""
    async with simulated_relay() as relay:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def probe() -> int:
                async with session.get(f"{relay.internal_url}/healthz") as response:
                    return response.status

            answers = await asyncio.gather(*(probe() for _ in range(1000)))

        assert 1000 == answers.count(200)
        assert relay.simulator is not None
        assert (1, 1) == (len(relay.simulator.connections), len(relay.simulator.rest_calls))


async def test_an_outage_of_thirty_minutes() -> None:
    """J3, J4: /livez and the open /readyz never move; /healthz fails after three failures, mends after two successes."""
    simulator = Simulator(SimulatorOptions(pace=0))
    await simulator.start()
    port = int(simulator.url.rsplit(":", 1)[1].split("/")[0])
    async with running_relay(simulator=simulator, intervals=FAST) as relay:
        await eventually(lambda: relay.app.monitor.ready)
        await simulator.stop()
        end = asyncio.get_running_loop().time() + 30 * 60 / SCALE
        answers = set()
        while asyncio.get_running_loop().time() < end:
            answers.add(tuple(await statuses(relay)))

        assert {(200, 200, 200), (200, 200, 503)} == answers
        assert ["pass", "warn", "fail"] == [line["handshake"] for line in relay.events("health.changed")][:3]
        assert relay.app.monitor.handshake.failures >= 10  # it went on asking, with pauses of two minutes at the most

        again = Simulator(SimulatorOptions(pace=0))
        await again.start(port=port)
        await eventually(lambda: relay.app.monitor.handshake.status == "pass")
        assert relay.app.monitor.handshake.successes >= 2
        await eventually(lambda: relay.app.monitor.key.status == "pass")
        assert [200, 200, 200] == await statuses(relay)
        await again.stop()


async def test_a_revoked_key_fails_at_the_next_look() -> None:
    """J5: a definite refusal needs no third time; readiness, once open, stays open for the sessions that all pods share."""
    refuse = False

    async def upstream(wire: Wire) -> None:
        if refuse:
            wire.send(
                b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":"x"}}'
            )
            wire.send_close(3000, "invalid_request_error.invalid_api_key")
        else:
            wire.send(CREATED)
        if (close := await wire.until_close()) is not None:
            wire.send_close(close[0])

    async with (
        raw_upstream(upstream) as raw,
        running_relay(OPENAI_BASE_URL=raw.url, RELAY_MODEL="scripted", intervals=FAST) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        refuse = True
        await eventually(lambda: relay.app.monitor.key.status == "fail")  # judged when the handshake has been asked

        assert relay.app.monitor.handshake.failures == 1 or relay.app.monitor.handshake.is_definite
        assert "key_rejected" == relay.app.monitor.key.reason
        assert [200, 200, 503] == await statuses(relay)


async def test_retry_after_is_heeded() -> None:
    """J7: while the provider asks for patience, nothing is asked; the endpoint goes on to answer, with a warning."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        key = "sk-sim-http-429"
        async with running_relay(simulator=simulator, intervals=FAST, OPENAI_API_KEY=key) as relay:
            await relay.app.monitor.wait_for_first_refresh(2)
            asked = len(simulator.rest_calls)
            loop = asyncio.get_running_loop()
            until = loop.time() + 0.5  # at this pace a hundred refreshes
            while loop.time() < until:
                status, _, headers = await ask(relay, "/healthz")

            assert asked == len(simulator.rest_calls) == 1
            assert (200, "warn") == (status, headers["X-Health-Status"])


async def test_a_check_that_hangs_does_not_hang_the_endpoint() -> None:
    """J8: while a refresh hangs, probes are answered from the last snapshot at once."""
    hang = asyncio.Event()
    hanging = asyncio.Event()

    async def upstream(wire: Wire) -> None:
        if hang.is_set():
            hanging.set()
            await wire.gone()
            return
        wire.send(CREATED)
        if (close := await wire.until_close()) is not None:
            wire.send_close(close[0])

    async with (
        raw_upstream(upstream) as raw,
        running_relay(OPENAI_BASE_URL=raw.url, RELAY_MODEL="scripted", intervals=FAST) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        hang.set()
        await hanging.wait()
        async with asyncio.timeout(2):
            assert [200, 200, 200] == await statuses(relay)


async def test_what_is_stale_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """J8: a snapshot that no pause explains warns, and says so; an endpoint without checks is not touched."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(2)
        monkeypatch.setattr(relay.app.monitor, "_refreshed_at", -1e9)
        status, body, headers = await ask(relay, "/healthz?verbose")

        assert (200, "warn") == (status, headers["X-Health-Status"])
        assert "stale" in body
        assert "pass" == (await ask(relay, "/healthz?exclude=key&exclude=handshake"))[2]["X-Health-Status"]


async def test_a_crashed_check_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """J9: a bug in the monitor is logged, counted, and does not end it; meanwhile the endpoints answer."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(2)
        monkeypatch.setattr(relay.app.monitor, "refresh", raising)
        relay.app.monitor.key_changed()
        await eventually(lambda: relay.metric("realtime_relay_background_task_crashes_total") == 1)

        assert [200, 200, 200] == await statuses(relay)
        assert ["health"] == [line["task"] for line in relay.events("task.crashed")]
        monkeypatch.undo()
        asked = relay.app.monitor.age_seconds
        await eventually(lambda: relay.app.monitor.age_seconds < asked)


async def raising() -> None:
    """A bug."""
    raise RuntimeError("a bug")


async def test_a_full_relay_is_ready() -> None:
    """J13: at capacity readiness stays open: the refusal with its Retry-After says more than a missing endpoint."""
    async with simulated_relay(RELAY_MAX_SESSIONS="1") as relay:
        await eventually(lambda: relay.app.monitor.ready)
        held = await open_raw(relay.app.public_port)
        refused = await open_raw(relay.app.public_port)

        assert (503, "relay_full") == (refused.answer.status, refused.answer.error["code"])
        assert [200, 200, 200] == await statuses(relay)
        await close_all(held, refused)


async def close_all(*clients: RawClient) -> None:
    """Hang up."""
    for client in clients:
        await client.close()


async def test_what_may_be_asked() -> None:
    """J15: one check by path, several excluded, unknown names told without being repeated, HEAD; no detail in public."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(2)
        for path in ("/healthz/key", "/healthz/handshake", "/healthz?exclude=key", "/readyz", "/livez"):
            assert 200 == (await ask(relay, path))[0]
            status, body, _ = await ask(relay, path, method="HEAD")
            assert (200, "") == (status, body)
        status, body, _ = await ask(relay, "/healthz/nonsense-CANARY")
        assert 404 == status
        assert "key, handshake" in body
        assert "CANARY" not in body
        _, body, _ = await ask(relay, "/healthz?verbose&exclude=nonsense-CANARY&exclude=key")
        assert "excluded: key" in body
        assert "1 name(s)" in body
        assert "CANARY" not in body
        assert '"upstream:handshake"' in (await ask(relay, "/healthz/handshake?verbose"))[1]
        assert '"upstream:key"' not in (await ask(relay, "/healthz/handshake?verbose"))[1]
        for path in ("/healthz?verbose", "/healthz/key?verbose"):
            assert '{"status": "pass"}' == (await ask(relay, path, internal=False))[1]


async def test_one_bad_check_fails_by_its_path() -> None:
    """A check by path speaks for itself only."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-quota-exhausted") as relay:
        await relay.app.monitor.wait_for_first_refresh(2)

        assert (200, 503) == ((await ask(relay, "/healthz/key"))[0], (await ask(relay, "/healthz/handshake"))[0])
        assert 200 == (await ask(relay, "/healthz?exclude=handshake"))[0]


async def test_readiness_in_detail() -> None:
    """The internal port says why it is shut, with ?verbose a line for each question; the public one only that it is."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        await relay.app.monitor.wait_for_first_refresh(2)
        lines = (await ask(relay, "/readyz?verbose"))[1].splitlines()

        assert [
            "[+]drain ok",
            "[-]key failed: key_rejected",
            "[-]handshake failed: key_rejected",
            "check failed",
        ] == lines
        assert (503, "key_rejected\n") == (await ask(relay, "/readyz"))[:2]
        assert (503, "not ready\n") == (await ask(relay, "/readyz?verbose", internal=False))[:2]
        assert (200, "[+]background-tasks ok\ncheck passed\n") == (await ask(relay, "/livez?verbose"))[:2]


async def test_a_bare_101_proves_nothing() -> None:
    """Where no first event is waited for, a refused key upgrades, too: the refusal over REST stands, readiness stays shut."""
    settings = {"OPENAI_API_KEY": "sk-sim-key-rejected", "RELAY_FIRST_EVENT": "optional"}
    async with simulated_relay(None, **settings) as relay:
        await relay.app.monitor.wait_for_first_refresh(2)

        assert "key_rejected" == relay.app.monitor.key.reason
        assert [200, 503, 503] == await statuses(relay)


async def test_a_nudge_during_a_refresh_asks_once_more() -> None:
    """What became known while the checks were under way is not lost."""
    async with simulated_relay() as relay:
        monitor = relay.app.monitor
        await monitor.wait_for_first_refresh(2)
        assert relay.simulator is not None
        simulator = relay.simulator
        asked = len(simulator.rest_calls)
        monitor.key_changed()
        await eventually(lambda: len(simulator.rest_calls) > asked)
        monitor.key_changed()  # the refresh has begun
        await eventually(lambda: len(simulator.rest_calls) > asked + 1)


async def test_own_handshakes_spend_nothing() -> None:
    """J16: the checks' sockets are closed within two seconds, and no response is asked for."""
    async with simulated_relay() as relay:
        assert relay.simulator is not None
        simulator = relay.simulator
        await relay.app.monitor.wait_for_first_refresh(2)
        await eventually(lambda: simulator.open_count == 0, 2)

        (connection,) = simulator.connections
        assert [] == [kind for kind in connection.client_events if kind == "response.create"]
        assert 0 == relay.metric("realtime_relay_sessions_ended_total", reason="client_closed")


async def test_the_deep_turn_is_off_by_default() -> None:
    """Without RELAY_HEALTH_TURNS_PER_DAY there is no such check."""
    async with simulated_relay() as relay:
        assert 404 == (await ask(relay, "/healthz/turn"))[0]
        assert relay.metric("realtime_relay_health_check_status", check="turn", status="unknown") == 0


async def test_a_deep_turn_within_its_budget() -> None:
    """Asked once at the start and no more until the next is due, however often the checks are refreshed."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        async with running_relay(simulator=simulator, intervals=FAST, RELAY_HEALTH_TURNS_PER_DAY="24") as relay:
            await eventually(lambda: relay.app.monitor.turn is not None and relay.app.monitor.turn.status == "pass")
            refreshed = len(simulator.rest_calls)
            await eventually(lambda: len(simulator.rest_calls) >= refreshed + 5)

            assert 200 == (await ask(relay, "/healthz/turn"))[0]
            assert 1 == relay.metric("realtime_relay_health_check_status", check="turn", status="pass")
        asked = [kind for connection in simulator.connections for kind in connection.client_events]
        assert ["response.create"] == asked


@pytest.mark.parametrize(
    ("scenario", "reason", "status"),
    [("model-access-late", "model_not_found", 503), ("server-error-mid", "upstream_error", 200)],
)
async def test_a_deep_turn_finds_what_a_handshake_does_not(scenario: str, reason: str, status: int) -> None:
    """Key and handshake pass, the response does not come: the deep check says why; what is definite fails at once."""
    settings = {"OPENAI_API_KEY": f"sk-sim-{scenario}", "RELAY_HEALTH_TURNS_PER_DAY": "1"}
    async with simulated_relay(None, **settings) as relay:
        await relay.app.monitor.wait_for_first_refresh(5)
        turn = relay.app.monitor.turn

        assert turn is not None
        assert (reason, "pass") == (turn.reason, relay.app.monitor.handshake.status)
        assert status == (await ask(relay, "/healthz"))[0]


@pytest.mark.parametrize(
    ("answer", "reason"),
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
async def test_a_deep_turn_that_goes_wrong_is_given_up(
    answer: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FIN, silence, CLOSE or an error in place of the response: a failure within its time, and the socket is closed."""
    monkeypatch.setattr(module, "request_response", lambda connected: request_response(connected, 0.1))

    async def upstream(wire: Wire) -> None:
        wire.send(CREATED)
        if b"response.create" not in await wire.next_message():
            return  # the handshake check
        if answer is None:
            return
        if answer:
            wire.send(answer, Opcode.TEXT if answer[:1] == b"{" else Opcode.CLOSE)
        await wire.gone()

    async with (
        raw_upstream(upstream) as raw,
        running_relay(OPENAI_BASE_URL=raw.url, RELAY_MODEL="scripted", RELAY_HEALTH_TURNS_PER_DAY="1") as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(5)
        turn = relay.app.monitor.turn

        assert turn is not None
        assert reason == turn.reason
        await eventually(lambda: raw.open == 0)


@given(st.integers(0, 50), st.lists(st.floats(0, 20_000), max_size=200))
def test_a_day_has_so_many_turns(most: int, pauses: list[float]) -> None:
    """Whatever the rhythm of refreshes, no 24 hours hold more turns than allowed, and the first is not put off."""
    budget = ResponseCheckBudget(most)
    now, taken = 0.0, []
    for pause in pauses:
        now += pause
        if budget.try_acquire(now):
            taken.append(now)

    assert bool(taken) is (most > 0 and bool(pauses))
    assert (
        all(later - first >= DAY_SECONDS for first, later in zip(taken, taken[most:], strict=False))
        if most
        else not taken
    )
