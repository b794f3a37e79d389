"""Group A of the fault plan: upstream refuses at the level of HTTP, or answers what is no HTTP at all."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support.harness import Answer, Relay, eventually, open_raw, running_relay
from tests.support.invariants import nothing_left
from tests.support.raw_http_server import PATH, Exchange, RawHttp, Script, raw_http
from tests.support.raw_websocket_server import CREATED

MASKED = b'{"error":{"type":"invalid_request_error","code":"invalid_api_key","message":"Incorrect: sk-sim-g********CANARY5"}}'


@asynccontextmanager
async def relay_before(script: Script, **settings: Any) -> AsyncIterator[tuple[Relay, RawHttp]]:
    """A relay before a scripted upstream; afterwards nothing is left of it, and no canary has been seen."""
    async with (
        nothing_left(),
        raw_http(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe", **settings) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        yield relay, upstream
        await eventually(lambda: upstream.open == 0, 2)
        assert "CANARY" not in str(relay.logs) + relay.metrics_text()


async def attempt(relay: Relay, **headers: str) -> Answer:
    """One plain client."""
    client = await open_raw(relay.app.public_port, PATH, headers)
    await client.close()
    assert b"CANARY" not in client.answer.body
    return client.answer


def counted(relay: Relay, reason: str, status: str, phase: str = "upgrade") -> float:
    """The count of a failure."""
    return relay.metric(
        "realtime_relay_connection_failures_total", upstream="compatible", phase=phase, status=status, reason=reason
    )


def answering(status: str, body: bytes = b"", **headers: str) -> Script:
    """An upstream that always answers this."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(status, body, **headers)

    return script


def error(code: str, kind: str = "invalid_request_error") -> bytes:
    """The body of a refusal."""
    return f'{{"error":{{"type":"{kind}","code":"{code}","message":"CANARY words of the provider"}}}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "expected", "reason"),
    [
        pytest.param("401 Unauthorized", MASKED, 424, "key_rejected", id="A1-A2"),
        pytest.param("403 Forbidden", b"", 424, "key_forbidden", id="A3"),
        pytest.param("400 Bad Request", error("model_not_found"), 404, "model_not_found", id="A4-400"),
        pytest.param("404 Not Found", error("model_not_found"), 404, "model_not_found", id="A4-404"),
        pytest.param("402 Payment Required", b"", 424, "quota_exhausted", id="A6-402"),
        pytest.param("429 Too Many", error("insufficient_quota"), 424, "quota_exhausted", id="A6"),
        pytest.param("451 Unavailable", b"", 424, "region_blocked", id="A3-451"),
        pytest.param("200 OK", b"<html>Welcome to our hotel</html>", 502, "bad_reply", id="A12"),
        pytest.param("204 No Content", b"", 502, "bad_reply", id="A12-204"),
        pytest.param("418 Teapot", b"", 502, "bad_reply", id="A12-418"),
    ],
)
async def test_a_refusal_is_translated(status: str, body: bytes, expected: int, reason: str) -> None:
    """Each status has its row: what only the operator can mend is 424, whatever the provider called it. No retry."""
    async with relay_before(answering(status, body)) as (relay, upstream):
        answer = await attempt(relay)

        assert (expected, reason) == (answer.status, answer.error["code"])
        assert int(status[:3]) == answer.error["upstream_status"]
        assert 1 == upstream.requests
        known = status[:3] if status[:3] in {"401", "403", "400", "404", "402", "429", "451", "200"} else "other_http"
        assert 1 == counted(relay, reason, known)
        assert [reason] == [line["reason"] for line in relay.events("upstream.connect_failed")]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("7", ("7",)),
        ("0", ("1",)),
        ("-1", ("1", "2", "3", "4", "5")),
        ("1000000000", ("300",)),
        ("9" * 60, ("300",)),
        ("Fri, 01 Jan 2100 00:00:00 GMT", ("300",)),
        ("Fri, 01 Jan 1999 00:00:00 GMT", ("1",)),
        ("soon", ("1", "2", "3", "4", "5")),
        ("7" * 7000, ("1", "2", "3", "4", "5")),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a7_retry_after_is_clamped(sent: str, told: tuple[str, ...]) -> None:
    """A5, A7: the provider's waiting time is passed on within 1 to 300 s; what is none is replaced. No retry on 429."""
    async with relay_before(answering("429 Too Many", Retry_After=sent)) as (relay, upstream):
        answer = await attempt(relay)

        assert (429, "rate_limited") == (answer.status, answer.error["code"])
        assert answer.headers["Retry-After"] in told
        assert 1 == upstream.requests


@pytest.mark.parametrize("status", ["500 Error", "502 Bad Gateway", "503 Unavailable", "520 Unknown"])
async def test_a8_trouble_that_passes_is_not_told(status: str) -> None:
    """Once and then well: the caller gets through with one retry."""

    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.answer(status)
        else:
            exchange.upgrade(CREATED)
            await exchange.gone()

    async with relay_before(script) as (relay, upstream):
        assert 101 == (await attempt(relay)).status
        assert 2 == upstream.requests
        assert 1 == relay.metric("realtime_relay_upstream_retries_total", upstream="compatible")


