"""Upstream refuses the upgrade with an HTTP status, or its answer is not HTTP."""

import asyncio
import gzip
import zlib
from collections.abc import Callable

import pytest

from tests.support.harness import taking_less_than
from tests.support.raw_http_relay import connect_once, failure_count, raw_http_relay
from tests.support.raw_http_server import Exchange, Script, answering, raw_http
from tests.support.raw_websocket_server import CREATED

MASKED = b'{"error":{"type":"invalid_request_error","code":"invalid_api_key","message":"Incorrect: sk-sim-g********CANARY5"}}'


def error(code: str) -> bytes:
    """The body of a refusal with this error code."""
    return f'{{"error":{{"type":"invalid_request_error","code":"{code}","message":"CANARY provider text"}}}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "expected", "reason"),
    [
        pytest.param("401 Unauthorized", MASKED, 424, "key_rejected", id="401-masked-key"),
        pytest.param("403 Forbidden", b"", 424, "blocked_before_api", id="403"),
        pytest.param("400 Bad Request", error("model_not_found"), 404, "model_not_found", id="400-model"),
        pytest.param("404 Not Found", error("model_not_found"), 404, "model_not_found", id="404-model"),
        pytest.param("402 Payment Required", b"", 424, "quota_exhausted", id="402"),
        pytest.param("429 Too Many", error("insufficient_quota"), 424, "quota_exhausted", id="429-quota"),
        pytest.param("451 Unavailable", b"", 424, "region_blocked", id="451"),
        pytest.param("200 OK", b"<html>Welcome to our hotel</html>", 502, "bad_reply", id="200-captive-portal"),
        pytest.param("204 No Content", b"", 502, "bad_reply", id="204"),
        pytest.param("418 Teapot", b"", 502, "bad_reply", id="418"),
    ],
)
async def test_refused_upgrade_maps_to_reason_without_retry(
    status: str, body: bytes, expected: int, reason: str
) -> None:
    """A failure that only the operator can fix is 424 for the client, whatever the status of the provider."""
    async with raw_http_relay(answering(status, body)) as (relay, upstream):
        answer = await connect_once(relay)

        assert (expected, reason) == (answer.status, answer.error["code"])
        assert int(status[:3]) == answer.error["upstream_status"]
        assert 1 == upstream.requests
        known = status[:3] if status[:3] in {"401", "403", "400", "404", "402", "429", "451", "200"} else "other_http"
        assert 1 == failure_count(relay, reason, known)
        assert [reason] == [line["reason"] for line in relay.events("upstream.connect_failed")]


@pytest.mark.parametrize(
    ("sent", "expected"),
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
async def test_retry_after_is_limited_to_300_seconds_and_429_is_not_retried(
    sent: str, expected: tuple[str, ...]
) -> None:
    """A value that cannot be parsed is replaced by the relay's own, with jitter."""
    async with raw_http_relay(answering("429 Too Many", Retry_After=sent)) as (relay, upstream):
        answer = await connect_once(relay)

        assert (429, "rate_limited") == (answer.status, answer.error["code"])
        assert answer.headers["Retry-After"] in expected
        assert 1 == upstream.requests


@pytest.mark.parametrize("status", ["500 Error", "502 Bad Gateway", "503 Unavailable", "520 Unknown"])
async def test_dial_retries_once_after_5xx(status: str) -> None:
    """The client gets its session and does not notice the first attempt."""

    async def script(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.answer(status)
        else:
            exchange.upgrade(CREATED)
            await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, upstream):
        assert 101 == (await connect_once(relay)).status
        assert 2 == upstream.requests
        assert 1 == relay.metric("realtime_relay_upstream_retries_total", upstream="compatible")


async def test_outage_with_two_hundred_clients_opens_the_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client gets 503, and retries add at most a tenth to the dials."""
    # On a busy machine the dials take longer than the second for which the breaker opens, and longer than the usual timeout.
    settings = {"RELAY_MAX_DIALS": "400", "RELAY_DIAL_TIMEOUT_SECONDS": "120"}
    async with raw_http_relay(answering("503 Unavailable"), **settings) as (relay, upstream):
        now = asyncio.get_running_loop().time()
        monkeypatch.setattr(relay.app.connector.breaker, "_clock", lambda: now)
        answers = await asyncio.gather(*(connect_once(relay) for _ in range(200)))

        assert {(503, "upstream_overloaded")} == {(answer.status, answer.error["code"]) for answer in answers}
        assert all(1 <= int(answer.headers["Retry-After"]) <= 15 for answer in answers)
        assert upstream.requests <= 1.1 * 200 + 1
        assert 1 == relay.metric("realtime_relay_breaker_open", upstream="compatible")


async def test_503_with_retry_after_is_passed_on_without_retry() -> None:
    """The client gets the value of the provider."""
    async with raw_http_relay(answering("503 Unavailable", Retry_After="30")) as (relay, upstream):
        answer = await connect_once(relay)

        assert (503, "30", 1) == (answer.status, answer.headers["Retry-After"], upstream.requests)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_redirect_is_not_followed(status: str) -> None:
    """The other host gets no connection, and so no key."""
    async with raw_http(answering("200 OK")) as other:
        target = f"http://127.0.0.1:{other.port}/v1/realtime?model=scripted"
        async with raw_http_relay(answering(status, Location=target)) as (relay, upstream):
            answer = await connect_once(relay)

            assert (502, "redirect_refused") == (answer.status, answer.error["code"])
            assert (1, 0) == (upstream.requests, other.connections)


UPGRADE, CONNECTION = "Upgrade: websocket\r\n", "Connection: Upgrade\r\n"


@pytest.mark.parametrize(
    ("headers", "accept", "is_good"),
    [
        pytest.param(CONNECTION, "", False, id="no-upgrade"),
        pytest.param(UPGRADE, "", False, id="no-connection"),
        pytest.param(UPGRADE + CONNECTION, "wrong", False, id="wrong-accept"),
        pytest.param("Upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\n", "", True, id="connection-list"),
        pytest.param(UPGRADE + "Connection: keep-alive\r\n" + CONNECTION, "", True, id="connection-on-two-lines"),
        pytest.param(UPGRADE + CONNECTION + "Sec-WebSocket-Extensions: x\r\n", "", False, id="extension"),
        pytest.param(UPGRADE + CONNECTION + "Sec-WebSocket-Protocol: realtime\r\n", "", False, id="subprotocol"),
        pytest.param(UPGRADE + CONNECTION + "X-Filler: " + "x" * 20_000 + "\r\n", "", True, id="long-header"),
        pytest.param(UPGRADE + CONNECTION + "X: 1\r\n" * 1000, "", None, id="many-headers"),
        pytest.param(UPGRADE + CONNECTION + "X-Odd: a\x01b\r\n", "", None, id="control-character"),
    ],
)
async def test_101_that_violates_rfc_6455_is_bad_reply(headers: str, accept: str, is_good: bool | None) -> None:
    """`is_good` None: the response may be accepted or refused as bad_reply."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade(CREATED, headers=headers, accept=accept)
        await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, _):
        answer = await connect_once(relay)

        if is_good is not None:
            assert (101 if is_good else 502) == answer.status
        if answer.status != 101:
            assert "bad_reply" == answer.error["code"]


