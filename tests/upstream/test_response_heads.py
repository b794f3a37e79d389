"""Heads of the provider's response that are legal, or nearly: a dial connects, or says what is wrong."""

import asyncio
import base64
import contextlib
import hashlib
import json
from typing import cast

import pytest

from service.realtime.frames import Opcode, build_frame
from service.upstream.response_head import (
    HEADS_TOO_LARGE,
    MAX_BODY_BYTES,
    MAX_INTERIM_RESPONSES,
    SLICE_BYTES,
    LimitedResponseHandler,
)
from tests.support.doctor_chain import tcp_server
from tests.support.harness import open_raw, running_relay
from tests.support.raw_http_relay import connect_once, failure_count, raw_http_relay
from tests.support.raw_http_server import PATH, Exchange, Script
from tests.support.raw_websocket_server import CREATED

OK = "HTTP/1.1 101 Switching Protocols"
LARGE = json.dumps({"type": "session.created", "session": {"instructions": "x" * 200_000}}).encode()


def accepting(line: str, *fields: str, event: bytes = CREATED, pieces: int = 0, end: str = "\r\n") -> Script:
    """A script that sends a 101 with this status line, and an event directly behind it.

    With `pieces`, the first bytes of that number are sent one by one, each as a segment of its own.
    """

    async def script(exchange: Exchange) -> None:
        key = (exchange.header("Sec-WebSocket-Key") or "").encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key, usedforsecurity=False).digest()).decode()
        lines = [line, "Upgrade: websocket", "Connection: Upgrade", *fields, f"Sec-WebSocket-Accept: {accept}", "", ""]
        sent = end.join(lines).encode("utf-8") + build_frame(Opcode.TEXT, event)
        for byte in sent[:pieces]:
            exchange.writer.write(bytes((byte,)))
            await exchange.writer.drain()
            await asyncio.sleep(0)
        exchange.writer.write(sent[pieces:])
        await exchange.wait_closed()

    return script


HEADS = {
    "no-reason-phrase": accepting("HTTP/1.1 101 "),
    "no-space-behind-the-status": accepting("HTTP/1.1 101"),
    "reason-phrase-in-utf-8": accepting("HTTP/1.1 101 Protokollwechsel für WebSockets"),
    "content-length-0": accepting(OK, "Content-Length: 0"),
    "transfer-encoding": accepting(OK, "Transfer-Encoding: chunked"),
    "header-of-9-kB": accepting(OK, "Content-Security-Policy: " + "x" * 9000),
    "cookie-of-16-kB": accepting(OK, "Set-Cookie: c=" + "x" * 16_384),
    "header-of-60-kB": accepting(OK, "Content-Security-Policy: " + "x" * 60_000),
    "header-in-utf-8": accepting(OK, "X-Organization: Müller"),
    "folded-header": accepting(OK, "X-Folded: a\r\n b"),
    "empty-header": accepting(OK, "X-Empty:"),
    "repeated-headers": accepting(OK, "Server: a", "Server: b", "Date: x", "Date: y"),
    "line-feeds-only": accepting(OK, end="\n"),
    "in-pieces-with-a-large-event": accepting("HTTP/1.1 101 ", event=LARGE, pieces=13),
    "at-once-with-a-large-event": accepting("HTTP/1.1 101 ", event=LARGE),
    "in-single-bytes": accepting(OK, pieces=150),
}


@pytest.mark.parametrize("script", HEADS.values(), ids=HEADS.keys())
async def test_legal_101_connects_and_loses_no_byte(script: Script) -> None:
    """The first event arrives unchanged, also if it shares a segment with the head."""
    async with raw_http_relay(script) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)
        event = await client.next_event()
        await client.close()

        assert 101 == client.answer.status
        assert event in (json.loads(CREATED), json.loads(LARGE))


@pytest.mark.parametrize("size", [9000, 16_384, 60_000])
async def test_refusal_with_a_large_header_keeps_its_reason(size: int) -> None:
    """An edge's cookies and policies do not hide the provider's error."""

    async def refuse(exchange: Exchange) -> None:
        exchange.answer("401 Unauthorized", b'{"error":{"code":"invalid_api_key"}}', Set_Cookie="c=" + "x" * size)

    async with raw_http_relay(refuse) as (relay, _):
        answer = await connect_once(relay)

        assert (424, "key_rejected", 401) == (answer.status, answer.error["code"], answer.error["upstream_status"])


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        (accepting(OK, "X-Long: " + "x" * 70_000), "a header of the response is over 64 kB"),
        (accepting(OK, *(f"X-{n}: y" for n in range(150))), "the response has over 128 header lines"),
    ],
    ids=["70-kB", "150-lines"],
)
async def test_response_above_a_limit_is_named(script: Script, detail: str) -> None:
    """The reason is bad_reply, and the log's detail names the limit."""
    async with raw_http_relay(script) as (relay, _):
        answer = await connect_once(relay)

        assert "bad_reply" == answer.error["code"]
        assert [detail] == [line["detail"] for line in relay.events("upstream.connect_failed")]
        assert 1 == failure_count(relay, "bad_reply", "none")


