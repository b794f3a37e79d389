"""Floods of small frames: they end with their reason, and each delivery gets one pong."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from service.failures import CATALOGUE
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_items import Chunk, ControlFrame, Item, MessageEnd
from service.relay.pipe import Pipe
from service.relay.session_watch import SessionWatch
from service.relay.watchdog import RATE_WINDOW_SECONDS, SessionLimits
from service.wire.leg import Leg
from service.wire.turns import FRAMES_PER_DELIVERY
from tests.relay.test_message_floods import PATH, newest_session, open_client
from tests.support.harness import RawClient, Relay, eventually, payload_of, taking_less_than, within
from tests.support.raw_websocket_server import CREATED, ServerConnection, echo
from tests.support.scripted_upstream import scripted_relay

MAX_MESSAGES_PER_SECOND: Final = 500
PING: Final = build_frame(Opcode.PING, b"p", b"abcd")
PONG: Final = build_frame(Opcode.PONG, b"p", b"abcd")
TINY: Final = build_frame(Opcode.TEXT, b"x", b"abcd")
FLOOD: Final = "x=flood"
"""In the query of the session that upstream floods."""
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


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_flood_of_frames_ends_the_session_without_a_tick(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is judged where the frames are counted: on a busy machine a tick may be late."""
    monkeypatch.setattr("service.relay.ticker.TICK_SECONDS", 3600.0)
    monkeypatch.setattr("service.relay.watchdog.UPSTREAM_FRAMES_PER_SECOND", float(MAX_MESSAGES_PER_SECOND))
    above_limit = int(MAX_MESSAGES_PER_SECOND * RATE_WINDOW_SECONDS) + 1

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        if side == "upstream":
            connection.writer.write(b"\x01\x00" + b"\x00\x00" * above_limit)
        await connection.wait_closed()

    async with scripted_relay(script, RELAY_MAX_MESSAGES_PER_SECOND=str(MAX_MESSAGES_PER_SECOND)) as (relay, _):
        async with open_client(relay) as client:
            if side == "client":
                client.writer.write(b"\x01\x80abcd" + FRAGMENT * above_limit)
            reason = "rate_exceeded" if side == "client" else "upstream_protocol_error"
            close = await within(client.until_close(), 30)
            assert close is not None
            assert CATALOGUE[reason].close_text == close[1]
        await eventually(lambda: bool(relay.events("session.ended")), 10)
        assert reason == relay.events("session.ended")[0]["reason"]


async def test_pause_of_the_process_is_credited_before_the_rate_is_judged() -> None:
    """What peers sent meanwhile arrives at once, possibly before the tick that notices the pause."""
    watch = SessionWatch(cast("Leg", None), cast("Leg", None), SessionLimits(1, max_messages_per_second=1.0), 100.0)
    sent, nothing = (cast("Pipe", SimpleNamespace(totals=lambda n=n: (n, n, n))) for n in (11, 0))

    assert None is watch.exceeded_rate(103.0, sent, nothing)
    watch.ticked_at = 102.9
    due = watch.exceeded_rate(103.0, sent, nothing)
    assert due is not None
    assert "rate_exceeded" == due.reason


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


@asynccontextmanager
async def exchanging(relay: Relay) -> AsyncIterator[list[int]]:
    """Another session that exchanges numbered events all the while; yields the numbers that came back, all in order."""
    numbers: list[int] = []

    async def exchange(client: RawClient) -> None:
        while True:
            client.send_event(type="session.update", number=len(numbers))
            numbers.append((await client.next_event())["number"])
            await asyncio.sleep(0.02)  # below the limits on frames

    async with open_client(relay) as other:
        task = asyncio.ensure_future(exchange(other))
        try:
            yield numbers
            reached = len(numbers)
            await eventually(lambda: len(numbers) > reached or task.done())  # it goes on
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize(
    ("prefix", "frame"),
    [
        pytest.param(b"", build_frame(Opcode.PING, b"p"), id="pings"),
        pytest.param(b"", build_frame(Opcode.PONG, b"p"), id="unsolicited pongs"),
        pytest.param(b"", build_frame(Opcode.TEXT, b"{}"), id="events of two bytes"),
        pytest.param(b"\x01\x00", b"\x00\x00", id="empty continuations"),
    ],
)
async def test_upstream_flood_of_frames_ends_the_session(
    prefix: bytes, frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason and the rate in the log; upstream gets 1008. Another session loses nothing."""
    monkeypatch.setattr("service.relay.watchdog.UPSTREAM_FRAMES_PER_SECOND", 100.0)

    async def script(connection: ServerConnection) -> None:
        if FLOOD not in connection.head:
            await echo(connection)
            return
        connection.send(CREATED)
        connection.writer.write(prefix)
        flooding = asyncio.ensure_future(flood(connection))
        closes.append(await connection.until_close())
        connection.reset()
        await flooding

    async def flood(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                connection.writer.write(frame * 1000)
                await connection.writer.drain()

    closes: list[tuple[int | None, str] | None] = []
    async with scripted_relay(script) as (relay, _):
        async with exchanging(relay):
            async with open_client(relay, f"{PATH}&{FLOOD}") as client:
                assert (1011, CATALOGUE["upstream_protocol_error"].close_text) == await within(client.until_close(), 60)
            await eventually(lambda: bool(relay.events("session.ended")), 10)
        await eventually(lambda: len(relay.events("session.ended")) == 2)

        flooded, other = relay.events("session.ended")
        assert ("upstream_protocol_error", "more than 100 frames a second") == (flooded["reason"], flooded["detail"])
        assert other["reason"] in {"client_lost", "client_disconnected"}
        assert [1008] == [close[0] for close in closes if close]


async def test_upstream_flood_of_large_messages_is_forwarded() -> None:
    """As fast as the client reads; another session loses nothing."""
    count = 40

    async def script(connection: ServerConnection) -> None:
        if FLOOD not in connection.head:
            await echo(connection)
            return
        connection.send(CREATED)
        for number in range(count):
            connection.send(b'{"type":"x","number":%d,"delta":"' % number + b"a" * (1 << 20) + b'"}')
            await connection.writer.drain()
        await connection.wait_closed()

    async with scripted_relay(script) as (relay, _), exchanging(relay), open_client(relay, f"{PATH}&{FLOOD}") as client:
        assert list(range(count)) == [(await client.next_event())["number"] for _ in range(count)]
