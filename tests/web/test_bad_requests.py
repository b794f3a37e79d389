"""Group G of the fault plan: clients that never finish, requests that are none."""

import asyncio
import base64
import logging
import ssl
import time

import pytest

from tests.support.harness import Relay, open_raw
from tests.support.request_flood import (
    PATH,
    PATIENCE_SECONDS,
    livez_seconds,
    say,
    scene,
    visit,
)

# -- clients that never finish ----------------------------------------------------------------------------------------

HEAD = b"GET /v1/realtime?model=scripted HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 4000
WHOLE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("first", [b"", WHOLE], ids=["first-request", "second-request"])
async def test_g4_headers_byte_by_byte(impatient: dict[str, object], first: bytes) -> None:
    """G4: 50 clients that send a header byte by byte are each cut off in time, and others are served meanwhile."""
    async with scene() as (relay, upstream):
        assert 15 == impatient["keepalive_timeout"]
        drips = [asyncio.ensure_future(drip(relay, first)) for _ in range(50)]
        assert await livez_seconds(relay) < 1
        assert (await visit(relay)).status == 101
        lasted = await asyncio.gather(*drips)

        assert max(lasted) < PATIENCE_SECONDS + 1.5
        assert 1 == upstream.upgrades


async def drip(relay: Relay, first: bytes) -> float:
    """Send a head in bytes until the server has had enough; how long that took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    if first:
        writer.write(first)
        await reader.readuntil(b"ok\n")
    started = time.monotonic()
    end = asyncio.ensure_future(reader.read(-1))
    for byte in HEAD:
        writer.write(bytes((byte,)))
        if (await asyncio.wait({end}, timeout=0.02))[0]:
            break
    assert end.done(), "nobody minded"
    end.exception()
    writer.close()
    return time.monotonic() - started


async def test_g5_silent_connections(impatient: dict[str, object]) -> None:
    """G5: 200 connections on which nothing is said are closed in time, and others are served meanwhile."""
    async with scene() as (relay, _):
        silent = [asyncio.ensure_future(say(relay, b"")) for _ in range(200)]
        await asyncio.sleep(0)
        probes = [await livez_seconds(relay) for _ in range(3)]
        started = time.monotonic()
        answers = await asyncio.gather(*silent)

        assert {b""} == set(answers)
        assert max(probes) < 1
        assert time.monotonic() - started < PATIENCE_SECONDS + 1.5


@pytest.mark.parametrize("path", ["/v1/realtime?model=scripted", "/livez", "/nowhere"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_g6_bodies_without_end(impatient: dict[str, object], method: str, path: str) -> None:
    """G6: a body that never ends is neither waited for nor kept: the answer comes first, and soon the end of the socket."""
    async with scene() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        end = asyncio.ensure_future(reader.read(-1))
        started = time.monotonic()
        while not end.done() and time.monotonic() - started < 5:
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            await asyncio.wait({end}, timeout=0.01)
        writer.close()

        allowed = {"/nowhere": {404}, "/livez": {200, 405}}.get(path, {405, 426})
        assert int(answer.split()[1]) in allowed
        assert end.done()
        end.exception()
        assert 0 == upstream.upgrades


# -- requests that are none -------------------------------------------------------------------------------------------


def upgrade(*lines: str, target: str = PATH, key: str = "AAAAAAAAAAAAAAAAAAAAAA==", version: str = "13") -> bytes:
    """An upgrade with a socket that ends with its answer if it is refused."""
    fixed = ["Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    fixed += [f"Sec-WebSocket-Version: {version}"] if version else []
    fixed += [f"Sec-WebSocket-Key: {key}"] if key else []
    return "\r\n".join([f"GET {target} HTTP/1.1", *fixed, *lines, "", ""]).encode("latin-1")


LARGE = {
    "url": upgrade(target=PATH + "&x=" + "y" * 9000),
    "header": upgrade("X-Long: " + "y" * 9000),
    "headers": upgrade(*(f"X-{n}: y" for n in range(129))),
    "name": upgrade("X" * 9000 + ": y"),
}


@pytest.mark.parametrize("request_bytes", LARGE.values(), ids=LARGE.keys())
async def test_g7_heads_that_are_too_large(request_bytes: bytes) -> None:
    """G7: a URL or header of 9 kB, or 129 headers, are refused with 400, and nobody is dialled."""
    async with scene() as (relay, upstream):
        answer = await say(relay, request_bytes)

        assert b"400" == answer.split()[1]
        assert len(answer) < 500  # it repeats of the request no more than shows what is meant
        assert b"\r\nContent-Type: text/plain" in answer
        assert 0 == upstream.upgrades


@pytest.mark.parametrize("version", ["", "7", "8", "12", "13, 8", "14", "x"])
async def test_g12_other_versions(version: str) -> None:
    """G12: any version but 13 is refused with 426, which names 13."""
    async with scene() as (relay, upstream):
        answer = await visit(relay, {"Sec-WebSocket-Version": version})

        assert 426 == answer.status
        assert ("13", "websocket") == (answer.headers["Sec-WebSocket-Version"], answer.headers["Upgrade"])
        assert "not_a_websocket" == answer.error["code"]
        assert 0 == upstream.upgrades


@pytest.mark.parametrize(
    "key",
    ["", "short", base64.b64encode(b"x" * 15).decode(), base64.b64encode(b"x" * 17).decode(), "<script>alert(1)</script>",
     "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAA\xe9==", "AAAAAAAAAAAAAAAAAAAAAA==, AAAAAAAAAAAAAAAAAAAAAA=="],
)  # fmt: skip
async def test_g13_keys_that_are_none(key: str) -> None:
    """G13: a missing or wrong Sec-WebSocket-Key is refused with 400 in JSON, in which nothing of it is repeated."""
    async with scene() as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH, {"Sec-WebSocket-Key": key})
        await client.close()

        assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
        assert "application/json" in client.answer.headers["Content-Type"]
        assert b"script" not in client.answer.body
        assert 0 == upstream.upgrades


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), {426}, id="plain-get"),
        pytest.param(upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), {426}, id="http-1.0"),
        pytest.param(upgrade().replace(b"GET", b"HEAD"), {405}, id="head"),
        pytest.param(upgrade().replace(b"GET", b"OPTIONS"), {405}, id="options"),
        pytest.param(upgrade().replace(b"GET", b"TRACE"), {405}, id="trace"),
        pytest.param(upgrade().replace(b"GET", b"CONNECT"), {400, 404, 405}, id="connect"),
        pytest.param(upgrade().replace(b"GET", b"POST"), {405}, id="post"),
        pytest.param(upgrade().replace(b"HTTP/1.1", b"HTTP/2.0"), {400, 426}, id="http-2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405}, id="http-2-preface"),
    ],
)
async def test_g14_other_requests(request_bytes: bytes, statuses: set[int]) -> None:
    """G14: what is no upgrade is told so by a status, and nobody is dialled."""
    async with scene() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(request_bytes)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()

        assert int(head.split()[1]) in statuses
        assert 0 == upstream.upgrades


async def test_g15_tls_on_the_plain_port(caplog: pytest.LogCaptureFixture) -> None:
    """G15: a TLS handshake on the plain port is refused or cut off; at most its kind is logged, and nobody is warned."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="relay.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    with caplog.at_level(logging.DEBUG):
        async with scene() as (relay, upstream):
            lines = len(relay.logs)
            answer = await say(relay, hello)

            assert answer.split()[1:2] in ([], [b"400"])
            assert lines == len(relay.logs)
            assert 0 == upstream.upgrades
    told = {(record.levelno, record.getMessage()) for record in caplog.records if record.levelno > logging.DEBUG}
    assert told <= {(logging.INFO, "bad request: BadHttpMethod")}
