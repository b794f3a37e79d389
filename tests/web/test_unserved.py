"""What aiohttp would refuse by itself: other protocols, malformed HTTP, wrong paths and methods. Each has a reason."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp.http_exceptions import BadHttpMessage
from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.web.head_limiter import IncompleteHead
from service.web.unserved import (
    foreign_protocol,
    unparsed_request,
)
from tests.support.harness import Relay, eventually, simulated_relay, within
from tests.web.test_invalid_requests import upgrade

CANARY = "CANARY7input"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x05\x00\x50"


async def send(relay: Relay, *pieces: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Send pieces and read to the end; return status, error object and everything that was received."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
    received = await within(reader.read(), 10)
    writer.close()
    body = received.partition(b"\r\n\r\n")[2]
    return int(received.split()[1]), json.loads(body)["error"] if body else {}, received


def rest(target: str, method: str = "GET", *lines: str) -> bytes:
    """A request without an upgrade."""
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode("latin-1")


OTHER_PROTOCOLS = {
    "proxy-v1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n" + upgrade(), "proxy_protocol"),
    "proxy-v1-ipv6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 5 80\r\n" + upgrade(), "proxy_protocol"),
    "proxy-v1-unknown": (b"PROXY UNKNOWN\r\n" + upgrade(), "proxy_protocol"),
    "proxy-v2": (V2 + upgrade(), "proxy_protocol"),
    "proxy-v2-without-request": (V2, "proxy_protocol"),
    # warmcat/libwebsockets#1645
    "proxy-v2-local-of-a-health-check": (V2[:12] + b"\x20\x00\x00\x00", "proxy_protocol"),
    # ahmetb/cloud-run-faq#93
    "http2-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "http_version_refused"),
    "http2-preface-first-half": (b"PRI * HTTP/2.0\r\n\r\n", "http_version_refused"),
    "http2-in-the-request-line": (upgrade().replace(b"HTTP/1.1", b"HTTP/2.0"), "http_version_refused"),
    "http2-without-upgrade": (b"GET /livez HTTP/2.0\r\nHost: localhost\r\n\r\n", "http_version_refused"),
    # home-assistant/core#108533, aio-libs/aiohttp#8065, Chia-Network/pool-reference#186
    "tls-1.3": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, "tls_refused"),
    "tls-in-ssl-2.0-form": (b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10", "tls_refused"),  # aio-libs/aiohttp#7817
    "java-rmi": (b"JRMI\x00\x02K", "bad_request"),  # aio-libs/aiohttp#7817
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_request"),
    "socks5": (b"\x05\x01\x00", "bad_request"),
    "socks4": (b"\x04\x01\x00\x50\x00\x00\x00\x01\x00", "bad_request"),
    "redis": (b"*1\r\n$4\r\nPING\r\n", "bad_request"),
    "frame-without-handshake": (b"\x81\x85abcdabcde", "bad_request"),
    "rdp": (b"\x03\x00\x00\x13\x0e\xe0\x00", "bad_request"),
    "postgres": (b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "bad_request"),
    "text": (CANARY.encode() + b"\r\n\r\n", "bad_request"),
}
MALFORMED = {
    "chunk-size": rest("/v1/realtime", "POST", "Transfer-Encoding: chunked") + b"zz\r\n" + CANARY.encode(),
    "two-content-lengths": rest("/v1/realtime", "POST", "Content-Length: 5", "Content-Length: 6"),
    "length-and-chunked": rest("/v1/realtime", "POST", "Content-Length: 5", "Transfer-Encoding: chunked"),
    "negative-length": rest("/v1/realtime", "POST", "Content-Length: -1"),
    "no-host": b"GET /v1/realtime HTTP/1.1\r\n\r\n",
    "two-user-agents": upgrade("User-Agent: a", "User-Agent: b"),
    "space-in-header-name": upgrade(f"X Y: {CANARY}"),
    "nul-in-header": upgrade(f"X: \x00{CANARY}"),
    "folded-header": upgrade(f"X: a\r\n {CANARY}"),
    "http-3": upgrade().replace(b"HTTP/1.1", b"HTTP/3"),
    "lower-case-method": upgrade().replace(b"GET", b"get"),
    "brackets-in-authority": rest("http://[::1/v1/realtime"),
    "http-0.9": b"GET /livez\r\n\r\n",
    "expect": rest("/livez", "GET", f"Expect: {CANARY}"),
    "expect-not-utf-8": rest("/livez", "GET", "Expect: \x99"),
    "behind-a-request": rest("/livez") + b"\x16\x03\x01" + CANARY.encode() + b"\r\n\r\n",
}


@pytest.mark.parametrize(("sent", "reason"), OTHER_PROTOCOLS.values(), ids=OTHER_PROTOCOLS.keys())
async def test_other_protocol_has_a_reason(sent: bytes, reason: str) -> None:
    """Status, JSON body, count and one log line with the peer; nothing is repeated, no server is named."""
    async with simulated_relay() as relay:
        status, error, received = await send(relay, sent)

        check_refusal(relay, reason, status, error, received)


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_http_is_a_bad_request(sent: bytes) -> None:
    """As `test_other_protocol_has_a_reason`."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(sent)
        received = await within(reader.read(), 10)
        writer.close()
        body = received[received.index(b'{"error"') :]

        check_refusal(relay, "bad_request", 400, json.loads(body)["error"], received)


