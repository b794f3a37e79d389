"""Incomplete and invalid requests: slow headers, endless bodies, oversized heads, wrong handshakes, other protocols."""

import asyncio
import base64
import logging
import ssl
import time

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from service.web.request import _query
from tests.support.harness import Relay, open_raw, within
from tests.support.request_flood import (
    PATH,
    REQUEST_TIMEOUT_SECONDS,
    connect_once,
    livez_seconds,
    relay_and_upstream,
    send_raw,
)

# -- incomplete requests ----------------------------------------------------------------------------------------------

SLOW_HEAD = b"GET /v1/realtime?model=scripted HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 4000
COMPLETE_REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize("first", [b"", COMPLETE_REQUEST], ids=["first-request", "second-request"])
async def test_slow_headers_are_disconnected_at_the_timeout(
    short_request_timeout: dict[str, object], first: bytes
) -> None:
    """50 clients send a header byte by byte (slowloris); other requests are served meanwhile."""
    async with relay_and_upstream() as (relay, upstream):
        assert 15 == short_request_timeout["keepalive_timeout"]
        slow = [asyncio.ensure_future(send_head_slowly(relay, first)) for _ in range(50)]
        assert await livez_seconds(relay) < 10
        assert (await connect_once(relay)).status == 101
        durations = await asyncio.gather(*slow)

        assert max(durations) < REQUEST_TIMEOUT_SECONDS + 30  # their heads would take 80 s
        assert 1 == upstream.upgrades


async def send_head_slowly(relay: Relay, first: bytes) -> float:
    """Send a head byte by byte until the server disconnects; return the seconds until then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    if first:
        writer.write(first)
        await reader.readuntil(b"ok\n")
    started = time.monotonic()
    end = asyncio.ensure_future(reader.read(-1))
    for byte in SLOW_HEAD:
        writer.write(bytes((byte,)))
        if (await asyncio.wait({end}, timeout=0.02))[0]:
            break
    assert end.done(), "the server did not disconnect"
    end.exception()
    writer.close()
    return time.monotonic() - started


async def test_silent_connections_are_closed_at_the_timeout(short_request_timeout: dict[str, object]) -> None:
    """200 connections send no byte; probes are answered meanwhile."""
    async with relay_and_upstream() as (relay, _):
        silent = [asyncio.ensure_future(send_raw(relay, b"")) for _ in range(200)]
        await asyncio.sleep(0)
        probes = [await livez_seconds(relay) for _ in range(3)]
        started = time.monotonic()
        answers = await asyncio.gather(*silent)

        assert {b""} == set(answers)
        assert max(probes) < 10
        assert time.monotonic() - started < REQUEST_TIMEOUT_SECONDS + 30


@pytest.mark.parametrize("path", ["/v1/realtime?model=scripted", "/livez", "/nowhere"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_endless_body_is_answered_before_its_end(
    short_request_timeout: dict[str, object], method: str, path: str
) -> None:
    """A chunked body without end is neither awaited nor stored: the response comes first, then the socket is closed."""
    async with relay_and_upstream() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        answer = await within(reader.readuntil(b"\r\n\r\n"), 5)
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


# -- invalid requests ------------------------------------------------------------------------------------------------


def upgrade(*lines: str, target: str = PATH, key: str = "AAAAAAAAAAAAAAAAAAAAAA==", version: str = "13") -> bytes:
    """Build an upgrade request."""
    fixed = ["Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    fixed += [f"Sec-WebSocket-Version: {version}"] if version else []
    fixed += [f"Sec-WebSocket-Key: {key}"] if key else []
    return "\r\n".join([f"GET {target} HTTP/1.1", *fixed, *lines, "", ""]).encode("latin-1")


OVERSIZED = {
    "header": (upgrade("X-Long: " + "y" * 70_000), "headers_too_large"),
    "cookie-of-2-MB": (upgrade("Cookie: " + "y" * 2_000_000), "headers_too_large"),
    "sum-of-headers": (upgrade(*(f"X-{n}: {'y' * 7000}" for n in range(10))), "headers_too_large"),
    "headers": (upgrade(*(f"X-{n}: y" for n in range(129))), "headers_too_large"),
    "name": (upgrade("X" * 70_000 + ": y"), "headers_too_large"),
    "url": (upgrade(target=PATH + "&x=" + "y" * 70_000), "headers_too_large"),
    # ITISFoundation/osparc-simcore#7979
    "query-of-47-kB": (upgrade("Connection: close", target=PATH + "&x=" + "y" * 47_528), "bad_request"),
    "query": (upgrade("Connection: close", target=PATH + "&x=" + "y" * 9000), "bad_request"),
    "parameters": (upgrade("Connection: close", target=PATH + "&yyyy" * 9000), "bad_request"),
    "path": (upgrade(target="/" * 1000 + "y" * 1000), "path_not_found"),
    "slashes": (upgrade(target="/" * 60_000 + "v1/realtime"), "path_not_found"),
}
STATUSES = {"headers_too_large": b"431", "bad_request": b"400", "path_not_found": b"404"}


@pytest.mark.parametrize(("request_bytes", "reason"), OVERSIZED.values(), ids=OVERSIZED.keys())
async def test_oversized_head_is_refused_with_its_reason(request_bytes: bytes, reason: str) -> None:
    """A head over 64 kB, or 129 headers. No upstream is dialled, and the answer repeats no part of the request."""
    async with relay_and_upstream() as (relay, upstream):
        answer = await send_raw(relay, request_bytes)

        assert f'"code": "{reason}"'.encode() in answer
        assert STATUSES[reason] == answer.split()[1]
        assert b"yyyy" not in answer
        assert 0 == upstream.upgrades


async def test_path_of_slashes_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The router would take seconds."""
    resolved: list[object] = []
    monkeypatch.setattr(web.UrlDispatcher, "resolve", lambda _, request: resolved.append(request))
    async with relay_and_upstream() as (relay, _):
        await send_raw(relay, upgrade(target="/" * 60_000))
    assert not resolved