async def answer_through_proxy(sent: bytes) -> tuple[str, set[str]]:
    """The code of the client's error, and the details in the log, where a proxy answers CONNECT with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await reader.read()

    async with (
        tcp_server(answer) as port,
        running_relay(
            OPENAI_BASE_URL="https://relay-test.invalid/v1", RELAY_UPSTREAM_PROXY=f"http://127.0.0.1:{port}"
        ) as relay,
    ):
        answered = await connect_once(relay)
        return answered.error["code"], {line["detail"] for line in relay.events("upstream.connect_failed")}


async def test_proxy_with_a_large_header_is_named() -> None:
    """The limit of aiohttp for the answer to CONNECT cannot be raised; the reason says so instead of that it is no proxy."""
    code, details = await answer_through_proxy(b"HTTP/1.1 200 OK\r\nSet-Cookie: c=" + b"x" * 9000 + b"\r\n\r\n")

    assert "proxy_failed" == code
    assert "a header of the proxy's answer is over 8 kB" in details


FLOODS = {
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\n",
    "interim responses with headers": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    "large interim responses": b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 60_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_flood_before_the_response_is_bounded(flood: str) -> None:
    """The dial fails at the limit: nearly all of the flood is unread when the socket is closed."""
    block = FLOODS[flood] * (65_536 // len(FLOODS[flood]))
    blocks, sent = 400, 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        with contextlib.suppress(ConnectionError):
            for _ in range(blocks):
                exchange.writer.write(block)
                await exchange.writer.drain()
                sent += 1
        await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, _):
        answer = await connect_once(relay)

        assert (502, "bad_reply") == (answer.status, answer.error["code"])
        [line] = relay.events("upstream.connect_failed")
        assert HEADS_TOO_LARGE == line["detail"]
    assert 0 < sent < blocks


class FakeTransport:
    """Records whether it is read."""

    is_reading = True

    def get_extra_info(self, _: str) -> None:
        """Called for the socket."""

    def pause_reading(self) -> None:
        """Called to stop reading."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """Called to go on."""
        self.is_reading = True


async def test_body_of_small_chunks_is_parsed_in_slices_up_to_a_limit() -> None:
    """One read of 256 KiB in chunks of a byte would hold up the event loop for 170 ms."""
    handler, transport = LimitedResponseHandler(asyncio.get_running_loop()), FakeTransport()
    handler.connection_made(cast("asyncio.Transport", transport))
    handler.set_response_params(auto_decompress=False)
    handler.data_received(b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n")
    _, body = await handler.read()
    chunk = b"1\r\nx\r\n"
    handler.data_received(chunk * (262_144 // len(chunk)))
    parsed = [len(body.read_nowait())]
    while not transport.is_reading:
        await asyncio.sleep(0)
        parsed.append(len(body.read_nowait()))
    assert max(parsed) <= SLICE_BYTES // len(chunk) + 1
    handler.data_received(chunk * 10_000)
    assert sum(parsed) * len(chunk) in range(MAX_BODY_BYTES - len(chunk), MAX_BODY_BYTES + 1)
    assert not body.read_nowait()
    assert not transport.is_reading


async def test_few_interim_responses_are_legal() -> None:
    """Sixteen of them, as a server may send 103 for each hint."""

    async def script(exchange: Exchange) -> None:
        exchange.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * MAX_INTERIM_RESPONSES)
        exchange.upgrade(CREATED)
        await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, _):
        assert 101 == (await connect_once(relay)).status


def fragment(payload: bytes, opcode: Opcode = Opcode.CONTINUATION) -> bytes:
    """A frame that does not end its message."""
    frame = build_frame(opcode, payload)
    return bytes((frame[0] & 0x7F,)) + frame[1:]


EVENT_FLOODS = {
    "large-fragments": (fragment(b'{"a":[', Opcode.TEXT), fragment(b"x" * 60_000)),
    "fragments-of-a-text": (fragment(b"x", Opcode.TEXT), fragment(b"x")),
    "fragments-of-an-object": (fragment(b"{", Opcode.TEXT), fragment(b" ")),
    "empty-binary-fragments": (fragment(b"x", Opcode.BINARY), fragment(b"")),
    "empty-messages": (b"", build_frame(Opcode.TEXT, b"")),
}


@pytest.mark.parametrize(("first", "piece"), EVENT_FLOODS.values(), ids=EVENT_FLOODS.keys())
async def test_endless_first_event_is_bounded(first: bytes, piece: bytes) -> None:
    """A dial without an event type fails once a mebibyte is held, in which small frames count as what they cost."""
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        exchange.upgrade()
        exchange.writer.write(first)
        block = piece * (65_536 // len(piece))
        while True:  # until the relay disconnects, which raises ConnectionError
            exchange.writer.write(block)
            await exchange.writer.drain()
            sent += len(block)

    async with raw_http_relay(script, RELAY_DIAL_TIMEOUT_SECONDS="30") as (relay, _):
        answer = await connect_once(relay)

        assert (502, "bad_reply") == (answer.status, answer.error["code"])
    assert sent < 64_000_000


async def test_interim_responses_of_a_proxy_are_named_as_its_own() -> None:
    """They come before its answer to CONNECT."""
    code, details = await answer_through_proxy(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)

    assert "proxy_failed" == code
    assert f"the proxy's answer to CONNECT: {HEADS_TOO_LARGE}" in details