def check_refusal(relay: Relay, reason: str, status: int, error: dict[str, Any], received: bytes) -> None:
    """All surfaces report the same reason."""
    row = CATALOGUE[reason]
    assert (row.http_status, reason, row.sentence) == (status, error["code"], error["message"])
    assert b"Server:" not in received
    assert b"application/json" in received
    [line] = relay.events("admission.refused")
    action = row.operator_action if error["remedy"] == row.remedy else error["remedy"]
    assert ("127.0.0.1", reason, action, error["session_id"]) == (
        line["address"], line["reason"], line["remedy"], line["session_id"]
    )  # fmt: skip
    assert line["detail"]
    assert 1 == relay.metric("realtime_relay_admissions_total", result=reason)
    assert 1 == relay.metric(
        "realtime_relay_connection_failures_total",
        upstream="compatible", phase="access", status=str(status), reason=reason,
    )  # fmt: skip
    assert CANARY not in received.decode("latin-1") + str(relay.logs)


IN_PIECES = {
    "proxy-v1": "proxy_protocol", "proxy-v1-unknown": "proxy_protocol", "proxy-v2": "proxy_protocol",
    "http2-preface": "http_version_refused", "tls-1.3": "tls_refused", "tls-in-ssl-2.0-form": "tls_refused",
    "ssh": "the client speaks SSH", "socks4": "the client speaks SOCKS 4; the relay is no proxy",
}  # fmt: skip


@pytest.mark.parametrize("split", [1, 2, 3, 4, 5, 6, 11])
@pytest.mark.parametrize("name", IN_PIECES)
async def test_other_protocol_in_pieces_is_named(name: str, split: int) -> None:
    """The first piece may hold less than the signature, and be refused alone."""
    head = OTHER_PROTOCOLS[name][0]
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(head[:split])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(head[split:] + upgrade())
        await within(reader.read(), 10)
        writer.close()

        await eventually(lambda: bool(relay.events("admission.refused")))
        [line] = relay.events("admission.refused")
        assert IN_PIECES[name] in {line["reason"], line["detail"]}


