"""Sessions that the relay ends at a limit."""

import asyncio

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.relay.ticker import TICK_SECONDS
from tests.relay.test_endings import CloseFuture, close_recorder, session
from tests.support.harness import within
from tests.support.raw_websocket_server import CREATED, ServerConnection


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("RELAY_IDLE_TIMEOUT_SECONDS", "idle_timeout"), ("RELAY_MAX_SESSION_SECONDS", "max_duration")],
)
async def test_timeout_closes_both_sides_with_1001(setting: str, reason: str) -> None:
    """The idle timeout and the limit on the duration."""
    close_future: CloseFuture = asyncio.get_running_loop().create_future()
    async with session(close_recorder(close_future), **{setting: "0.3"}) as (_, client):
        event = await client.next_event()

        assert event["error"]["code"] == reason
        assert await client.until_close() == (1001, CATALOGUE[reason].close_text)
        assert await within(close_future, 2) == (1001, "")


@pytest.mark.parametrize(
    ("setting", "flood"),
    [
        ("RELAY_MAX_MESSAGES_PER_SECOND", build_frame(Opcode.TEXT, b"{}", b"abcd") * 50),
        ("RELAY_MAX_MESSAGES_PER_SECOND", build_frame(Opcode.PING, b"", b"abcd") * 50),
        ("RELAY_MAX_BYTES_PER_SECOND", build_frame(Opcode.TEXT, b"x" * 60, b"abcd")),
    ],
)
async def test_rate_above_the_limit_closes_with_1008(setting: str, flood: bytes) -> None:
    """Of messages, pings or bytes; a rate below the limit does not."""
    close_future: CloseFuture = asyncio.get_running_loop().create_future()
    async with session(close_recorder(close_future), **{setting: "4"}) as (relay, client):
        client.writer.write(flood[: len(flood) // 2] if len(flood) > 100 else b"")
        await asyncio.sleep(2 * TICK_SECONDS)  # the session has ticked
        assert [] == relay.events("session.ended")
        client.writer.write(flood)
        event = await client.next_event()

        assert event["error"]["code"] == "rate_exceeded"
        assert await client.until_close() == (1008, CATALOGUE["rate_exceeded"].close_text)
        assert (await within(close_future, 2)) is not None


@pytest.mark.parametrize("behaviour", ["silent", "sending"])
async def test_upstream_that_ignores_close_is_aborted_within_two_seconds(behaviour: str) -> None:
    """Whether it is silent or goes on sending."""
    closed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        try:
            if behaviour == "silent":
                await connection.read_until_eof()
            else:
                while True:
                    connection.send(b'{"type":"response.output_audio.delta","delta":"' + b"A" * 1000 + b'"}')
                    await connection.writer.drain()
                    await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with session(script) as (_, client):
        client.send_frame(Opcode.CLOSE, close_payload(1000))
        await within(closed.wait(), 2)