async def drip(exchange: Exchange) -> None:
    """Send the body one byte at a time, forever."""
    exchange.writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100000\r\n\r\n")
    while not exchange.writer.is_closing():
        exchange.writer.write(b"x")
        await exchange.writer.drain()
        await asyncio.sleep(0.05)  # the fault itself


async def flood(exchange: Exchange) -> None:
    """Send a body of a hundred megabytes."""
    exchange.writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        exchange.writer.write(b"x" * 1_000_000)
        await exchange.writer.drain()


async def bomb(exchange: Exchange) -> None:
    """Send a body that grows a thousandfold."""
    exchange.answer("401 No", gzip.compress(b"x" * 50_000_000), Content_Encoding="gzip")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(drip, id="drip"),
        pytest.param(flood, id="flood"),
        pytest.param(bomb, id="bomb"),
        pytest.param(answering("401 No", gzip.compress(error("x" * 80_000)), Content_Encoding="gzip"), id="large"),
        pytest.param(answering("401 No", b"\xff\xfe{\x00"), id="not-utf-8"),
        pytest.param(answering("401 No", b"{" * 60_000), id="nested"),
        pytest.param(answering("401 No", b'{"error":7}'), id="not-an-object"),
    ],
)
async def test_refusal_with_a_hostile_body_is_reported_by_its_status(script: Script) -> None:
    """Reading the body is limited in size and time; without an error object of the API no key is blamed."""
    async with raw_http_relay(script) as (relay, _):
        async with taking_less_than(3):
            answer = await connect_once(relay)

        assert (424, "blocked_before_api") == (answer.status, answer.error["code"])


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("gzip", bytes)])
async def test_compressed_refusal_keeps_its_reason(coding: str, compress: Callable[[bytes], bytes]) -> None:
    """A gateway may compress although the request accepts only `identity`, or only say so."""
    script = answering("401 Unauthorized", compress(error("invalid_api_key")), Content_Encoding=coding)
    async with raw_http_relay(script) as (relay, _):
        answer = await connect_once(relay)

        assert (424, "key_rejected") == (answer.status, answer.error["code"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_reply"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "bad_reply"),
        (b"HTTP/1.1 10", "dropped_early"),
        (b"", "dropped_early"),
    ],
)
async def test_answer_that_is_not_http_is_reported(data: bytes, reason: str) -> None:
    """An SSH banner, TLS, part of a status line or an immediate end of the stream cause at most one retry."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(data)

    async with raw_http_relay(script) as (relay, upstream):
        answer = await connect_once(relay)

        assert 502 == answer.status
        assert answer.error["code"] in {reason, "bad_reply"}
        assert upstream.requests <= 2


async def test_rejected_requests_of_one_client_do_not_stop_the_dials_of_others() -> None:
    """A 400 of the provider may be the answer to the query of one client, however often the client repeats it."""
    async with raw_http_relay(answering("400 Bad Request", error("unknown_parameter"))) as (relay, upstream):
        for number in range(1, 8):
            answer = await connect_once(relay)

            assert "request_rejected" == answer.error["code"]
            assert number == upstream.requests
