"""The health endpoints over real sockets: what they answer, and what they cost."""

import asyncio
from typing import Any

import aiohttp
import pytest

from service.health.schedule import RefreshIntervals
from service.simulator import Simulator, SimulatorOptions
from tests.support.harness import Relay, eventually, open_raw, running_relay, simulated_relay

QUICK = RefreshIntervals(passing=0.05, first_retry=0.05, max_retry=0.05, readiness_grace=0.3)


async def get(relay: Relay, path: str, *, internal: bool = True) -> tuple[int, Any]:
    """Status and body of a probe."""
    url = relay.internal_url if internal else relay.url
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        body = await (response.text() if "json" not in response.content_type else response.json(content_type=None))
        return response.status, body


async def status(relay: Relay, path: str) -> int:
    """Only the status."""
    return (await get(relay, path))[0]


async def test_a_good_key_passes() -> None:
    """With a good key both checks pass, readiness opens, and the metrics say so."""
    async with simulated_relay() as relay:
        code, body = await get(relay, "/healthz?verbose")

        assert (code, body["status"]) == (200, "pass")
        assert [body["checks"][f"upstream:{name}"][0]["status"] for name in ("key", "handshake")] == ["pass", "pass"]
        assert await status(relay, "/readyz") == 200
        for check in ("key", "handshake"):
            assert relay.metric("realtime_relay_health_check_status", check=check, status="pass") == 1
            assert relay.metric("realtime_relay_health_check_last_success_timestamp_seconds", check=check) > 0


@pytest.mark.parametrize(
    ("scenario", "key", "handshake"),
    [
        ("key-rejected", "key_rejected", "key_rejected"),
        ("http-401", "key_rejected", "key_rejected"),
        ("quota-exhausted", None, "quota_exhausted"),
        ("model-not-found", None, "model_not_found"),
        ("model-rest-only-401", None, None),
    ],
)
async def test_refusals_fail_at_once(scenario: str, key: str | None, handshake: str | None) -> None:
    """A definite refusal fails the check that it concerns and keeps readiness shut; a scoped key is no refusal."""
    async with simulated_relay(OPENAI_API_KEY=f"sk-sim-{scenario}") as relay:
        code, body = await get(relay, "/healthz?verbose")
        reasons = [body["checks"][f"upstream:{name}"][0].get("reason") for name in ("key", "handshake")]

        assert [key, handshake] == reasons
        assert (503 if handshake else 200) == code == await status(relay, "/readyz")
        assert await status(relay, "/livez") == 200


@pytest.mark.parametrize(("key", "reason"), [("", "key_missing"), ("'sk-sim-good'", "key_malformed")])
async def test_a_key_that_cannot_be_right_is_not_asked_about(key: str, reason: str) -> None:
    """A missing or malformed key fails without any call upstream."""
    async with simulated_relay(OPENAI_API_KEY=key) as relay:
        code, body = await get(relay, "/healthz?verbose")

        assert code == 503
        assert body["checks"]["upstream:key"][0]["reason"] == reason
        assert relay.simulator is not None
        assert (0, 0) == (len(relay.simulator.connections), len(relay.simulator.rest_calls))


async def test_an_outage_warns_then_fails_and_mends() -> None:
    """A dead upstream: warn, then fail; liveness and open readiness do not move; two good answers mend it."""
    simulator = Simulator(SimulatorOptions(pace=0))
    await simulator.start()
    port = int(simulator.url.rsplit(":", 1)[1].split("/")[0])
    async with running_relay(simulator=simulator, intervals=QUICK) as relay:
        await eventually(lambda: relay.app.monitor.ready)
        await simulator.stop()
        await eventually(lambda: "fail" in [line["handshake"] for line in relay.events("health.changed")], 5)
        seen = [line["handshake"] for line in relay.events("health.changed")]

        assert seen[0:3] == ["pass", "warn", "fail"]
        assert [503, 200, 200] == [await status(relay, path) for path in ("/healthz", "/readyz", "/livez")]

        again = Simulator(SimulatorOptions(pace=0))
        await again.start(port=port)
        await eventually(lambda: relay.app.monitor.handshake.status == "pass", 5)
        await eventually(lambda: relay.app.monitor.key.status == "pass", 5)
        assert await status(relay, "/healthz") == 200
        await again.stop()


