"""service/upstream/stream.py over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.upstream.dial import Dialler
from service.upstream.stream import EventStream, ProtocolViolation, ServerEvent, StreamClosed
from service.upstream.target import DialRequest, Target
from tests.support.harness import taking_less_than
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection, raw_upstream

REQUEST = DialRequest(query=(("model", "scripted"),))


@asynccontextmanager
async def open_stream(script: Script, behind_101: bytes = b"") -> AsyncIterator[EventStream]:
    """A stream whose peer runs `script`."""
    async with raw_upstream(script, behind_101=behind_101) as upstream:
        dialler = Dialler(
            Target(upstream.url), timeout_seconds=3, first_event="required", max_message_bytes=16 * 1024 * 1024
        )
        stream = EventStream(await dialler.dial(REQUEST))
        try:
            yield stream
        finally:
            await stream.close()
            await dialler.close()


def event(kind: str) -> bytes:
    """An event without a body."""
    return f'{{"type":"{kind}"}}'.encode()


async def test_stream_returns_what_arrived_behind_the_first_event() -> None:
    """Events of the read that brought the 101 come out in order; bodies only of the types that are read."""
    frames = [CREATED, event("rate_limits.updated"), event("conversation.created")]

    async def script(connection: ServerConnection) -> None:
        await connection.wait_closed()

    behind = b"".join(build_frame(Opcode.TEXT, frame) for frame in frames)
    async with open_stream(script, behind) as stream:
        events = [await stream.next_event(1) for _ in frames]

    assert ["session.created", "rate_limits.updated", "conversation.created"] == [each.type for each in events]
    assert "sess_1" == events[0].body["session"]["id"]
    assert ServerEvent("rate_limits.updated", {}) == events[1]


async def test_stream_answers_pings_and_measures_its_own() -> None:
    """Both directions of RFC 6455 section 5.5.2; a pong that nothing asked for is no answer."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(b"abcd", Opcode.PING)
        pong = await connection.reader.readexactly(10)  # 2 header, 4 mask, 4 payload
        assert pong[0] & 0x0F == Opcode.PONG
        ping = await connection.reader.readexactly(10)
        mask, payload = ping[2:6], ping[6:]
        connection.send(b"zzzz", Opcode.PONG)
        connection.send(bytes(a ^ b for a, b in zip(mask, payload, strict=True)), Opcode.PONG)
        await connection.wait_closed()

    async with open_stream(script) as stream:
        assert "session.created" == (await stream.next_event(1)).type
        assert 0 < await stream.ping(1) < 1


@pytest.mark.parametrize(
    ("payload", "code"), [(close_payload(1013, "try_later"), 1013), (b"", None)], ids=["code", "no-code"]
)
async def test_stream_raises_closed_after_the_last_event_and_on_every_later_call(
    payload: bytes, code: int | None
) -> None:
    """The close frame is answered without a call of `next_event`."""
    echoed: asyncio.Future[tuple[int | None, str] | None] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(payload, Opcode.CLOSE)
        echoed.set_result(await connection.until_close())

    async with open_stream(script) as stream:
        async with taking_less_than(1):
            assert ((code or 1000), "") == await echoed
        assert "session.created" == (await stream.next_event(1)).type
        for _ in range(2):
            with pytest.raises(StreamClosed) as caught:
                await stream.next_event(1)
            assert code == caught.value.code


async def test_stream_raises_closed_when_the_connection_is_lost() -> None:
    """FIN without a close frame has no code."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.writer.drain()

    async with open_stream(script) as stream:
        await stream.next_event(1)
        with pytest.raises(StreamClosed) as caught:
            await stream.next_event(1)

    assert (None, "") == (caught.value.code, caught.value.reason)


async def test_stream_raises_violation_for_a_masked_frame() -> None:
    """A violation is distinguished from a close frame of the peer with the same code."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(b"\x81\x85aaaaHello")
        await connection.wait_closed()

    async with open_stream(script) as stream:
        await stream.next_event(1)
        with pytest.raises(ProtocolViolation) as caught:
            await stream.next_event(1)

    assert 1002 == caught.value.code


async def test_stream_times_out_without_an_event() -> None:
    """The next call still gets the event that comes later."""
    send = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await send.wait()
        connection.send(event("response.done"))
        await connection.wait_closed()

    async with open_stream(script) as stream:
        await stream.next_event(1)
        with pytest.raises(TimeoutError):
            await stream.next_event(0.05)
        send.set()
        assert ServerEvent("response.done", {"type": "response.done"}) == await stream.next_event(1)
