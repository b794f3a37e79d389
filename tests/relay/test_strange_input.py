"""Group F of the fault plan: strange JSON, and requests smuggled into an upgrade, over real sockets."""

import asyncio
import time

import pytest

from service.realtime.frames import Opcode, build_frame
from tests.support.harness import eventually
from tests.support.raw_frames import KEY, VALID_FRAME, head, recording_relay


def deep(depth: int) -> bytes:
    """JSON that is nested so deep that a recursive parser gives up."""
    return b"[" * depth + b"]" * depth


STRANGE = {
    "nested": b'{"type":"session.update","x":' + deep(100_000) + b"}",
    "nan": b'{"type":"session.update","x":NaN,"y":-Infinity,"z":1e999}',
    "twice": b'{"type":"session.update","type":"response.create","\\u0074ype":"error"}',
    "many": b'{"type":"session.update"' + b"".join(b',"k%d":%d' % (n, n) for n in range(60_000)) + b"}",
    "digits": b'{"type":"session.update","x":' + b"9" * 100_000 + b"}",
    "no-json": b'{"type":"session.update"',
    "nul": b"\x00" * 1000,
}
STRANGE_NEWS = {
    "nested": b'{"type":"error","error":' + deep(32_000) + b"}",
    "digits": b'{"type":"error","error":{"code":' + b"9" * 60_000 + b"}}",
    "wrong-types": b'{"type":"error","error":{"type":[],"code":{},"message":1}}',
    "response": b'{"type":"response.done","response":{"status":"failed","status_details":{"error":[]}}}',
    "limits": b'{"type":"rate_limits.updated","rate_limits":[1,{"name":[],"remaining":NaN},{"remaining":-1e999}]}',
    "no-json": b'{"type":"error","error":{',
    "no-text": b'{"type":"error","error":{"message":"\xff"}}',
}


@pytest.mark.parametrize("payload", STRANGE.values(), ids=STRANGE.keys())
async def test_f16_strange_json_of_a_client(payload: bytes) -> None:
    """F16: what a client sends goes on unread, whatever it says, and holds nobody up."""
    sent = build_frame(Opcode.TEXT, payload, KEY)
    async with recording_relay() as stage:
        client, heard = await stage.open()
        started = time.monotonic()
        client.writer.write(sent)
        await eventually(lambda: len(heard.data) == len(sent))

        assert time.monotonic() - started < 1
        assert sent == heard.data


@pytest.mark.parametrize("payload", STRANGE_NEWS.values(), ids=STRANGE_NEWS.keys())
async def test_f16_strange_json_of_upstream(payload: bytes) -> None:
    """F16: events that the relay reads go on as they are, also where it cannot read them; the session lives."""
    async with recording_relay() as stage:
        client, heard = await stage.open()
        heard.connection.send(payload)

        assert build_frame(Opcode.TEXT, payload) == await client.next_item()
        heard.connection.send(b'{"type":"session.updated"}')
        assert "session.updated" == (await client.next_event())["type"]
        assert not stage.relay.events("session.failed")


SMUGGLED = {
    "both-lengths": head("Host: x", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "two-lengths": head("Host: x", "Content-Length: 3", "Content-Length: 4") + b"abcd",
    "odd-length": head("Host: x", "Content-Length: +3") + b"abc",
    "two-hosts": head("Host: x", "Host: y"),
    "bare-lf": head("Host: x", end="\n"),
    "folded": head("Host: x", "X-A: b\r\n c"),
    "blank-before-colon": head("Host : x"),
}


@pytest.mark.parametrize("request_bytes", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_f15_smuggled_requests(request_bytes: bytes) -> None:
    """F15: a request that two servers could read differently is refused with 400 and goes nowhere."""
    async with recording_relay() as stage:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.relay.app.public_port)
        writer.write(request_bytes)
        answer = await asyncio.wait_for(reader.read(4096), 5)
        writer.close()
        await writer.wait_closed()

        assert b"400" == answer.split()[1]
        assert 0 == stage.upstream.upgrades


@pytest.mark.parametrize(
    ("header", "body"),
    [("Content-Length: 5", b"hello"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")],
    ids=["length", "chunked"],
)
async def test_f15_an_upgrade_with_a_body(header: str, body: bytes) -> None:
    """F15: the body of an upgrade is not taken for frames; what stands behind it is."""
    async with recording_relay() as stage:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.relay.app.public_port)
        writer.write(head("Host: x", header) + body + VALID_FRAME)
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)

        assert b"101" == answer.split()[1]
        await eventually(lambda: VALID_FRAME == stage.heard[-1].data)
        writer.close()
        await writer.wait_closed()
