"""Malformed JSON, and upgrade requests that two servers could parse differently, over real sockets."""

import asyncio

import pytest

from service.realtime.frames import Opcode, build_frame
from tests.support.harness import eventually, taking_less_than, within
from tests.support.raw_frames import KEY, VALID_FRAME, head, recorded_relay


def nested_json(depth: int) -> bytes:
    """JSON nested deeper than a recursive parser can follow."""
    return b"[" * depth + b"]" * depth


CLIENT_EVENTS = {
    "nested": b'{"type":"session.update","x":' + nested_json(100_000) + b"}",
    "nan": b'{"type":"session.update","x":NaN,"y":-Infinity,"z":1e999}',
    "twice": b'{"type":"session.update","type":"response.create","\\u0074ype":"error"}',
    "many": b'{"type":"session.update"' + b"".join(b',"k%d":%d' % (n, n) for n in range(60_000)) + b"}",
    "digits": b'{"type":"session.update","x":' + b"9" * 100_000 + b"}",
    "no-json": b'{"type":"session.update"',
    "nul": b"\x00" * 1000,
}
SERVER_EVENTS = {
    "nested": b'{"type":"error","error":' + nested_json(32_000) + b"}",
    "digits": b'{"type":"error","error":{"code":' + b"9" * 60_000 + b"}}",
    "wrong-types": b'{"type":"error","error":{"type":[],"code":{},"message":1}}',
    "response": b'{"type":"response.done","response":{"status":"failed","status_details":{"error":[]}}}',
    "limits": b'{"type":"rate_limits.updated","rate_limits":[1,{"name":[],"remaining":NaN},{"remaining":-1e999}]}',
    "no-json": b'{"type":"error","error":{',
    "no-text": b'{"type":"error","error":{"message":"\xff"}}',
}


@pytest.mark.parametrize("payload", CLIENT_EVENTS.values(), ids=CLIENT_EVENTS.keys())
async def test_malformed_client_json_is_forwarded_unparsed(payload: bytes) -> None:
    """Within a second: the relay parses nothing of it."""
    sent = build_frame(Opcode.TEXT, payload, KEY)
    async with recorded_relay() as recorded:
        client, record = await recorded.open()
        async with taking_less_than(1):
            client.writer.write(sent)
            await eventually(lambda: len(record.data) == len(sent))

        assert sent == record.data


@pytest.mark.parametrize("payload", SERVER_EVENTS.values(), ids=SERVER_EVENTS.keys())
async def test_malformed_upstream_json_is_forwarded_unchanged(payload: bytes) -> None:
    """Events that the relay parses and cannot; the session goes on."""
    async with recorded_relay() as recorded:
        client, record = await recorded.open()
        record.connection.send(payload)

        assert build_frame(Opcode.TEXT, payload) == await client.next_item()
        record.connection.send(b'{"type":"session.updated"}')
        assert "session.updated" == (await client.next_event())["type"]
        assert not recorded.relay.events("session.failed")


SMUGGLED = {
    "both-lengths": head("Host: localhost", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "two-lengths": head("Host: localhost", "Content-Length: 3", "Content-Length: 4") + b"abcd",
    "odd-length": head("Host: localhost", "Content-Length: +3") + b"abc",
    "two-hosts": head("Host: localhost", "Host: localhost"),
    "bare-lf": head("Host: localhost", end="\n"),
    "folded": head("Host: localhost", "X-A: b\r\n c"),
    "blank-before-colon": head("Host : x"),
}


@pytest.mark.parametrize("request_bytes", SMUGGLED.values(), ids=SMUGGLED.keys())
async def test_ambiguous_request_is_refused_with_400(request_bytes: bytes) -> None:
    """Two servers could parse it differently (request smuggling). Nothing is dialled."""
    async with recorded_relay() as recorded:
        reader, writer = await asyncio.open_connection("127.0.0.1", recorded.relay.app.public_port)
        writer.write(request_bytes)
        answer = await within(reader.read(4096), 5)
        writer.close()
        await writer.wait_closed()

        assert b"400" == answer.split()[1]
        assert 0 == recorded.upstream.upgrades


@pytest.mark.parametrize(
    ("header", "body"),
    [("Content-Length: 5", b"hello"), ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")],
    ids=["length", "chunked"],
)
async def test_body_of_an_upgrade_is_not_parsed_as_frames(header: str, body: bytes) -> None:
    """The bytes behind the body are."""
    async with recorded_relay() as recorded:
        reader, writer = await asyncio.open_connection("127.0.0.1", recorded.relay.app.public_port)
        writer.write(head("Host: localhost", header) + body + VALID_FRAME)
        answer = await within(reader.readuntil(b"\r\n\r\n"), 5)

        assert b"101" == answer.split()[1]
        await eventually(lambda: VALID_FRAME == recorded.records[-1].data)
        writer.close()
        await writer.wait_closed()
