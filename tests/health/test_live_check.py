"""The check of the key for GPT-Live: it starts no session, and its failure concerns GPT-Live only."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.failures import Failure, Phase
from service.health import report
from service.health.checks import HealthCheck
from service.health.live_check import LiveKeyCheck
from service.realtime.keys import Secret
from service.upstream.dial import Dialler
from service.upstream.live_key import ABSENT_SESSION
from service.upstream.target import Target
from tests.health.test_endpoints import FAST, probe
from tests.support.harness import Relay, eventually, open_raw, running_relay, simulated_relay
from tests.support.raw_http_server import Exchange, RawHttp, Script, answering, raw_http

STATUS = "realtime_relay_health_check_status"


def error(code: str | None) -> bytes:
    """The provider's error object."""
    return json.dumps({"error": {"type": "invalid_request_error", "code": code, "message": "CANARY"}}).encode()


@asynccontextmanager
async def checked_relay(script: Script) -> AsyncIterator[tuple[Relay, RawHttp]]:
    """A relay with the check, after its first refresh. Its other checks pass."""
    async with (
        raw_http(script) as upstream,
        running_relay(
            OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe", RELAY_HEALTH_LIVE="true", intervals=FAST
        ) as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(30)
        yield relay, upstream
        assert "CANARY" not in str(relay.logs) + relay.used_series()


async def test_live_check_is_off_by_default() -> None:
    """It exists only with RELAY_HEALTH_LIVE, and so do its series."""
    async with simulated_relay() as relay:
        assert 404 == (await probe(relay, "/healthz/live"))[0]
        assert 'check="live"' not in relay.metrics_text()


async def test_unknown_session_passes_the_live_check() -> None:
    """The provider checks the key before the session. The report states what is unproven."""
    async with checked_relay(answering("404 Not Found", error("session_id_not_found"))) as (relay, upstream):
        code, text, _ = await probe(relay, "/healthz?verbose")

        body = json.loads(text)
        assert (200, "pass") == (code, body["status"])
        assert "pass" == body["checks"]["upstream:live"][0]["status"]
        assert any("upstream:live" in note and "unproven" in note for note in body["notes"])
        assert 1 == relay.metric(STATUS, check="live", status="pass")
        assert f"GET /v1/live/sessions/{ABSENT_SESSION}/attach HTTP/1.1" in upstream.heads[0]
        assert 200 == (await probe(relay, "/healthz/live"))[0]


async def test_live_check_passes_on_the_simulator() -> None:
    """Which knows no session to attach to."""
    async with simulated_relay(RELAY_HEALTH_LIVE="true") as relay:
        await relay.app.monitor.wait_for_first_refresh(30)

        assert 1 == relay.metric(STATUS, check="live", status="pass")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param(answering("401 Unauthorized", error("invalid_api_key")), "key_rejected", id="401"),
        pytest.param(answering("403 Forbidden", error("insufficient_permissions")), "key_forbidden", id="403"),
        pytest.param(answering("404 Not Found", b"no page"), "wrong_base_url", id="404-page"),
        pytest.param(answering("404 Not Found"), "wrong_base_url", id="404-empty"),
        pytest.param(answering("404 Not Found", error(None)), "wrong_base_url", id="404-without-code"),
    ],
)
async def test_refused_live_check_warns_and_closes_nothing(script: Script, reason: str) -> None:
    """`/healthz` warns at worst, also where the other checks are excluded; `/readyz` opens; asked by name it fails."""
    async with checked_relay(script) as (relay, _):
        await eventually(lambda: relay.app.monitor.ready)
        code, text, _ = await probe(relay, "/healthz?verbose")

        body = json.loads(text)
        entry = body["checks"]["upstream:live"][0]
        assert (200, "warn") == (code, body["status"])
        assert ("fail", reason) == (entry["status"], entry["reason"])
        assert "unproven" not in text
        for path in ("/healthz?exclude=key&exclude=handshake", "/readyz", "/readyz?verbose"):
            assert 200 == (await probe(relay, path))[0]
        assert 503 == (await probe(relay, "/healthz/live"))[0]
        assert 1 == relay.metric(STATUS, check="live", status="fail")
        assert "pass" == relay.app.monitor.handshake.status


