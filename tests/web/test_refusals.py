"""Each refusal of the provider, as a plain client and as a browser learn of it, and as operators see it."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.failures import CATALOGUE
from service.simulator import SimulatorOptions
from tests.support.harness import Relay, open_raw, running_relay, simulated_relay

ORIGIN = {"Origin": "http://localhost:3000"}


@dataclass(frozen=True)
class Case:
    """A way for the provider to refuse, and what has to come of it. `browser` is the close code that a browser gets."""

    scenario: str
    reason: str
    phase: str
    status: str
    browser: int
    code: str | None = None


CASES = [
    Case("key-rejected", "key_rejected", "first_event", "3000", 3000, "invalid_api_key"),
    Case("key-missing", "key_missing", "first_event", "3000", 3000),
    Case("key-forbidden", "key_forbidden", "first_event", "3000", 3000),
    Case("quota-exhausted", "quota_exhausted", "first_event", "1013", 1008, "credit_balance_exhausted"),
    Case("invalid-model", "model_not_found", "first_event", "4000", 4000, "invalid_model"),
    Case("model-not-found", "model_not_found", "first_event", "4004", 4004, "model_not_found"),
    Case("beta-shape", "beta_shape", "first_event", "4000", 4000, "beta_api_shape_disabled"),
    Case("rate-limited-inband", "rate_limited", "first_event", "1013", 1013, "rate_limit_exceeded"),
    Case("overloaded", "upstream_overloaded", "first_event", "1013", 1013),
    Case("close-only", "key_rejected", "first_event", "3000", 3000, "invalid_api_key"),
    Case("drop", "dropped_early", "first_event", "none", 1013),
    Case("reset", "dropped_early", "first_event", "none", 1013),
    Case("hang", "first_event_timeout", "first_event", "none", 1013),
    Case("hang-before-101", "reply_timeout", "upgrade", "none", 1013),
    Case("redirect", "redirect_refused", "upgrade", "302", 1013),
    Case("no-upgrade", "bad_reply", "upgrade", "200", 1013),
    Case("wrong-accept", "bad_reply", "upgrade", "101", 1013),
    Case("http-401", "key_rejected", "upgrade", "401", 3000, "invalid_api_key"),
    Case("http-403", "key_forbidden", "upgrade", "403", 3000),
    Case("http-403-geo", "region_blocked", "upgrade", "403", 1008, "unsupported_country_region_territory"),
    Case("http-404", "model_not_found", "upgrade", "404", 4004),
    Case("http-429", "rate_limited", "upgrade", "429", 1013, "rate_limit_exceeded"),
    Case("http-429-quota", "quota_exhausted", "upgrade", "429", 1008, "insufficient_quota"),
    Case("http-500", "upstream_error", "upgrade", "500", 1013, "server_error"),
    Case("http-502", "upstream_error", "upgrade", "502", 1013, "server_error"),
    Case("http-503", "upstream_overloaded", "upgrade", "503", 1013, "server_error"),
    Case("http-504", "upstream_error", "upgrade", "504", 1013, "server_error"),
    Case("http-520-html", "upstream_error", "upgrade", "520", 1013),
]


def failures(relay: Relay, case: Case) -> float:
    """The count of the case's own series."""
    return relay.metric(
        "realtime_relay_connection_failures_total",
        upstream=relay.app.metrics.upstream,
        phase=case.phase,
        status=case.status,
        reason=case.reason,
    )


def all_failures(relay: Relay) -> float:
    """The count of all failures, whatever their labels."""
    family = next(iter(relay.app.metrics.connection_failures.collect()))
    return sum(sample.value for sample in family.samples)


@asynccontextmanager
async def refusing_relay(scenario: str) -> AsyncIterator[Relay]:
    """A relay whose provider refuses."""
    key = f"sk-sim-{scenario}-CANARY0key123456"
    async with simulated_relay(SimulatorOptions(pace=0), OPENAI_API_KEY=key, RELAY_DIAL_TIMEOUT_SECONDS="0.6") as relay:
        yield relay


async def check_plain(relay: Relay, case: Case) -> None:
    """A plain client gets the status and the whole error."""
    client = await open_raw(relay.app.public_port)
    row, error = CATALOGUE[case.reason], client.answer.error
    await client.close()

    assert row.http_status == client.answer.status
    assert {
        "type": "relay_error",
        "code": case.reason,
        "message": row.sentence,
        "param": None,
        "event_id": None,
        "remedy": row.remedy,
        "retry": row.retry.value,
        "upstream_status": int(case.status) if case.status.isdigit() else None,
        "upstream_code": case.code,
        "session_id": error["session_id"],
    } == error


async def check_browser(relay: Relay, case: Case) -> None:
    """A browser gets the same error as an event, and a close code."""
    client = await open_raw(relay.app.public_port, headers=ORIGIN)
    event = await client.next_event()
    code, text = await client.until_close() or (None, "")
    await client.close()

    assert client.answer.status == 101
    assert event["type"] == "error"
    assert (event["error"]["code"], event["error"]["remedy"]) == (case.reason, CATALOGUE[case.reason].remedy)
    assert case.browser == code
    if case.browser >= 3000 and case.phase == "first_event":
        assert text.startswith("invalid_request_error")
    else:
        assert CATALOGUE[case.reason].close_text == text


