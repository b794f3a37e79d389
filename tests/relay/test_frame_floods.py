"""Floods of small frames: they end with their reason, and each delivery gets one pong."""

import asyncio
import contextlib
import json
from typing import Any, Final

import pytest

from service.failures import CATALOGUE
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_items import Chunk, ControlFrame, Item, MessageEnd
from service.relay.pipe import Pipe
from service.relay.watchdog import RATE_WINDOW_SECONDS
from service.wire.turns import FRAMES_PER_DELIVERY
from tests.relay.test_message_floods import echo, newest_session, open_client
from tests.support.harness import eventually, payload_of, taking_less_than
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.scripted_upstream import scripted_relay

MAX_MESSAGES_PER_SECOND: Final = 500
PING: Final = build_frame(Opcode.PING, b"p", b"abcd")
PONG: Final = build_frame(Opcode.PONG, b"p", b"abcd")
TINY: Final = build_frame(Opcode.TEXT, b"x", b"abcd")
FRAGMENT: Final = b"\x00\x80abcd"


@pytest.mark.parametrize(
    ("prefix", "frame"),
    [
        pytest.param(b"", PING, id="pings"),
        pytest.param(b"", PONG, id="unsolicited pongs"),
        pytest.param(b"", TINY, id="messages of one byte"),
        pytest.param(b"\x01\x80abcd", FRAGMENT, id="fragments"),
    ],
)
async def test_flood_of_small_frames_ends_with_rate_exceeded(prefix: bytes, frame: bytes) -> None:
    """With close code 1008. Another session exchanges events all the while."""
    above_limit = int(MAX_MESSAGES_PER_SECOND * RATE_WINDOW_SECONDS) + 1
    async with (
        scripted_relay(echo, RELAY_MAX_MESSAGES_PER_SECOND=str(MAX_MESSAGES_PER_SECOND)) as (relay, _),
        open_client(relay) as other,
        open_client(relay) as client,
    ):
        relay_session = newest_session(relay)
        client.writer.write(prefix + frame * above_limit)
        exchanges = 0
        async with taking_less_than(2):
            while not relay_session._ended.done():
                other.send_event(type="session.update", number=exchanges)
                assert exchanges == (await other.next_event())["number"]
                exchanges += 1
                await asyncio.sleep(0.005)  # below the limit on messages

        event: Any = {"type": ""}
        while event is not None and event["type"] != "error":  # echoes come first
            item = await client.next_item()
            event = json.loads(payload_of(item)) if isinstance(item, bytes) and len(item) > 10 else {"type": ""}
        assert event["error"]["code"] == "rate_exceeded"
        assert (1008, CATALOGUE["rate_exceeded"].close_text) == await client.until_close()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="rate_exceeded")
        assert exchanges > 0


async def test_burst_of_the_allowed_messages_is_forwarded() -> None:
    """As many as the window allows, in one write; the session goes on."""
    allowed = int(MAX_MESSAGES_PER_SECOND * RATE_WINDOW_SECONDS)
    async with (
        scripted_relay(echo, RELAY_MAX_MESSAGES_PER_SECOND=str(MAX_MESSAGES_PER_SECOND)) as (relay, _),
        open_client(relay) as client,
    ):
        client.writer.write(build_frame(Opcode.TEXT, b"x", b"abcd") * allowed)
        expected = build_frame(Opcode.TEXT, b"x")
        assert all([expected == await client.next_item() for _ in range(allowed)])
        await asyncio.sleep(0.6)  # the session has ticked
        assert not newest_session(relay)._ended.done()


async def test_pings_of_one_read_get_one_pong() -> None:
    """The last one is answered (RFC 6455 section 5.5.3); each answer would be a write of its own."""
    async with scripted_relay(echo) as (relay, _), open_client(relay) as client:
        pings = b"".join(build_frame(Opcode.PING, b"%d" % number, b"abcd") for number in range(100))
        client.writer.write(pings + build_frame(Opcode.TEXT, b"{}", b"abcd"))
        items = [await client.next_item(), await client.next_item()]
        pongs = [item.payload for item in items if isinstance(item, ControlFrame)]

        assert [b"99"] == pongs
        assert [b"{}"] == [payload_of(item) for item in items if not isinstance(item, ControlFrame)]


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_delivery_parses_a_limited_number_of_frames(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst within the limits, in one write and from upstream behind its first event: all arrives, in order."""
    numbers, sizes = range(10 * FRAMES_PER_DELIVERY), list[int]()
    received: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
    process = Pipe.process

    def record(pipe: Pipe, items: list[Item]) -> None:
        sizes.append(sum(not isinstance(item, MessageEnd | Chunk) for item in items))
        process(pipe, items)

    async def script(connection: ServerConnection) -> None:
        burst = b"".join(build_frame(Opcode.TEXT, b"%d" % number) for number in numbers)
        connection.writer.write(build_frame(Opcode.TEXT, CREATED) + (burst if side == "upstream" else b""))
        if side == "client":
            messages = connection.messages()
            received.set_result([int(await anext(messages)) for _ in numbers])
        await connection.wait_closed()

    monkeypatch.setattr(Pipe, "process", record)
    async with scripted_relay(script) as (relay, _), open_client(relay) as client:
        if side == "client":
            client.writer.write(b"".join(build_frame(Opcode.TEXT, b"%d" % number, b"abcd") for number in numbers))
        else:
            received.set_result([int(payload_of(await client.next_item())) for _ in numbers])

        assert list(numbers) == await received
        del sizes[:1]  # what followed the first event before the session began
        assert max(sizes) <= FRAMES_PER_DELIVERY


async def test_upstream_flood_of_frames_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason and the rate in the log; upstream gets 1008, and what it sends on is not looked at."""
    monkeypatch.setattr("service.relay.session.UPSTREAM_FRAMES_PER_SECOND", 100.0)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.writer.write(build_frame(Opcode.PONG, b"p") * 1000)
                await connection.writer.drain()
        await connection.wait_closed()

    async with scripted_relay(script) as (relay, _):
        async with open_client(relay) as client:
            assert (await client.next_event())["error"]["code"] == "upstream_protocol_error"
            assert (1011, CATALOGUE["upstream_protocol_error"].close_text) == await client.until_close()
        await eventually(lambda: bool(relay.events("session.ended")), 10)

        assert "more than 100 frames a second" == relay.events("session.ended")[0]["detail"]