async def test_accepted_connection_is_closed_at_once() -> None:
    """A server that accepts a session that does not exist proves nothing; the connection does not stay open."""

    async def accept(exchange: Exchange) -> None:
        exchange.upgrade()
        await exchange.wait_closed()

    async with checked_relay(accept) as (relay, upstream):
        code, text, _ = await probe(relay, "/healthz?verbose")

        assert 200 == code
        assert "bad_reply" == json.loads(text)["checks"]["upstream:live"][0]["reason"]
        assert "set RELAY_HEALTH_LIVE=false" in text
        await eventually(lambda: upstream.open <= 1)


async def test_started_session_replaces_the_request() -> None:
    """It proves more than the check: nothing is said to be unproven then."""

    def notes() -> str:
        return str(report.detailed_body([check.state], "openai", sessions=0)["notes"])

    async with raw_http(answering("404 Not Found", error("session_id_not_found"))) as upstream:
        target = Target(upstream.url, Secret("k"))
        dialler = Dialler(target, timeout_seconds=5, first_event="required", max_message_bytes=1 << 20)
        check = LiveKeyCheck(dialler)
        check.session_started = True
        await check.refresh()

        assert (0, "pass", "traffic") == (upstream.requests, check.state.status, check.state.source)
        assert "unproven" not in notes()
        await check.refresh()
        assert (1, "pass", "active") == (upstream.requests, check.state.status, check.state.source)
        assert "unproven" in notes()
        await dialler.close()


async def test_session_through_the_relay_is_evidence_for_live_only() -> None:
    """A start that the provider refuses is none."""
    async with simulated_relay(RELAY_HEALTH_LIVE="true") as relay:
        monitor = relay.app.monitor
        await monitor.wait_for_first_refresh(30)
        live = monitor._live
        assert live is not None
        for model, proves in (("gpt-live-0", False), ("gpt-live-1", True)):
            client = await open_raw(relay.app.public_port, "/v1/live/sessions")
            client.send_event(type="session.start", session={"model": model})
            assert ("session.started" if proves else "error") == (await client.next_event())["type"]
            assert proves is live.session_started
            await client.close()

        assert not monitor._client_connected


async def test_retry_after_delays_the_live_check_only() -> None:
    """The checks of the Realtime API go on."""
    async with checked_relay(answering("429 Too Many Requests", error(None), Retry_After="300")) as (relay, upstream):
        connections = upstream.connections
        await eventually(lambda: upstream.connections >= connections + 6)

        assert 1 == upstream.requests
        assert (
            "rate_limited"
            == json.loads((await probe(relay, "/healthz?verbose"))[1])["checks"]["upstream:live"][0]["reason"]
        )


def test_optional_check_never_fails_the_overall_status() -> None:
    """Before its first result it does not count."""
    key = HealthCheck("key")
    key.succeeded(1.0, 0.1)
    live = HealthCheck("live", is_required=False)

    assert "pass" == report.overall([key, live])
    live.failed(Failure("key_rejected"), 1.0, 0.1)
    assert ("fail", "warn", "warn") == (live.status, report.overall([key, live]), report.overall([live]))


async def test_refused_start_requests_no_refresh() -> None:
    """A client that sends an unknown voice again and again must not cause a call upstream each time."""
    async with simulated_relay() as relay:
        monitor = relay.app.monitor
        await eventually(lambda: monitor.ready)

        monitor.dial_finished(Failure("key_forbidden", Phase.SESSION_START))
        assert not monitor._refresh_requested.is_set()
        monitor.dial_finished(Failure("key_forbidden", Phase.FIRST_EVENT))
        assert monitor._refresh_requested.is_set()