async def test_parallel_probes_cost_one_call() -> None:
    """A hundred cold probes at once cost one REST call and one handshake, and are all answered."""
    async with simulated_relay() as relay:
        answers = await asyncio.gather(*(status(relay, "/healthz?verbose") for _ in range(100)))

        assert {200} == set(answers)
        assert relay.simulator is not None
        assert (1, 1) == (len(relay.simulator.connections), len(relay.simulator.rest_calls))


async def test_trouble_that_may_pass_does_not_keep_a_new_instance_shut() -> None:
    """Started during an outage, readiness opens after the grace; health goes on to say what is wrong."""
    async with simulated_relay(None, OPENAI_API_KEY="sk-sim-http-503") as quiet:
        assert await status(quiet, "/readyz") == 503
    async with Simulator(SimulatorOptions()) as simulator:
        key = "sk-sim-http-500"
        async with running_relay(simulator=simulator, intervals=QUICK, OPENAI_API_KEY=key) as relay:
            await eventually(lambda: relay.app.monitor.ready)
            assert await status(relay, "/readyz") == 200
            await eventually(lambda: relay.app.monitor.handshake.status == "fail")
            assert await status(relay, "/healthz") == 503


async def test_live_sessions_are_evidence() -> None:
    """While callers get through, no handshake is made for the check's own sake."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        intervals = RefreshIntervals(passing=0.3, first_retry=0.05, max_retry=0.05)
        async with running_relay(simulator=simulator, intervals=intervals) as relay:
            await relay.app.monitor.wait_for_first_refresh(2)
            made = len(simulator.connections)
            client = await open_raw(relay.app.public_port)
            await eventually(lambda: relay.app.monitor.handshake.source == "traffic")
            assert made + 1 == len(simulator.connections)
            await client.close()


async def test_own_dials_are_not_callers() -> None:
    """The checks' dials appear in no metric of callers."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        await relay.app.monitor.wait_for_first_refresh(2)

        assert relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="key_rejected") == 0
        labels = {"upstream": "compatible", "phase": "first_event", "status": "3000", "reason": "key_rejected"}
        assert relay.metric("realtime_relay_connection_failures_total", **labels) == 0


async def test_the_public_report_tells_nothing_of_the_inside() -> None:
    """On the public port /healthz says the status and nothing else, whatever is asked; /metrics is not there."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        assert await get(relay, "/healthz?verbose", internal=False) == (503, {"status": "fail"})
        assert (await get(relay, "/metrics", internal=False))[0] == 404
        assert (await get(relay, "/version", internal=False))[0] == 404


async def test_excluding_checks() -> None:
    """`?exclude=` leaves a check out; with both left out only the process itself is asked about."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-quota-exhausted") as relay:
        assert await status(relay, "/healthz") == 503
        assert await status(relay, "/healthz?exclude=handshake") == 200
        code, body = await get(relay, "/healthz?exclude=key&exclude=handshake&verbose")
        assert code == 200
        assert "excluded: handshake, key" in body["notes"]


async def test_draining_closes_readiness_only() -> None:
    """A draining instance is alive and well, but gets nobody new."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(2)
        relay.app.drainer.is_draining = True

        assert [503, 200, 200] == [await status(relay, path) for path in ("/readyz", "/livez", "/healthz")]


async def test_metrics_and_version() -> None:
    """The internal port serves a scrape and the version."""
    async with simulated_relay() as relay:
        assert "realtime_relay_build_info" in (await get(relay, "/metrics"))[1]
        assert (await get(relay, "/version"))[1]["service"] == "realtime-relay"