def test_query_that_is_refused_in_any_case_is_not_parsed() -> None:
    """It is read several times, each time for ten milliseconds."""
    assert 6 == len(_query(make_mocked_request("GET", "/?" + "y=&" * 6)))
    assert not _query(make_mocked_request("GET", "/?" + "y=&" * 9000))


ACCEPTED = {
    # Comfy-Org/ComfyUI#5699, mathworks/matlab-proxy#94, kirodotdev/KiroCrew#610
    "header-of-9-kB": upgrade("X-Long: " + "y" * 9000),
    "negotiate-of-12-kB": upgrade("Authorization: Negotiate " + "y" * 12_000),  # aio-libs/aiohttp#833
    "cookie-of-16-kB": upgrade("Cookie: " + "y" * 16_384),
    "cookie-of-60-kB": upgrade("Cookie: " + "y" * 60_000),
    "eight-headers-of-7-kB": upgrade(*(f"X-{n}: {'y' * 7000}" for n in range(8))),
}


@pytest.mark.parametrize("request_bytes", ACCEPTED.values(), ids=ACCEPTED.keys())
async def test_head_below_64_kb_is_accepted(request_bytes: bytes) -> None:
    """Cookies of a single sign-on, and tokens of an identity provider."""
    async with relay_and_upstream() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(request_bytes)
        head = await within(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()

        assert b"101" == head.split()[1]
        assert 1 == upstream.upgrades


@pytest.mark.parametrize("version", ["", "7", "8", "12", "13, 8", "14", "x"])
async def test_websocket_version_other_than_13_is_refused_with_426(version: str) -> None:
    """The response names version 13 (RFC 6455 section 4.4)."""
    async with relay_and_upstream() as (relay, upstream):
        answer = await connect_once(relay, {"Sec-WebSocket-Version": version})

        assert 426 == answer.status
        assert ("13", "websocket") == (answer.headers["Sec-WebSocket-Version"], answer.headers["Upgrade"])
        assert "not_a_websocket" == answer.error["code"]
        assert 0 == upstream.upgrades


@pytest.mark.parametrize(
    "key",
    ["", "short", base64.b64encode(b"x" * 15).decode(), base64.b64encode(b"x" * 17).decode(), "<script>alert(1)</script>",
     "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAA\xe9==", "AAAAAAAAAAAAAAAAAAAAAA==, AAAAAAAAAAAAAAAAAAAAAA=="],
)  # fmt: skip
async def test_invalid_websocket_key_is_refused_with_400(key: str) -> None:
    """The JSON body does not repeat the key."""
    async with relay_and_upstream() as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH, {"Sec-WebSocket-Key": key})
        await client.close()

        assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
        assert "application/json" in client.answer.headers["Content-Type"]
        assert b"script" not in client.answer.body
        assert 0 == upstream.upgrades


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), {426}, id="plain-get"),
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
async def test_request_without_upgrade_is_refused_by_status(request_bytes: bytes, statuses: set[int]) -> None:
    """Other methods and HTTP versions. No upstream is dialled."""
    async with relay_and_upstream() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(request_bytes)
        head = await within(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()

        assert int(head.split()[1]) in statuses
        assert 0 == upstream.upgrades


async def test_tls_handshake_on_the_plain_port_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The relay logs the peer and the reason; aiohttp logs nothing."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="relay.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    with caplog.at_level(logging.DEBUG):
        async with relay_and_upstream() as (relay, upstream):
            answer = await send_raw(relay, hello)

            assert b"400" == answer.split()[1]
            [line] = relay.events("admission.refused")
            assert ("tls_refused", "127.0.0.1") == (line["reason"], line["address"])
            assert 0 == upstream.upgrades
    assert [] == [record for record in caplog.records if record.levelno > logging.DEBUG and "aiohttp" in record.name]
