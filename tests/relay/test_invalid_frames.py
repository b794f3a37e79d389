"""Frames that no library would send, over real sockets: violations of RFC 6455, huge lengths, endless fragments."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import parse_close
from service.realtime.frames import Opcode, build_frame
from tests.support.frame_reader import FrameReader
from tests.support.harness import eventually, running_relay, taking_less_than
from tests.support.raw_frames import CLOSE_BYTES, KEY, NEXT_FRAME, VALID_FRAME, frame, head, recorded_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream
from tests.support.reference_decoder import decode


def resident_bytes() -> int:
    """The resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


FORBIDDEN = [
    pytest.param([build_frame(Opcode.TEXT, b"{}")], id="unmasked"),
    pytest.param([build_frame(Opcode.PING, b"")], id="unmasked-ping"),
    pytest.param([frame(0x80 | opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)], id="opcodes"),
    pytest.param([frame(opcode) for opcode in (3, 7, 11, 15)], id="opcodes-of-fragments"),
    pytest.param([frame(0x81 | rsv, b"{}") for rsv in range(0x10, 0x80, 0x10)], id="reserved-bits"),
    pytest.param([frame(0x89 | rsv) for rsv in (0x10, 0x20, 0x40)], id="reserved-bits-of-pings"),
    pytest.param([frame(opcode) for opcode in (0x08, 0x09, 0x0A)], id="fragmented-control"),
    pytest.param([frame(opcode, b"x" * 126) for opcode in (0x88, 0x89, 0x8A)], id="long-control"),
    pytest.param([frame(0x80, b"x"), frame(0x00, b"x")], id="continuation-without-start"),
    pytest.param([frame(0x01) + frame(opcode, b"x") for opcode in (0x01, 0x81, 0x02, 0x82)], id="message-inside-a-message"),
    pytest.param([frame(0xC1, b"\xaa\x56\x4a\xcd\xc9\x57\x2a\xa9\x2c\x48\x55\xaa\x05\x00")], id="compressed"),
    pytest.param([b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"], id="pipelined-request"),
    pytest.param([b"\x81\xfe\x00\x7d" + KEY + b"x" * 125, b"\x81\xff" + bytes(6) + b"\xff\xff" + KEY], id="long-lengths"),
]  # fmt: skip


@pytest.mark.parametrize("frames", FORBIDDEN)
async def test_forbidden_frame_closes_with_1002(frames: list[bytes]) -> None:
    """Upstream receives the frame before it, and nothing of the forbidden frame or behind it."""
    async with recorded_relay() as recorded:
        for forbidden in frames:
            client, record = await recorded.open()
            client.writer.write(VALID_FRAME + forbidden + NEXT_FRAME)

            assert (1002, CATALOGUE["client_protocol_error"].close_text) == await client.until_close()
            await record.finished.wait()
            assert (VALID_FRAME, (1001, "")) == (bytes(record.data), record.close)
            assert len(record.raw) == len(VALID_FRAME) + CLOSE_BYTES
            await client.close()
        await eventually(lambda: len(frames) == len(recorded.relay.events("session.ended")))
        assert {"client_protocol_error"} == {line["reason"] for line in recorded.relay.events("session.ended")}


INVALID_UTF8 = {
    "invalid": b"\xff\xfe",
    "overlong": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond": b"\xf4\x90\x80\x80",
    "cut": b"\xe4\xb8",
}


@pytest.mark.parametrize("text", INVALID_UTF8.values(), ids=INVALID_UTF8.keys())
@pytest.mark.parametrize("is_split", [False, True])
async def test_invalid_utf8_is_forwarded_to_the_endpoint(text: bytes, *, is_split: bool) -> None:
    """The relay does not check text; the 1007 of upstream reaches the client."""
    sent = frame(0x01, text[:1]) + frame(0x80, text[1:]) if is_split else frame(0x81, text)
    async with recorded_relay() as recorded:
        client, record = await recorded.open()
        client.writer.write(sent)
        await eventually(lambda: len(record.data) == len(sent))
        record.connection.send_close(1007, "invalid UTF-8")

        assert (1007, "invalid UTF-8") == await client.until_close()
        assert sent == record.data


@pytest.mark.parametrize("length", [(1 << 24) + 1, 1 << 62, (1 << 63) + 5, (1 << 64) - 1])
async def test_huge_declared_length_is_refused_before_its_payload(length: int) -> None:
    """With 1009; no memory is allocated for it."""
    async with recorded_relay() as recorded:
        client, record = await recorded.open()
        before = resident_bytes()
        async with taking_less_than(1):
            client.writer.write(b"\x82\xff" + length.to_bytes(8, "big"))  # the mask is missing, too

            error = (await client.next_event())["error"]
            assert "message_too_big" == error["code"]
            assert f"has at least {length:,} bytes; the limit is 16,777,216 bytes" in error["remedy"]
            assert "shrink or compress pictures" in error["remedy"]
            assert (1009, CATALOGUE["message_too_big"].close_text) == await client.until_close()
        assert resident_bytes() - before < 4 << 20
        await record.finished.wait()
        assert (b"", (1001, "")) == (bytes(record.data), record.close)


async def test_hundred_thousand_fragments_are_forwarded_unchanged() -> None:
    """One message in fragments of one byte; the relay buffers little of it."""
    sent = frame(0x02, b"a") + frame(0x00, b"b") * 99_998 + frame(0x80, b"c")
    async with recorded_relay(RELAY_MAX_MESSAGES_PER_SECOND="0") as recorded:
        client, record = await recorded.open()
        before = resident_bytes()
        for at in range(0, len(sent), 50_000):
            client.writer.write(sent[at : at + 50_000])
            await client.writer.drain()
        await eventually(lambda: len(record.data) == len(sent), 10)

        assert sent == record.data
        assert resident_bytes() - before < 16 << 20  # including the test's own copies
        client.writer.close()
        await eventually(lambda: bool(recorded.relay.events("session.ended")))
        assert 1 == recorded.relay.events("session.ended")[0]["client_to_upstream_messages"]


@pytest.mark.parametrize(
    ("size", "reason", "settings"),
    [
        (0, "idle_timeout", {"RELAY_IDLE_TIMEOUT_SECONDS": "0.3"}),
        (1, "message_too_big", {"RELAY_MAX_MESSAGE_BYTES": "65536"}),
        (1000, "message_too_big", {"RELAY_MAX_MESSAGE_BYTES": "65536"}),
    ],
)
async def test_endless_fragments_end_the_session(size: int, reason: str, settings: dict[str, str]) -> None:
    """With 1009 at the limit on messages; empty ones with 1001 at the idle timeout, since no message is completed."""
    fragment = frame(0x00, b"x" * size)
    async with recorded_relay(RELAY_MAX_MESSAGES_PER_SECOND="0", **settings) as recorded:
        client, record = await recorded.open()
        client.writer.write(frame(0x01))
        close = asyncio.ensure_future(client.until_close())
        while not close.done():
            client.writer.write(fragment * 1000)
            await asyncio.wait({close}, timeout=0.001)
        client.writer.close()
        await record.finished.wait()

        assert (CATALOGUE[reason].close_code, CATALOGUE[reason].close_text) == close.result()
        assert size * (len(record.data) // len(fragment)) <= 65_536
        assert (1001, "") == record.close


@pytest.mark.parametrize("length", [60_000, 200_000])
async def test_message_sent_byte_by_byte_counts_as_idle(length: int) -> None:
    """The session ends also inside a frame that is being streamed."""
    async with recorded_relay(RELAY_IDLE_TIMEOUT_SECONDS="0.3") as recorded:
        client, record = await recorded.open()
        client.writer.write(frame(0x81, b"x" * length)[:20_000])
        close = asyncio.ensure_future(client.until_close())
        while not close.done():
            client.writer.write(b"x")
            await asyncio.wait({close}, timeout=0.01)

        assert (1001, CATALOGUE["idle_timeout"].close_text) == close.result()
        await record.finished.wait()
        # A part of the streamed frame has been forwarded, so that no close frame can be sent behind it.
        assert ((1001, "") if length == 60_000 else None) == record.close


def close_payloads() -> Iterator[bytes]:
    """A sample of payloads of close frames; tests/realtime checks all codes."""
    reasons = (b"", b"going", b"x" * 123, "\u00e9".encode() * 61, b"\xff", b"\xe4\xb8")
    codes = (0, 999, 1000, 1003, 1004, 1005, 1006, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65_535)
    yield b"\x03"
    for number, code in enumerate(codes):
        yield code.to_bytes(2, "big")
        yield code.to_bytes(2, "big") + reasons[number % len(reasons)]
        yield code.to_bytes(2, "big") + reasons[(number + 3) % len(reasons)]


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_close_frames_are_echoed_and_forwarded_if_valid(side: str) -> None:
    """An invalid one is answered with 1002 or 1007."""
    async with recorded_relay() as recorded:
        for payload in close_payloads():
            client, record = await recorded.open()
            closer = client if side == "client" else record.connection
            closer.writer.write(build_frame(Opcode.CLOSE, payload, KEY if side == "client" else b""))
            client_close = await client.until_close()
            await record.finished.wait()
            await client.close()

            assert client_close is not None, payload
            assert record.close is not None, payload
            echoed, forwarded = (client_close, record.close) if side == "client" else (record.close, client_close)
            decoded = decode(build_frame(Opcode.CLOSE, payload), masked=False, limit=0)
            if decoded.violation is not None:
                assert decoded.violation[1] == echoed[0], payload
                assert forwarded[0] == (1001 if side == "client" else 1011), payload
            else:  # some libraries fail on 1014, which is not forwarded
                code, reason = parse_close(payload)
                code = 1011 if code == 1014 else code
                assert ((code, ""), (code, reason)) == (echoed, forwarded), payload


async def test_compression_offer_is_declined() -> None:
    """The 101 names no extension; uncompressed frames are forwarded."""
    async with recorded_relay() as recorded:
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits, permessage-deflate"}
        client, record = await recorded.open(offer)
        client.writer.write(VALID_FRAME)
        await eventually(lambda: bool(record.data))

        assert "Sec-WebSocket-Extensions" not in client.answer.headers
        assert VALID_FRAME == record.data


async def test_binary_frames_are_forwarded_unchanged() -> None:
    """In both directions; they are counted as events of type `other`."""
    up, down = frame(0x82, bytes(range(256))), build_frame(Opcode.BINARY, os.urandom(300))
    async with recorded_relay() as recorded:
        client, record = await recorded.open()
        client.writer.write(up)
        record.connection.writer.write(down)

        assert down == await client.next_item()
        await eventually(lambda: len(record.data) == len(up))
        assert up == record.data
        for direction in ("client_to_upstream", "upstream_to_client"):
            assert 1 == recorded.relay.metric("realtime_relay_events_total", direction=direction, type="other")


async def test_frames_sent_before_the_101_wait_in_the_client() -> None:
    """Most of 12 MB stays in the client's socket; all of it arrives in order."""
    early = b"".join(build_frame(Opcode.BINARY, n.to_bytes(4, "big") * 10_000, KEY) for n in range(300))
    answer_now, received = asyncio.Event(), bytearray()

    async def script(connection: ServerConnection) -> None:
        await answer_now.wait()
        connection.send(CREATED)
        received.extend(await FrameReader(connection).read(len(early)))
        await connection.wait_closed()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(head("Host: localhost") + early)
        waiting = [writer.transport.get_write_buffer_size()]
        while len(waiting) < 10 or len(set(waiting[-10:])) > 1:  # until the relay reads no more of it
            await asyncio.sleep(0.01)
            waiting.append(writer.transport.get_write_buffer_size())
        assert waiting[-1] > len(early) - (8 << 20)  # the kernel's buffers hold some
        assert 1 == upstream.upgrades
        answer_now.set()
        await eventually(lambda: len(received) == len(early), 10)
        writer.close()
        await writer.wait_closed()

        assert b"HTTP/1.1 101" == (await reader.read(-1))[:12]
        assert early == received