@pytest.mark.parametrize(
    ("first", "exc", "reason"),
    [
        (b"\x16", BadHttpMessage("x"), "tls_refused"),
        (b"\x80", BadHttpMessage("x"), "tls_refused"),
        (b"\x80\x2e\x01", BadHttpMessage("x"), "tls_refused"),
        (b"\x80\x2e\x02", BadHttpMessage("x"), "bad_request"),
        (b"\xc3", BadHttpMessage("x"), "bad_request"),
        (b"PROX", BadHttpMessage("x"), "proxy_protocol"),
        (b"PROX", IncompleteHead(), "proxy_protocol"),
        (b"PRI", IncompleteHead(), "http_version_refused"),
        (b"P", IncompleteHead(), "bad_request"),
        (b"PO", IncompleteHead(), "bad_request"),
        (b"GET /", IncompleteHead(), "bad_request"),
        (b"\r\n\r\n", IncompleteHead(), "bad_request"),
        (b"", None, "bad_request"),
    ],
)
def test_cut_signature_is_named_unless_it_can_begin_a_request(
    first: bytes, exc: BaseException | None, reason: str
) -> None:
    """A connection may end, or its time, within the first bytes."""
    assert reason == unparsed_request(first, exc).reason


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request_are_no_other_protocol(before: bytes) -> None:
    """RFC 9112 section 2.2. They are the first bytes of a PROXY header, too."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(before)
        await writer.drain()
        writer.write(rest("/livez"))
        head = await within(reader.readuntil(b"\r\n\r\n"), 10)
        writer.close()

        assert b"200" == head.split()[1]


async def test_large_body_behind_a_refused_method_does_not_reset_the_answer() -> None:
    """The relay reads on until the client has read its answer."""
    async with simulated_relay() as relay:
        status, error, _ = await send(relay, rest("/v1/realtime", "POST", "Content-Length: 500000") + b"x" * 500_000)

        assert (405, "method_not_allowed") == (status, error["code"])


async def test_log_lines_are_limited_for_each_reason() -> None:
    """All are counted; the log has five lines for each reason."""
    async with simulated_relay() as relay:
        for _ in range(20):
            await send(relay, b"PROXY UNKNOWN\r\n")
        await send(relay, b"\x16\x03\x01\x00")

        reasons = [line["reason"] for line in relay.events("admission.refused")]
        assert [*["proxy_protocol"] * 5, "tls_refused"] == reasons
        assert 20 == relay.metric("realtime_relay_admissions_total", result="proxy_protocol")


@pytest.mark.parametrize("rest_of_body", [b"", b"zz\r\n" + b"x" * 100], ids=["none", "bad-chunk"])
async def test_unfinished_body_does_not_hold_the_connection(rest_of_body: bytes) -> None:
    """The client keeps its side open: the relay ends the connection after it has answered."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(rest("/v1/realtime", "POST", "Transfer-Encoding: chunked"))
        assert b"405" in await within(reader.readuntil(b"\r\n\r\n"), 10)
        writer.write(rest_of_body)
        await within(reader.read(), 10)
        with pytest.raises(ConnectionError):
            await within(write_on(writer), 9)
        writer.close()

        assert ["method_not_allowed"] == [line["reason"] for line in relay.events("admission.refused")]


async def test_silent_peer_behind_a_refusal_is_disconnected() -> None:
    """A peer that neither closes nor reads is disconnected by the relay."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(V2)
        await within(reader.read(), 10)  # the relay's FIN follows its answer
        with pytest.raises(ConnectionError):  # its RST, once it has closed the socket
            await within(write_on(writer), 30)
        writer.close()


async def write_on(writer: asyncio.StreamWriter) -> None:
    """Write until the peer resets the connection."""
    while True:
        writer.write(b"x" * 1000)
        await writer.drain()
        await asyncio.sleep(0.01)


@given(st.binary(max_size=40))
def test_any_first_bytes_have_a_reason_of_the_catalogue(first: bytes) -> None:
    """No input makes the classification raise; a request line is never another protocol."""
    assert unparsed_request(first, None).reason in CATALOGUE
    assert foreign_protocol(b"GET " + first) is None


async def test_client_behind_a_trusted_proxy_is_named() -> None:
    """By X-Forwarded-For, as for requests that are served."""
    async with simulated_relay(RELAY_TRUSTED_PROXIES="127.0.0.1") as relay:
        await send(relay, rest("/nothing", "GET", "X-Forwarded-For: 203.0.113.7"))

        assert ["203.0.113.7"] == [line["address"] for line in relay.events("admission.refused")]


async def test_incomplete_head_is_answered_counted_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over. A connection that sends nothing, as a load balancer's check opens it, is only closed."""
    monkeypatch.setattr("service.web.listener.HEAD_SECONDS", 0.3)
    async with simulated_relay() as relay:
        silent, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        status, error, _ = await send(relay, b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\n")

        assert (400, "bad_request") == (status, error["code"])
        assert "Send the whole head" in error["remedy"]
        assert b"" == await within(silent.read(), 10)
        writer.close()
        assert ["the head is incomplete after 15 s"] == [line["detail"] for line in relay.events("admission.refused")]
        assert 1 == relay.metric("realtime_relay_admissions_total", result="bad_request")