def check_operator(relay: Relay, case: Case, *, times: int) -> None:
    """Operators see the same: one count in a series that stood at 0 before, one log line each, nothing else counted."""
    logged = relay.events("upstream.connect_failed")

    assert float(times) == failures(relay, case) == all_failures(relay)
    assert times == len(logged)
    assert {(case.reason, case.phase)} == {(line["reason"], str(line["phase"])) for line in logged}
    assert CATALOGUE[case.reason].sentence == logged[0]["message"]
    assert "CANARY0" not in str(relay.logs) + relay.metrics_text()


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.scenario))
async def test_a_refusal_is_told_everywhere(case: Case) -> None:
    """Status, error, event, close code, count and log line of a refusal agree, and none of them holds a secret."""
    async with refusing_relay(case.scenario) as relay:
        assert f'phase="{case.phase}",reason="{case.reason}",status="{case.status}"' in relay.metrics_text()
        await check_plain(relay, case)
        relay.app.connector.breaker.succeeded()  # a dial of its own; what is said from memory: tests/upstream/test_breaker.py
        await check_browser(relay, case)
        check_operator(relay, case, times=2)


async def test_retry_after_is_passed_on() -> None:
    """The provider's own waiting time reaches the client."""
    async with refusing_relay("http-429") as relay:
        client = await open_raw(relay.app.public_port)
        await client.close()

    assert client.answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize(("wish", "headers", "status"), [("http", ORIGIN, 424), ("event", {}, 101)])
async def test_a_client_chooses_its_surface(wish: str, headers: dict[str, str], status: int) -> None:
    """`on_failure` overrides what the Origin header suggests."""
    async with refusing_relay("key-rejected") as relay:
        path = f"/v1/realtime?model=gpt-realtime&on_failure={wish}"
        client = await open_raw(relay.app.public_port, path, headers)
        await client.close()

    assert status == client.answer.status


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that takes the connection and sends rubbish."""
    await reader.read(1)
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read()
    writer.close()


async def free_port() -> int:
    """A port that nobody listens on."""
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


@asynccontextmanager
async def plain_server() -> AsyncIterator[int]:
    """The port of a server that speaks neither HTTP nor TLS."""
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def check_network(base_url: str, case: Case, **settings: Any) -> None:
    """A failure of the network is told on all surfaces."""
    async with running_relay(OPENAI_BASE_URL=base_url, **settings) as relay:
        await check_plain(relay, case)
        relay.app.connector.breaker.succeeded()  # a dial of its own; what is said from memory: tests/upstream/test_breaker.py
        await check_browser(relay, case)
        check_operator(relay, case, times=2)


async def test_refused_connection() -> None:
    """Nobody listens at the provider's address."""
    await check_network(
        f"http://127.0.0.1:{await free_port()}/v1", Case("", "connect_refused", "connect", "none", 1013)
    )


async def test_unknown_name() -> None:
    """The provider's name does not exist; `.invalid` never does (RFC 6761)."""
    await check_network("https://relay-test.invalid/v1", Case("", "dns_failed", "dns", "none", 1013))


async def test_rubbish_instead_of_http() -> None:
    """What answers is no HTTP server."""
    async with plain_server() as port:
        await check_network(f"http://127.0.0.1:{port}/v1", Case("", "bad_reply", "upgrade", "none", 1013))


async def test_rubbish_instead_of_tls() -> None:
    """What answers does not speak TLS."""
    async with plain_server() as port:
        await check_network(f"https://127.0.0.1:{port}/v1", Case("", "tls_failed", "connect", "none", 1008))


async def test_untrusted_certificate(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused, and the key is not sent."""
    import ssl  # noqa: PLC0415 - needed here only

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(  # noqa: ASYNC221 - once, before anything runs
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(silent, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        await check_network(f"https://127.0.0.1:{port}/v1", Case("", "tls_untrusted", "connect", "none", 1008))
    finally:
        server.close()


async def test_a_server_that_takes_the_connection_only() -> None:
    """A TLS handshake that never goes on is a connect timeout."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        case = Case("", "connect_timeout", "connect", "none", 1013)
        await check_network(f"https://127.0.0.1:{port}/v1", case, RELAY_DIAL_TIMEOUT_SECONDS="0.4")
    finally:
        server.close()


@pytest.mark.parametrize(
    ("key", "reason"),
    [("", "key_missing"), ('"sk-sim-good"', "key_malformed"), ("sk-your-actual-openai-api-key-here", "key_malformed")],
)
async def test_a_key_that_cannot_be_right_is_not_tried(key: str, reason: str) -> None:
    """A missing or malformed key is told without a dial, and counted in phase access with what was answered."""
    async with simulated_relay(OPENAI_API_KEY=key) as relay:
        client = await open_raw(relay.app.public_port)
        browser = await open_raw(relay.app.public_port, headers=ORIGIN)
        close = await browser.until_close()
        await client.close()
        await browser.close()

        assert relay.simulator is not None
        assert (424, reason) == (client.answer.status, client.answer.error["code"])
        assert (3000, CATALOGUE[reason].close_text) == close
        assert [] == relay.simulator.connections
        assert failures(relay, Case("", reason, "access", "424", 0)) == 2
