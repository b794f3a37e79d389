"""The health endpoints over real sockets: their responses, and the calls upstream that the checks make."""

import asyncio
from typing import Any

import aiohttp
import pytest

from service.health.schedule import RefreshIntervals
from service.simulator import Simulator, SimulatorOptions
from tests.support.harness import Relay, eventually, open_raw, running_relay, simulated_relay

QUICK = RefreshIntervals(passing=0.05, first_retry=0.05, max_retry=0.05, readiness_grace=0.3)


async def get(relay: Relay, path: str, *, internal: bool = True) -> tuple[int, Any]:
    """The status and the body of a probe's response."""
    url = relay.internal_url if internal else relay.url
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        body = await (response.text() if "json" not in response.content_type else response.json(content_type=None))
        return response.status, body


async def status(relay: Relay, path: str) -> int:
    """The status of a probe's response."""
    return (await get(relay, path))[0]


async def test_valid_key_passes_both_checks() -> None:
    """Readiness opens, and the metrics show both checks as passing."""
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
async def test_definite_refusal_fails_its_check_immediately(
    scenario: str, key: str | None, handshake: str | None
) -> None:
    """It keeps readiness closed. A key that is restricted to the Realtime API passes."""
    async with simulated_relay(OPENAI_API_KEY=f"sk-sim-{scenario}") as relay:
        code, body = await get(relay, "/healthz?verbose")
        reasons = [body["checks"][f"upstream:{name}"][0].get("reason") for name in ("key", "handshake")]

        assert [key, handshake] == reasons
        assert (503 if handshake else 200) == code == await status(relay, "/readyz")
        assert await status(relay, "/livez") == 200


@pytest.mark.parametrize(("key", "reason"), [("", "key_missing"), ("'sk-sim-good'", "key_malformed")])
async def test_missing_or_malformed_key_fails_without_a_call_upstream(key: str, reason: str) -> None:
    """Neither a model request nor a handshake is made."""
    async with simulated_relay(OPENAI_API_KEY=key) as relay:
        code, body = await get(relay, "/healthz?verbose")

        assert code == 503
        assert body["checks"]["upstream:key"][0]["reason"] == reason
        assert relay.simulator is not None
        assert (0, 0) == (len(relay.simulator.connections), len(relay.simulator.rest_calls))


async def test_outage_warns_then_fails_then_recovers() -> None:
    """Liveness and open readiness are unaffected."""
    simulator = Simulator(SimulatorOptions(pace=0))
    await simulator.start()
    port = int(simulator.url.rsplit(":", 1)[1].split("/")[0])
    async with running_relay(simulator=simulator, intervals=QUICK) as relay:
        await eventually(lambda: relay.app.monitor.ready)
        await simulator.stop()
        await eventually(lambda: "fail" in [line["handshake"] for line in relay.events("health.changed")], 5)
        statuses = [line["handshake"] for line in relay.events("health.changed")]

        assert statuses[0:3] == ["pass", "warn", "fail"]
        assert [503, 200, 200] == [await status(relay, path) for path in ("/healthz", "/readyz", "/livez")]

        again = Simulator(SimulatorOptions(pace=0))
        await again.start(port=port)
        await eventually(lambda: relay.app.monitor.handshake.status == "pass", 5)
        await eventually(lambda: relay.app.monitor.key.status == "pass", 5)
        assert await status(relay, "/healthz") == 200
        await again.stop()


async def test_concurrent_detailed_probes_share_the_first_refresh() -> None:
    """A hundred probes before the first result: one model request, one handshake, a hundred responses."""
    async with simulated_relay() as relay:
        statuses = await asyncio.gather(*(status(relay, "/healthz?verbose") for _ in range(100)))

        assert {200} == set(statuses)
        assert relay.simulator is not None
        assert (1, 1) == (len(relay.simulator.connections), len(relay.simulator.rest_calls))


async def test_readiness_opens_after_the_grace_period_during_an_outage() -> None:
    """Health still fails, with the reason."""
    async with simulated_relay(None, OPENAI_API_KEY="sk-sim-http-503") as starting:
        assert await status(starting, "/readyz") == 503
    async with Simulator(SimulatorOptions()) as simulator:
        key = "sk-sim-http-500"
        async with running_relay(simulator=simulator, intervals=QUICK, OPENAI_API_KEY=key) as relay:
            await eventually(lambda: relay.app.monitor.ready)
            assert await status(relay, "/readyz") == 200
            await eventually(lambda: relay.app.monitor.handshake.status == "fail")
            assert await status(relay, "/healthz") == 503


async def test_client_session_replaces_the_handshake_of_a_refresh() -> None:
    """The source of the check is then traffic."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        intervals = RefreshIntervals(passing=0.3, first_retry=0.05, max_retry=0.05)
        async with running_relay(simulator=simulator, intervals=intervals) as relay:
            await relay.app.monitor.wait_for_first_refresh(30)
            before = len(simulator.connections)
            client = await open_raw(relay.app.public_port)
            await eventually(lambda: relay.app.monitor.handshake.source == "traffic")
            assert before + 1 == len(simulator.connections)
            await client.close()


async def test_dials_of_the_checks_are_not_counted() -> None:
    """The metrics of connects and failures count clients only."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        await relay.app.monitor.wait_for_first_refresh(30)

        assert relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="key_rejected") == 0
        labels = {"upstream": "compatible", "phase": "first_event", "status": "3000", "reason": "key_rejected"}
        assert relay.metric("realtime_relay_connection_failures_total", **labels) == 0


async def test_public_healthz_shows_the_status_only() -> None:
    """Also with ?verbose; /metrics and /version do not exist on the public port."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        assert await get(relay, "/healthz?verbose", internal=False) == (503, {"status": "fail"})
        assert (await get(relay, "/metrics", internal=False))[0] == 404
        assert (await get(relay, "/version", internal=False))[0] == 404


async def test_healthz_excludes_checks_by_query() -> None:
    """With both excluded, only the process itself counts."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-quota-exhausted") as relay:
        assert await status(relay, "/healthz") == 503
        assert await status(relay, "/healthz?exclude=handshake") == 200
        code, body = await get(relay, "/healthz?exclude=key&exclude=handshake&verbose")
        assert code == 200
        assert "excluded: handshake, key" in body["notes"]


async def test_draining_closes_readiness_only() -> None:
    """Liveness and health of a draining instance still pass."""
    async with simulated_relay() as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        relay.app.drainer.is_draining = True

        assert [503, 200, 200] == [await status(relay, path) for path in ("/readyz", "/livez", "/healthz")]


async def test_internal_port_serves_metrics_and_version() -> None:
    """A scrape includes the build information."""
    async with simulated_relay() as relay:
        assert "realtime_relay_build_info" in (await get(relay, "/metrics"))[1]
        assert (await get(relay, "/version"))[1]["service"] == "realtime-relay"
