"""Each refusal of the provider as a client, a browser and an operator see it: status, event, metric and log line."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from service.failures import CATALOGUE
from service.simulator import SimulatorOptions
from tests.support.certificates import untrusted_server_context
from tests.support.harness import Relay, open_raw, running_relay, simulated_relay
from tests.support.remedies import as_operators_read
from tools.ports import free_port

ORIGIN = {"Origin": "http://localhost:3000"}


@dataclass(frozen=True)
class Case:
    """A refusal of the provider and what the relay makes of it. `browser` is the close code that a browser gets."""

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
    """Return the value of the case's own series."""
    return relay.metric(
        "realtime_relay_connection_failures_total",
        upstream=relay.app.metrics.upstream,
        phase=case.phase,
        status=case.status,
        reason=case.reason,
    )


def all_failures(relay: Relay) -> float:
    """Return the sum over all series of failures."""
    family = next(iter(relay.app.metrics.connection_failures.collect()))
    return sum(sample.value for sample in family.samples)


@asynccontextmanager
async def refusing_relay(scenario: str) -> AsyncIterator[Relay]:
    """Run a relay whose provider refuses."""
    key, seconds = f"sk-sim-{scenario}-CANARY0key123456", "0.6" if "hang" in scenario else "8"
    async with simulated_relay(
        SimulatorOptions(pace=0), OPENAI_API_KEY=key, RELAY_DIAL_TIMEOUT_SECONDS=seconds
    ) as relay:
        yield relay


async def check_plain(relay: Relay, case: Case) -> None:
    """Check that a client without Origin gets the status and the whole error object."""
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
        "remedy": error["remedy"],
        "retry": row.retry.value,
        "upstream_status": int(case.status) if case.status.isdigit() else None,
        "upstream_code": case.code,
        "session_id": error["session_id"],
    } == error
    check_remedy(relay, case, error["remedy"])


def check_remedy(relay: Relay, case: Case, remedy: str) -> None:
    """Check that the log has the operator's text for what the client received."""
    line = relay.events("upstream.connect_failed")[0]

    assert as_operators_read(CATALOGUE[case.reason], remedy).fullmatch(line["remedy"])


async def check_browser(relay: Relay, case: Case) -> None:
    """Check that a browser gets the same error as an event, and a close code."""
    client = await open_raw(relay.app.public_port, headers=ORIGIN)
    event = await client.next_event()
    code, text = await client.until_close() or (None, "")
    await client.close()

    assert client.answer.status == 101
    assert event["type"] == "error"
    assert event["error"]["code"] == case.reason
    check_remedy(relay, case, event["error"]["remedy"])
    assert case.browser == code
    if case.browser >= 3000 and case.phase == "first_event":
        assert text.startswith("invalid_request_error")
    else:
        assert CATALOGUE[case.reason].close_text == text


def check_operator(relay: Relay, case: Case, *, times: int) -> None:
    """Check that each refusal is counted in one series, which starts at 0, and logged in one line."""
    logged = relay.events("upstream.connect_failed")

    assert float(times) == failures(relay, case) == all_failures(relay)
    assert times == len(logged)
    assert {(case.reason, case.phase)} == {(line["reason"], str(line["phase"])) for line in logged}
    assert CATALOGUE[case.reason].sentence == logged[0]["message"]
    assert "CANARY0" not in str(relay.logs) + relay.used_series()


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.scenario))
async def test_refusal_is_the_same_at_every_surface(case: Case) -> None:
    """Status, error, event, close code, metric and log line agree, and none of them holds a secret."""
    async with refusing_relay(case.scenario) as relay:
        assert f'phase="{case.phase}",reason="{case.reason}",status="{case.status}"' in relay.metrics_text()
        await check_plain(relay, case)
        relay.app.connector.breaker.reset()  # so that the next request dials; see tests/upstream/test_breaker.py
        await check_browser(relay, case)
        check_operator(relay, case, times=2)


async def test_retry_after_of_the_provider_is_forwarded() -> None:
    """With the provider's value, instead of the relay's own."""
    async with refusing_relay("http-429") as relay:
        client = await open_raw(relay.app.public_port)
        await client.close()

    assert client.answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize(("on_failure", "headers", "status"), [("http", ORIGIN, 424), ("event", {}, 101)])
async def test_on_failure_overrides_the_origin_header(on_failure: str, headers: dict[str, str], status: int) -> None:
    """In both directions."""
    async with refusing_relay("key-rejected") as relay:
        path = f"/v1/realtime?model=gpt-realtime&on_failure={on_failure}"
        client = await open_raw(relay.app.public_port, path, headers)
        await client.close()

    assert status == client.answer.status


async def speak_ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the first byte with the banner of another protocol."""
    await reader.read(1)
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read()
    writer.close()


@asynccontextmanager
async def ssh_server() -> AsyncIterator[int]:
    """Run a server that speaks neither HTTP nor TLS; the value is its port."""
    server = await asyncio.start_server(speak_ssh, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def check_network(base_url: str, case: Case, **settings: Any) -> None:
    """Check that a network failure is reported at every surface."""
    async with running_relay(OPENAI_BASE_URL=base_url, **settings) as relay:
        await check_plain(relay, case)
        relay.app.connector.breaker.reset()  # so that the next request dials; see tests/upstream/test_breaker.py
        await check_browser(relay, case)
        check_operator(relay, case, times=2)


async def test_refused_connection_is_connect_refused() -> None:
    """No process listens at the provider's address."""
    await check_network(f"http://127.0.0.1:{free_port()}/v1", Case("", "connect_refused", "connect", "none", 1013))


async def test_unknown_host_is_dns_failed() -> None:
    """Names under `.invalid` never resolve (RFC 6761)."""
    await check_network("https://relay-test.invalid/v1", Case("", "dns_failed", "dns", "none", 1013))


async def test_answer_other_than_http_is_bad_reply() -> None:
    """The server at the provider's address is an SSH server."""
    async with ssh_server() as port:
        await check_network(f"http://127.0.0.1:{port}/v1", Case("", "bad_reply", "upgrade", "none", 1013))


async def test_answer_other_than_tls_is_tls_failed() -> None:
    """The server at the provider's address is an SSH server."""
    async with ssh_server() as port:
        await check_network(f"https://127.0.0.1:{port}/v1", Case("", "tls_failed", "connect", "none", 1008))


async def test_certificate_of_unknown_authority_is_tls_untrusted() -> None:
    """The handshake fails before the request with the key is sent."""
    server = await asyncio.start_server(speak_ssh, "127.0.0.1", 0, ssl=untrusted_server_context())
    try:
        port = server.sockets[0].getsockname()[1]
        await check_network(f"https://127.0.0.1:{port}/v1", Case("", "tls_untrusted", "connect", "none", 1008))
    finally:
        server.close()


async def test_stalled_tls_handshake_is_connect_timeout() -> None:
    """The server accepts the TCP connection and never answers."""

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
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
async def test_missing_or_malformed_key_is_refused_without_a_dial(key: str, reason: str) -> None:
    """The failure is counted in phase access, with the status of the response."""
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
