"""Group F of the fault plan over real sockets: frames that no library would send, and what comes of them on both sides."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import parse_close
from service.realtime.frames import Opcode, build_frame
from tests.support.harness import eventually, running_relay
from tests.support.raw_frames import CLOSE_BYTES, KEY, NEXT_FRAME, VALID_FRAME, frame, head, recording_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream
from tests.support.reference_decoder import decode


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


FORBIDDEN = [
    pytest.param([build_frame(Opcode.TEXT, b"{}")], id="F1-unmasked"),
    pytest.param([build_frame(Opcode.PING, b"")], id="F1-unmasked-ping"),
    pytest.param([frame(0x80 | opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)], id="F2-opcodes"),
    pytest.param([frame(opcode) for opcode in (3, 7, 11, 15)], id="F2-opcodes-of-fragments"),
    pytest.param([frame(0x81 | rsv, b"{}") for rsv in range(0x10, 0x80, 0x10)], id="F3-reserved-bits"),
    pytest.param([frame(0x89 | rsv) for rsv in (0x10, 0x20, 0x40)], id="F3-reserved-bits-of-pings"),
    pytest.param([frame(opcode) for opcode in (0x08, 0x09, 0x0A)], id="F5-fragmented-control"),
    pytest.param([frame(opcode, b"x" * 126) for opcode in (0x88, 0x89, 0x8A)], id="F5-long-control"),
    pytest.param([frame(0x80, b"x"), frame(0x00, b"x")], id="F6-continuation-of-nothing"),
    pytest.param([frame(0x01) + frame(opcode, b"x") for opcode in (0x01, 0x81, 0x02, 0x82)], id="F6-text-in-fragments"),
    pytest.param([frame(0xC1, b"\xaa\x56\x4a\xcd\xc9\x57\x2a\xa9\x2c\x48\x55\xaa\x05\x00")], id="F11-compressed"),
    pytest.param([b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"], id="F15-pipelined-request"),
    pytest.param([b"\x81\xfe\x00\x7d" + KEY + b"x" * 125, b"\x81\xff" + bytes(6) + b"\xff\xff" + KEY], id="long-lengths"),
]  # fmt: skip


@pytest.mark.parametrize("frames", FORBIDDEN)
async def test_what_the_protocol_forbids(frames: list[bytes]) -> None:
    """F1-F6, F11, F15: what stood before it arrives, nothing of it or behind it does, and the client is told by 1002."""
    async with recording_relay() as stage:
        for forbidden in frames:
            client, heard = await stage.open()
            client.writer.write(VALID_FRAME + forbidden + NEXT_FRAME)

            assert (1002, CATALOGUE["client_protocol_error"].close_text) == await client.until_close()
            await heard.finished.wait()
            assert (VALID_FRAME, (1001, "")) == (bytes(heard.data), heard.close)
            assert len(heard.raw) == len(VALID_FRAME) + CLOSE_BYTES
            await client.close()
        await eventually(lambda: len(frames) == len(stage.relay.events("session.ended")))
        assert {"client_protocol_error"} == {line["reason"] for line in stage.relay.events("session.ended")}


NO_UTF8 = {
    "invalid": b"\xff\xfe",
    "overlong": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond": b"\xf4\x90\x80\x80",
    "cut": b"\xe4\xb8",
}


@pytest.mark.parametrize("text", NO_UTF8.values(), ids=NO_UTF8.keys())
@pytest.mark.parametrize("is_split", [False, True])
async def test_f4_text_is_the_endpoints_to_judge(text: bytes, *, is_split: bool) -> None:
    """F4: text that is no UTF-8 arrives as it was sent, and the 1007 with which upstream answers it reaches the client."""
    sent = frame(0x01, text[:1]) + frame(0x80, text[1:]) if is_split else frame(0x81, text)
    async with recording_relay() as stage:
        client, heard = await stage.open()
        client.writer.write(sent)
        await eventually(lambda: len(heard.data) == len(sent))
        heard.connection.send_close(1007, "invalid UTF-8")

        assert (1007, "invalid UTF-8") == await client.until_close()
        assert sent == heard.data


@pytest.mark.parametrize("length", [(1 << 24) + 1, 1 << 62, (1 << 63) + 5, (1 << 64) - 1])
async def test_f7_a_length_is_only_a_claim(length: int) -> None:
    """F7: a huge length is refused with 1009 before its payload comes, and nothing is set aside for it."""
    async with recording_relay() as stage:
        client, heard = await stage.open()
        before, started = resident_bytes(), time.monotonic()
        client.writer.write(b"\x82\xff" + length.to_bytes(8, "big"))  # not even its mask has come

        assert "message_too_big" == (await client.next_event())["error"]["code"]
        assert (1009, CATALOGUE["message_too_big"].close_text) == await client.until_close()
        assert time.monotonic() - started < 1
        assert resident_bytes() - before < 4 << 20
        await heard.finished.wait()
        assert (b"", (1001, "")) == (bytes(heard.data), heard.close)


async def test_f8_a_hundred_thousand_fragments() -> None:
    """F8: one message in as many fragments of one byte arrives as it was sent, and little is kept on the way."""
    sent = frame(0x02, b"a") + frame(0x00, b"b") * 99_998 + frame(0x80, b"c")
    async with recording_relay(RELAY_MAX_MESSAGES_PER_SECOND="0") as stage:
        client, heard = await stage.open()
        before = resident_bytes()
        for at in range(0, len(sent), 50_000):
            client.writer.write(sent[at : at + 50_000])
            await client.writer.drain()
        await eventually(lambda: len(heard.data) == len(sent), 10)

        assert sent == heard.data
        assert resident_bytes() - before < 16 << 20  # the test's own copies are in it
        client.writer.close()
        await eventually(lambda: bool(stage.relay.events("session.ended")))
        assert 1 == stage.relay.events("session.ended")[0]["client_to_upstream_messages"]


@pytest.mark.parametrize(
    ("size", "reason", "settings"),
    [
        (0, "idle_timeout", {"RELAY_IDLE_TIMEOUT_SECONDS": "0.3"}),
        (1, "message_too_big", {"RELAY_MAX_MESSAGE_BYTES": "65536"}),
        (1000, "message_too_big", {"RELAY_MAX_MESSAGE_BYTES": "65536"}),
    ],
)
async def test_f9_fragments_without_end(size: int, reason: str, settings: dict[str, str]) -> None:
    """F9: fragments that never make a message go on up to the cap, then 1009; empty ones until the session is idle, 1001."""
    fragment = frame(0x00, b"x" * size)
    async with recording_relay(RELAY_MAX_MESSAGES_PER_SECOND="0", **settings) as stage:
        client, heard = await stage.open()
        client.writer.write(frame(0x01))
        close = asyncio.ensure_future(client.until_close())
        while not close.done():
            client.writer.write(fragment * 1000)
            await asyncio.wait({close}, timeout=0.001)
        client.writer.close()
        await heard.finished.wait()

        assert (CATALOGUE[reason].close_code, CATALOGUE[reason].close_text) == close.result()
        assert size * (len(heard.data) // len(fragment)) <= 65_536
        assert (1001, "") == heard.close


@pytest.mark.parametrize("length", [60_000, 200_000])
async def test_f9_a_message_that_drips(length: int) -> None:
    """F9: who sends a message byte by byte says nothing: the session ends as idle, also in the middle of a streamed frame."""
    async with recording_relay(RELAY_IDLE_TIMEOUT_SECONDS="0.3") as stage:
        client, heard = await stage.open()
        client.writer.write(frame(0x81, b"x" * length)[:20_000])
        close = asyncio.ensure_future(client.until_close())
        while not close.done():
            client.writer.write(b"x")
            await asyncio.wait({close}, timeout=0.01)

        assert (1001, CATALOGUE["idle_timeout"].close_text) == close.result()
        await heard.finished.wait()
        # Of a streamed frame a part has gone on, so that no CLOSE can be said behind it.
        assert ((1001, "") if length == 60_000 else None) == heard.close


def close_payloads() -> Iterator[bytes]:
    """A sample of what may stand in a CLOSE; the whole sweep is in tests/realtime."""
    reasons = (b"", b"going", b"x" * 123, "\u00e9".encode() * 61, b"\xff", b"\xe4\xb8")
    codes = (0, 999, 1000, 1003, 1004, 1005, 1006, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000, 65_535)
    yield b"\x03"
    for number, code in enumerate(codes):
        yield code.to_bytes(2, "big")
        yield code.to_bytes(2, "big") + reasons[number % len(reasons)]
        yield code.to_bytes(2, "big") + reasons[(number + 3) % len(reasons)]


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_f10_whatever_is_said_for_goodbye(side: str) -> None:
    """F10: each CLOSE is answered and passed on if it may be sent; one that may not gets 1002 or 1007, and nothing fails."""
    async with recording_relay() as stage:
        for payload in close_payloads():
            client, heard = await stage.open()
            speaker = client if side == "client" else heard.connection
            speaker.writer.write(build_frame(Opcode.CLOSE, payload, KEY if side == "client" else b""))
            told = await client.until_close()
            await heard.finished.wait()
            await client.close()

            assert told is not None, payload
            assert heard.close is not None, payload
            here, there = (told, heard.close) if side == "client" else (heard.close, told)
            story = decode(build_frame(Opcode.CLOSE, payload), masked=False, limit=0)
            if story.violation is not None:
                assert story.violation[1] == here[0], payload
                assert there[0] == (1001 if side == "client" else 1011), payload
            else:  # 1014 fails in some libraries and is not sent on
                code, reason = parse_close(payload)
                code = 1011 if code == 1014 else code
                assert ((code, ""), (code, reason)) == (here, there), payload


async def test_f11_no_extension_is_agreed() -> None:
    """F11: an offer of compression is declined by silence, and plain frames go on."""
    async with recording_relay() as stage:
        offer = {"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits, permessage-deflate"}
        client, heard = await stage.open(offer)
        client.writer.write(VALID_FRAME)
        await eventually(lambda: bool(heard.data))

        assert "Sec-WebSocket-Extensions" not in client.answer.headers
        assert VALID_FRAME == heard.data


async def test_f13_binary_frames_go_on() -> None:
    """F13: binary messages pass both ways as they are, and count as events of no known type."""
    up, down = frame(0x82, bytes(range(256))), build_frame(Opcode.BINARY, os.urandom(300))
    async with recording_relay() as stage:
        client, heard = await stage.open()
        client.writer.write(up)
        heard.connection.writer.write(down)

        assert down == await client.next_item()
        await eventually(lambda: len(heard.data) == len(up))
        assert up == heard.data
        for direction in ("client_to_upstream", "upstream_to_client"):
            assert 1 == stage.relay.metric("realtime_relay_events_total", direction=direction, type="other")


async def test_f14_more_than_a_buffer_before_the_answer() -> None:
    """F14: of 12 MB sent before the 101 most waits in the client's socket, not in the relay, and all arrives in order."""
    early = b"".join(build_frame(Opcode.BINARY, n.to_bytes(4, "big") * 10_000, KEY) for n in range(300))
    answer_now, heard = asyncio.Event(), bytearray()

    async def script(connection: ServerConnection) -> None:
        await answer_now.wait()
        connection.send(CREATED)
        while len(heard) < len(early):
            heard.extend(await connection.reader.read(1 << 20))
        await connection.wait_closed()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(head("Host: x") + early)
        waiting = [writer.transport.get_write_buffer_size()]
        while len(waiting) < 10 or len(set(waiting[-10:])) > 1:  # until no more of it is taken
            await asyncio.sleep(0.01)
            waiting.append(writer.transport.get_write_buffer_size())
        assert waiting[-1] > len(early) - (8 << 20)  # the kernel's buffers hold some
        assert 1 == upstream.upgrades
        answer_now.set()
        await eventually(lambda: len(heard) == len(early), 10)
        writer.close()
        await writer.wait_closed()

        assert b"HTTP/1.1 101" == (await reader.read(-1))[:12]
        assert early == heard
