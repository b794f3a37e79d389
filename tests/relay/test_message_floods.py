"""Floods of messages, messages at the size limit and unfinished ones, and that other sessions are not delayed by them."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import ControlFrame
from service.relay.session import Session
from tests.support.frame_reader import FrameReader
from tests.support.harness import RawClient, Relay, eventually, open_raw, payload_of, within
from tests.support.raw_websocket_server import CREATED, ServerConnection, echo
from tests.support.scripted_upstream import scripted_relay

PATH: Final = "/v1/realtime?model=scripted"
LIMIT: Final = 65_536
MIB: Final = 1 << 20
READ_BYTES: Final = 256 * 1024
"""The largest read of asyncio."""


@asynccontextmanager
async def open_client(relay: Relay, path: str = PATH) -> AsyncIterator[RawClient]:
    """Open a session and read its first event."""
    client = await open_raw(relay.app.public_port, path)
    try:
        assert (await client.next_event())["type"] == "session.created"
        yield client
    finally:
        await client.close()


def newest_session(relay: Relay) -> Session:
    """The session that started last."""
    return tuple(relay.app.sessions)[-1]


async def test_largest_legal_events_are_forwarded_unchanged() -> None:
    """15 MiB in both directions concurrently. A ping inside one is answered at a frame boundary.

    Another session exchanges events meanwhile.
    """
    up, down = (os.urandom(15 * MIB // 2).hex().encode() for _ in range(2))
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            if len(payload) > MIB:
                received.set_result(payload)
            else:
                connection.send(down if payload == b"begin" else payload)

    async def read_two(client: RawClient) -> list[Any]:
        return [await client.next_item(), await client.next_item()]

    async with scripted_relay(script) as (relay, _), open_client(relay) as other, open_client(relay) as client:
        client.send_frame(Opcode.TEXT, b"begin")
        reading = asyncio.ensure_future(read_two(client))
        await eventually(lambda: newest_session(relay)._client._mid_frame)
        first = build_frame(Opcode.TEXT, up[:MIB], b"abcd")
        client.writer.write(bytes((first[0] & 0x7F,)) + first[1:])
        client.send_frame(Opcode.PING, b"p")
        client.send_frame(Opcode.CONTINUATION, up[MIB:])
        exchanges = 0
        while not (reading.done() and received.done()):
            other.send_event(type="session.update", number=exchanges)
            assert exchanges == (await within(other.next_event(), 5))["number"]
            exchanges += 1

        message, pong = reading.result()
        assert hashlib.sha256(down).hexdigest() == hashlib.sha256(payload_of(message)).hexdigest()
        assert hashlib.sha256(up).hexdigest() == hashlib.sha256(received.result()).hexdigest()
        assert ControlFrame(Opcode.PONG, b"p") == pong
        assert exchanges > 2
        assert not any(session._ended.done() for session in relay.app.sessions)


def fragmented(size: int, fragments: int, key: bytes = b"") -> bytes:
    """A message of this size in this number of frames."""
    frames = []
    for number in range(fragments):
        piece = size * (number + 1) // fragments - size * number // fragments
        frame = build_frame(Opcode.CONTINUATION if number else Opcode.TEXT, b"x" * piece, key)
        frames.append(frame if number == fragments - 1 else bytes((frame[0] & 0x7F,)) + frame[1:])
    return b"".join(frames)


@pytest.mark.parametrize("fragments", [1, 3], ids=["whole", "in fragments"])
async def test_client_message_above_the_limit_is_refused(fragments: int) -> None:
    """With 1009; upstream gets 1001. A message of exactly the limit is forwarded."""
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    right = fragmented(LIMIT, fragments, b"abcd")
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        received.set_result(await FrameReader(connection).read(len(right)))
        upstream_close.set_result(await connection.until_close())

    async with scripted_relay(script, RELAY_MAX_MESSAGE_BYTES=str(LIMIT)) as (relay, _), open_client(relay) as client:
        client.writer.write(right)
        assert right == await within(received, 2)
        assert not newest_session(relay)._ended.done()
        client.writer.write(fragmented(LIMIT + 1, fragments, b"abcd"))

        assert (await client.next_event())["error"]["code"] == "message_too_big"
        assert (1009, CATALOGUE["message_too_big"].close_text) == await client.until_close()
        if fragments == 1:
            assert (1001, "") == await within(upstream_close, 2)
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="message_too_big")


@pytest.mark.parametrize("fragments", [1, 3], ids=["whole", "in fragments"])
async def test_upstream_message_above_the_limit_ends_the_session(fragments: int) -> None:
    """With 1009 to upstream and 1011 to the client, whose message it was not. A message of exactly the limit is forwarded."""
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    proceed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(fragmented(LIMIT, fragments))
        await proceed.wait()
        connection.writer.write(fragmented(LIMIT + 1, fragments))
        upstream_close.set_result(await connection.until_close())

    async with scripted_relay(script, RELAY_MAX_MESSAGE_BYTES=str(LIMIT)) as (relay, _), open_client(relay) as client:
        assert fragmented(LIMIT, fragments) == await client.next_item()
        assert not newest_session(relay)._ended.done()
        proceed.set()

        assert (1009, "") == await within(upstream_close, 2)
        if fragments == 1:  # else fragments have been forwarded, and the relay's event would be inside their message
            assert (await client.next_event())["error"]["code"] == "upstream_message_too_big"
        assert (1011, CATALOGUE["upstream_message_too_big"].close_text) == await client.until_close()


async def test_close_1009_of_upstream_is_the_providers_own_limit() -> None:
    """The client gets an error event that names the provider's limit, then the provider's close code."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send_close(1009, "message too big")
        await connection.until_close()

    async with scripted_relay(script) as (relay, _), open_client(relay) as client:
        assert (await client.next_event())["error"]["code"] == "provider_size_limit"
        assert (1009, "message too big") == await client.until_close()


