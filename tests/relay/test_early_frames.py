"""Frames that a client sends before its 101: they reach upstream once and in order, or the client gets a refusal."""

import asyncio
import hashlib

import pytest

from service.realtime.frames import Opcode, build_frame
from service.simulator.options import SimulatorOptions
from tests.support.harness import eventually, open_raw, simulated_relay, within
from tests.support.raw_http_relay import raw_http_relay
from tests.support.raw_http_server import PATH, Exchange
from tests.support.raw_websocket_server import CREATED

MASK = b"abcd"
UPDATE = build_frame(
    Opcode.TEXT, b'{"type":"session.update","session":{"type":"realtime","instructions":"early"}}', MASK
)
REQUEST = (
    f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
CLEAR = build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.clear"}', MASK)


async def test_update_behind_the_request_reaches_a_slow_simulator_once() -> None:
    """In one write with the request; the first event comes later than the frame."""
    async with simulated_relay(SimulatorOptions(pace=0, slow_first_event_seconds=0.3)) as relay:
        client = await open_raw(
            relay.app.public_port, "/v1/realtime?model=gpt-realtime&simulate=slow-first-event", behind=UPDATE + CLEAR
        )
        events = [await client.next_event() for _ in range(3)]
        await client.close()

        assert ["session.created", "session.updated", "input_audio_buffer.cleared"] == [
            event["type"] for event in events
        ]
        assert "early" == events[1]["session"]["instructions"]


def early_frames() -> bytes:
    """Small, fragmented and large frames, a ping among the fragments: more than any buffer before the 101 holds."""
    first = build_frame(Opcode.TEXT, b'{"type":"x","a":"', MASK)
    parts = [UPDATE, bytes((first[0] & 0x7F,)) + first[1:], build_frame(Opcode.CONTINUATION, b'"}', MASK)]
    return b"".join([*parts, build_frame(Opcode.TEXT, b'{"type":"y","a":"' + b"z" * 2_000_000 + b'"}', MASK), CLEAR])


SENT = early_frames()


@pytest.mark.parametrize("late", ["response", "first event"])
@pytest.mark.parametrize("cut", [0, 1, len(UPDATE) + 30, len(SENT)], ids=["none", "a-byte", "half-a-frame", "all"])
async def test_frames_before_the_response_of_a_slow_upstream_arrive_once(cut: int, late: str) -> None:
    """The first `cut` bytes share a write with the request; the rest is sent before upstream sends what is late."""
    asked, answer = asyncio.Event(), asyncio.Event()
    received: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def script(exchange: Exchange) -> None:
        if late == "first event":
            exchange.upgrade()
        asked.set()
        await answer.wait()
        if late == "response":
            exchange.upgrade()
        exchange.writer.write(build_frame(Opcode.TEXT, CREATED))
        received.set_result(hashlib.sha256(await exchange.reader.readexactly(len(SENT))).hexdigest())
        await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(REQUEST + SENT[:cut])
        await asked.wait()
        writer.write(SENT[cut:])
        answer.set()
        assert b"HTTP/1.1 101 " == (await reader.readuntil(b"\r\n\r\n"))[:13]
        assert hashlib.sha256(SENT).hexdigest() == await within(received, 10)
        writer.close()

        assert 1 == upstream.requests
        await eventually(lambda: relay.events("session.ended"))
        assert "client_lost" == relay.events("session.ended")[0]["reason"]


@pytest.mark.parametrize("on_failure", ["http", "event"])
@pytest.mark.parametrize("size", [0, 100_000, 3_000_000])
async def test_frames_before_a_refusal_do_not_hide_it(size: int, on_failure: str) -> None:
    """Upstream refuses later than the frames arrive; they are discarded, and the refusal is not lost in a reset."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        asked.set()
        await answer.wait()
        exchange.answer("401 Unauthorized", b'{"error":{"code":"invalid_api_key"}}')

    behind = UPDATE + build_frame(Opcode.TEXT, b"x" * size, MASK)
    async with raw_http_relay(script) as (relay, _):
        path = f"{PATH}&on_failure={on_failure}"
        opening = asyncio.ensure_future(open_raw(relay.app.public_port, path, behind=behind))
        await asked.wait()
        answer.set()
        client = await within(opening, 10)
        if on_failure == "event":
            error = (await within(client.next_event(), 10))["error"]
            close = await within(client.until_close(), 10)
            assert close is not None
            assert 3000 == close[0]
        else:
            error = client.answer.error
        await client.close()

        assert (424 if on_failure == "http" else 101, "key_rejected") == (client.answer.status, error["code"])


async def test_unmasked_frame_before_the_response_ends_the_session_with_its_reason() -> None:
    """The frame is a violation, as after the 101: close 1002."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade(CREATED)
        await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH, behind=build_frame(Opcode.TEXT, b"{}"))
        assert "session.created" == (await client.next_event())["type"]
        close = await client.until_close()
        await client.close()

        assert close is not None
        assert 1002 == close[0]
        await eventually(lambda: relay.events("session.ended"))
        assert ["client_protocol_error"] == [line["reason"] for line in relay.events("session.ended")]