async def test_a9_an_outage_with_two_hundred_clients() -> None:
    """All are told; the dials stay within a tenth above the clients, and the breaker opens."""
    async with relay_before(answering("503 Unavailable"), RELAY_MAX_DIALS="200") as (relay, upstream):
        answers = await asyncio.gather(*(attempt(relay) for _ in range(200)))

        assert {(503, "upstream_overloaded")} == {(answer.status, answer.error["code"]) for answer in answers}
        assert all(1 <= int(answer.headers["Retry-After"]) <= 15 for answer in answers)
        assert upstream.requests <= 1.1 * 200 + 1
        assert 1 == relay.metric("realtime_relay_breaker_open", upstream="compatible")


async def test_a10_the_providers_patience_is_passed_on() -> None:
    """503 with Retry-After is not tried again by the relay, and the caller is told the same time."""
    async with relay_before(answering("503 Unavailable", Retry_After="30")) as (relay, upstream):
        answer = await attempt(relay)

        assert (503, "30", 1) == (answer.status, answer.headers["Retry-After"], upstream.requests)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a11_redirects_are_not_followed(status: str) -> None:
    """The other host gets no connection, so that the key goes nowhere else."""
    async with raw_http(answering("200 OK")) as other:
        target = f"http://127.0.0.1:{other.port}/v1/realtime?model=scripted"
        async with relay_before(answering(status, Location=target)) as (relay, upstream):
            answer = await attempt(relay)

            assert (502, "redirect_refused") == (answer.status, answer.error["code"])
            assert (1, 0) == (upstream.requests, other.connections)


UPGRADE, CONNECTION = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("headers", "accept", "is_good"),
    [
        pytest.param(CONNECTION, "", False, id="A13-no-upgrade"),
        pytest.param(UPGRADE, "", False, id="A13-no-connection"),
        pytest.param(UPGRADE + CONNECTION, "wrong", False, id="A13-accept"),
        pytest.param("Upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n", "", True, id="A14"),
        pytest.param(UPGRADE + "Connection: keep-alive\r\n" + CONNECTION, "", True, id="A14-two-lines"),
        pytest.param(UPGRADE + CONNECTION + "Sec-WebSocket-Extensions: x\r\n", "", False, id="A15-extension"),
        pytest.param(UPGRADE + CONNECTION + "Sec-WebSocket-Protocol: realtime\r\n", "", False, id="A15-protocol"),
        pytest.param(UPGRADE + CONNECTION + "X-Filler: " + "x" * 20_000 + "\r\n", "", False, id="A17-long"),
        pytest.param(UPGRADE + CONNECTION + "X: 1\r\n" * 1000, "", None, id="A17-many"),
        pytest.param(UPGRADE + CONNECTION + "X-Odd: a\x01b\r\n", "", None, id="A17-control"),
    ],
)
async def test_a_101_is_held_to_the_standard(headers: str, accept: str, is_good: bool | None) -> None:
    """A 101 that RFC 6455 forbids is bad_reply; a list in Connection is allowed; odd headers break nothing (None)."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade(CREATED, headers=headers, accept=accept)
        await exchange.gone()

    async with relay_before(script) as (relay, _):
        answer = await attempt(relay)

        if is_good is not None:
            assert (101 if is_good else 502) == answer.status
        if answer.status != 101:
            assert "bad_reply" == answer.error["code"]


async def drip(exchange: Exchange) -> None:
    """A byte now and then, for ever."""
    exchange.writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100000\r\n\r\n")
    while not exchange.writer.is_closing():
        exchange.writer.write(b"x")
        await exchange.writer.drain()
        await asyncio.sleep(0.05)  # the fault itself


async def flood(exchange: Exchange) -> None:
    """A hundred megabytes."""
    exchange.writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        exchange.writer.write(b"x" * 1_000_000)
        await exchange.writer.drain()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip, id="drip"),
        pytest.param(flood, id="flood"),
        pytest.param(answering("401 No", gzip.compress(b"x" * 50_000_000), Content_Encoding="gzip"), id="bomb"),
        pytest.param(answering("401 No", b"\xff\xfe{\x00"), id="not-utf-8"),
        pytest.param(answering("401 No", b"{" * 60_000), id="nested"),
        pytest.param(answering("401 No", b'{"error":7}'), id="not-an-object"),
    ],
)
async def test_a16_whatever_the_body_is_the_status_is_told(script: Script) -> None:
    """A body that is huge, slow, a bomb or rubbish changes nothing, and costs two seconds at the most."""
    async with relay_before(script) as (relay, _):
        async with asyncio.timeout(3):
            answer = await attempt(relay)

        assert (424, "key_rejected") == (answer.status, answer.error["code"])


@pytest.mark.parametrize(
    ("rubbish", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_reply"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "bad_reply"),
        (b"HTTP/1.1 10", "dropped_early"),
        (b"", "dropped_early"),
    ],
)
async def test_what_is_no_http(rubbish: bytes, reason: str) -> None:
    """A18, A19: a banner, TLS, half a status line or nothing: told, with at most one retry of the relay's own."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(rubbish)

    async with relay_before(script) as (relay, upstream):
        answer = await attempt(relay)

        assert 502 == answer.status
        assert answer.error["code"] in {reason, "bad_reply"}
        assert upstream.requests <= 2