async def test_speech_in_twenty_sessions_arrives_in_order() -> None:
    """A hundred events of 5 kB in each direction of each session, concurrently."""
    events_per_session = 100

    def speech(session: int) -> list[bytes]:
        """Events chained by their hashes, so that one of another session or in another place shows."""
        chain, events = hashlib.sha256(b"%d" % session).hexdigest(), []
        for _ in range(events_per_session):
            chain = hashlib.sha256(chain.encode()).hexdigest()
            events.append(b'{"type":"input_audio_buffer.append","audio":"%s"}' % (chain.encode() * 78))
        return events

    async def converse(client: RawClient, number: int) -> None:
        async def send() -> None:
            for event in events:
                client.send_frame(Opcode.TEXT, event)
                await client.writer.drain()

        events = speech(number)
        sending = asyncio.ensure_future(send())
        assert events == [payload_of(await client.next_item()) for _ in events]
        await sending

    async with scripted_relay(echo) as (relay, _), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(relay)) for _ in range(20)]
        await asyncio.gather(*(converse(client, number) for number, client in enumerate(clients)))

        name, direction = "realtime_relay_forwarded_messages_total", {"direction": "upstream_to_client"}
        total = len(clients) * (events_per_session + 1)
        await eventually(lambda: relay.metric(name, **direction) == total)  # audio is counted at a tick


@pytest.mark.parametrize("size", [1000, 16_000], ids=["many small", "fewer large"])
async def test_firehose_session_does_not_starve_thirty_others(size: int) -> None:
    """Each of them exchanges events as often as the others."""
    delta = b'{"type":"response.output_audio.delta","delta":"' + b"A" * size + b'"}'
    others, exchanges = 30, 20

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            if payload != b"flood":
                connection.send(payload)
                continue
            closing = asyncio.ensure_future(connection.until_close())
            while not closing.done():
                connection.send(delta)
                draining = asyncio.ensure_future(connection.writer.drain())
                await asyncio.wait([draining, closing], return_when=asyncio.FIRST_COMPLETED)
                if not draining.cancel():
                    draining.exception()
                await asyncio.sleep(0)
            return

    async with scripted_relay(script) as (relay, _), contextlib.AsyncExitStack() as stack:
        firehose = await stack.enter_async_context(open_client(relay))
        clients = [await stack.enter_async_context(open_client(relay)) for _ in range(others)]
        done = [0] * others
        behind: list[int] = []  # how far the slowest of them is behind the fastest, at each exchange

        async def read_all() -> None:
            while await firehose.reader.read(65_536):
                pass

        async def exchange(number: int) -> None:
            for count in range(exchanges):
                clients[number].send_event(type="session.update", number=count)
                assert count == (await clients[number].next_event())["number"]
                done[number] += 1
                behind.append(max(done) - min(done))

        relay_session = next(iter(relay.app.sessions))
        firehose.send_frame(Opcode.TEXT, b"flood")
        reading = asyncio.ensure_future(read_all())
        await eventually(lambda: relay_session._to_client.forwarded_bytes > MIB)
        bytes_before = relay_session._to_client.forwarded_bytes
        await asyncio.gather(*(exchange(number) for number in range(others)))
        flooded = relay_session._to_client.forwarded_bytes - bytes_before
        firehose.send_frame(Opcode.CLOSE, b"\x03\xe8")
        await reading

        assert [exchanges] * others == done
        assert max(behind) <= 3
        # The flood went on, at its share only: about one read and write in the time of one exchange of all others.
        assert 0 < flooded
        assert flooded / exchanges < 4 * READ_BYTES


AUDIO: Final = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 4000 + b'"}'


def half_a_frame() -> tuple[bytes, bytes]:
    """What a client sends, and the part that may reach upstream."""
    return build_frame(Opcode.TEXT, AUDIO, b"abcd")[:2000], b""


def half_a_message() -> tuple[bytes, bytes]:
    """A whole fragment is forwarded, half a fragment is not."""
    first = build_frame(Opcode.TEXT, AUDIO, b"abcd")
    fragment = bytes((first[0] & 0x7F,)) + first[1:]
    return fragment + build_frame(Opcode.CONTINUATION, AUDIO, b"abcd")[:2000], fragment


@pytest.mark.parametrize("method", ["fin", "reset"])
@pytest.mark.parametrize("what", [half_a_frame, half_a_message])
async def test_client_disconnect_inside_a_message_forwards_whole_frames_only(
    what: Callable[[], tuple[bytes, bytes]], method: str
) -> None:
    """Behind them upstream gets close code 1001."""
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        data = b""
        while piece := await connection.reader.read(65_536):
            data += piece
            if data.endswith(b"\x88") or b"\x88\x82" in data[-8:]:
                connection.send_close(1001)
        received.set_result(data)

    sent, expected = what()
    async with scripted_relay(script) as (relay, _), open_client(relay) as client:
        relay_session = newest_session(relay)
        await asyncio.sleep(0.01)  # the loop's clock has a resolution of 1 ms
        client.writer.write(sent)
        await eventually(
            lambda: (
                relay_session._client.last_alive_at > relay_session._watch.started_at
                and relay_session._to_upstream.forwarded_bytes == len(expected)
            )
        )
        await asyncio.sleep(0.05)  # the rest of it is in the scanner, which offers nothing to wait for
        client.reset() if method == "reset" else client.writer.write_eof()
        data = await within(received, 2)

        assert expected == data[:-8]
        close = Scanner(masked=True, max_message_bytes=1).feed(data[-8:])
        assert [ControlFrame(Opcode.CLOSE, close_payload(1001))] == close
