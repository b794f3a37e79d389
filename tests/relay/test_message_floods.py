"""E7 to E14: floods of messages, the largest and the unfinished ones, and whether those who behave notice any of it."""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Control
from service.relay.session import Session
from service.relay.watchdog import RATE_WINDOW_SECONDS
from tests.support.harness import RawClient, Relay, eventually, open_raw, payload_of
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.scripted_upstream import scripted_relay

PATH: Final = "/v1/realtime?model=scripted"
CAP: Final = 65_536
MIB: Final = 1 << 20
READ_BYTES: Final = 256 * 1024
"""The most that asyncio reads at once."""


@asynccontextmanager
async def client_of(relay: Relay) -> AsyncIterator[RawClient]:
    """A client past its first event."""
    client = await open_raw(relay.app.public_port, PATH)
    try:
        assert (await client.next_event())["type"] == "session.created"
        yield client
    finally:
        await client.close()


async def echo(connection: ServerConnection) -> None:
    """An upstream that says back what it hears."""
    connection.send(CREATED)
    async for payload in connection.messages():
        connection.send(payload)
        await connection.writer.drain()


def newest(relay: Relay) -> Session:
    """The session that began last."""
    return tuple(relay.app.sessions)[-1]


MOST: Final = 500
PING: Final = build_frame(Opcode.PING, b"p", b"abcd")
PONG: Final = build_frame(Opcode.PONG, b"p", b"abcd")
TINY: Final = build_frame(Opcode.TEXT, b"x", b"abcd")
FRAGMENT: Final = b"\x00\x80abcd"


@pytest.mark.parametrize(
    ("before", "frame"),
    [
        pytest.param(b"", PING, id="E7 pings"),
        pytest.param(b"", PONG, id="E7 unasked pongs"),
        pytest.param(b"", TINY, id="E8 messages of one byte"),
        pytest.param(b"\x01\x80abcd", FRAGMENT, id="fragments"),
    ],
)
async def test_e7_e8_a_flood_of_small_frames(before: bytes, frame: bytes) -> None:
    """It ends with 1008 rate_exceeded, upstream is told goodbye, and another session's turns go on all the while."""
    over = int(MOST * RATE_WINDOW_SECONDS) + 1
    async with (
        scripted_relay(echo, RELAY_MAX_MESSAGES_PER_SECOND=str(MOST)) as (relay, _),
        client_of(relay) as other,
        client_of(relay) as client,
    ):
        live = newest(relay)
        client.writer.write(before + frame * over)
        turns = 0
        async with asyncio.timeout(2):
            while not live._ended.done():
                other.send_event(type="session.update", turn=turns)
                assert turns == (await other.next_event())["turn"]
                turns += 1
                await asyncio.sleep(0.005)  # the other one is not to be a flood, too

        event: Any = {"type": ""}
        while event is not None and event["type"] != "error":  # echoes come first
            item = await client.next_item()
            event = json.loads(payload_of(item)) if isinstance(item, bytes) and len(item) > 10 else {"type": ""}
        assert event["error"]["code"] == "rate_exceeded"
        assert (1008, CATALOGUE["rate_exceeded"].close_text) == await client.until_close()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="rate_exceeded")
        assert turns > 0


async def test_e8_just_below_the_limit() -> None:
    """As many messages as are allowed within the window, all at once, are no flood: all come back."""
    allowed = int(MOST * RATE_WINDOW_SECONDS)
    async with (
        scripted_relay(echo, RELAY_MAX_MESSAGES_PER_SECOND=str(MOST)) as (relay, _),
        client_of(relay) as client,
    ):
        client.writer.write(build_frame(Opcode.TEXT, b"x", b"abcd") * allowed)
        expected = build_frame(Opcode.TEXT, b"x")
        assert all([expected == await client.next_item() for _ in range(allowed)])
        await asyncio.sleep(0.6)  # the clock has looked
        assert not newest(relay)._ended.done()


async def test_e9_the_largest_legal_event_both_ways() -> None:
    """An event of 15 MiB arrives byte for byte in both directions at once, a ping amid it is answered behind a frame only.

    Another session has its turns meanwhile.
    """
    up, down = (os.urandom(15 * MIB // 2).hex().encode() for _ in range(2))
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            if len(payload) > MIB:
                heard.set_result(payload)
            else:
                connection.send(down if payload == b"begin" else payload)

    async def hear(client: RawClient) -> list[Any]:
        return [await client.next_item(), await client.next_item()]

    async with scripted_relay(script) as (relay, _), client_of(relay) as other, client_of(relay) as client:
        client.send_frame(Opcode.TEXT, b"begin")
        hearing = asyncio.ensure_future(hear(client))
        await eventually(lambda: newest(relay)._client._mid_frame)
        first = build_frame(Opcode.TEXT, up[:MIB], b"abcd")
        client.writer.write(bytes((first[0] & 0x7F,)) + first[1:])
        client.send_frame(Opcode.PING, b"p")
        client.send_frame(Opcode.CONTINUATION, up[MIB:])
        turns = 0
        while not (hearing.done() and heard.done()):
            other.send_event(type="session.update", turn=turns)
            assert turns == (await asyncio.wait_for(other.next_event(), 5))["turn"]
            turns += 1

        message, pong = hearing.result()
        assert hashlib.sha256(down).hexdigest() == hashlib.sha256(payload_of(message)).hexdigest()
        assert hashlib.sha256(up).hexdigest() == hashlib.sha256(heard.result()).hexdigest()
        assert Control(Opcode.PONG, b"p") == pong
        assert turns > 2
        assert not any(session._ended.done() for session in relay.app.sessions)


def in_pieces(size: int, pieces: int, key: bytes = b"") -> bytes:
    """A message of so many bytes in so many frames."""
    frames = []
    for number in range(pieces):
        piece = size * (number + 1) // pieces - size * number // pieces
        frame = build_frame(Opcode.CONTINUATION if number else Opcode.TEXT, b"x" * piece, key)
        frames.append(frame if number == pieces - 1 else bytes((frame[0] & 0x7F,)) + frame[1:])
    return b"".join(frames)


@pytest.mark.parametrize("pieces", [1, 3], ids=["whole", "in fragments"])
async def test_e10_the_cap_for_a_client(pieces: int) -> None:
    """A message of the cap passes; one byte more is refused with 1009, and upstream is told an ordinary goodbye."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    right = in_pieces(CAP, pieces, b"abcd")
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        heard.set_result(await connection.reader.readexactly(len(right)))
        told.set_result(await connection.until_close())

    async with scripted_relay(script, RELAY_MAX_MESSAGE_BYTES=str(CAP)) as (relay, _), client_of(relay) as client:
        client.writer.write(right)
        assert right == await asyncio.wait_for(heard, 2)
        assert not newest(relay)._ended.done()
        client.writer.write(in_pieces(CAP + 1, pieces, b"abcd"))

        assert (await client.next_event())["error"]["code"] == "message_too_big"
        assert (1009, CATALOGUE["message_too_big"].close_text) == await client.until_close()
        if pieces == 1:
            assert (1001, "") == await asyncio.wait_for(told, 2)
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="message_too_big")


@pytest.mark.parametrize("pieces", [1, 3], ids=["whole", "in fragments"])
async def test_e10_the_cap_for_upstream(pieces: int) -> None:
    """A message of the cap passes; at one byte more upstream is told 1009 and the client 1011, as it has only received."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(in_pieces(CAP, pieces))
        await go.wait()
        connection.writer.write(in_pieces(CAP + 1, pieces))
        told.set_result(await connection.until_close())

    async with scripted_relay(script, RELAY_MAX_MESSAGE_BYTES=str(CAP)) as (relay, _), client_of(relay) as client:
        assert in_pieces(CAP, pieces) == await client.next_item()
        assert not newest(relay)._ended.done()
        go.set()

        assert (1009, "") == await asyncio.wait_for(told, 2)
        if pieces == 1:  # else fragments have gone on, and an event of the relay's own would be one more of them
            assert (await client.next_event())["error"]["code"] == "message_too_big"
        assert (1011, CATALOGUE["message_too_big"].close_text) == await client.until_close()


async def test_e11_speech_in_many_sessions() -> None:
    """Twenty sessions with a hundred pieces of speech of 5 kB each way, all at once: each arrives whole and in order."""
    pieces = 100

    def speech(session: int) -> list[bytes]:
        """Pieces that tell their session and place, chained by their hashes."""
        chain, events = hashlib.sha256(b"%d" % session).hexdigest(), []
        for _ in range(pieces):
            chain = hashlib.sha256(chain.encode()).hexdigest()
            events.append(b'{"type":"input_audio_buffer.append","audio":"%s"}' % (chain.encode() * 78))
        return events

    async def converse(client: RawClient, number: int) -> None:
        async def speak() -> None:
            for event in events:
                client.send_frame(Opcode.TEXT, event)
                await client.writer.drain()

        events = speech(number)
        speaking = asyncio.ensure_future(speak())
        assert events == [payload_of(await client.next_item()) for _ in events]
        await speaking

    async with scripted_relay(echo) as (relay, _), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(relay)) for _ in range(20)]
        await asyncio.gather(*(converse(client, number) for number, client in enumerate(clients)))

        direction = {"direction": "upstream_to_client"}
        assert len(clients) * (pieces + 1) == relay.metric("realtime_relay_forwarded_messages_total", **direction)


@pytest.mark.parametrize("size", [1000, 16_000], ids=["many small", "fewer large"])
async def test_e13_one_firehose_and_many_talkers(size: int) -> None:
    """Beside a session that is poured into without pause, thirty others have their turns, each as often as any other."""
    delta = b'{"type":"response.output_audio.delta","delta":"' + b"A" * size + b'"}'
    talkers, turns = 30, 20

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            if payload != b"pour":
                connection.send(payload)
                continue
            listening = asyncio.ensure_future(connection.until_close())
            while not listening.done():
                connection.send(delta)
                draining = asyncio.ensure_future(connection.writer.drain())
                await asyncio.wait([draining, listening], return_when=asyncio.FIRST_COMPLETED)
                if not draining.cancel():
                    draining.exception()
                await asyncio.sleep(0)
            return

    async with scripted_relay(script) as (relay, _), contextlib.AsyncExitStack() as stack:
        firehose = await stack.enter_async_context(client_of(relay))
        clients = [await stack.enter_async_context(client_of(relay)) for _ in range(talkers)]
        done = [0] * talkers
        behind: list[int] = []  # how far the slowest talker is behind the fastest, at each turn

        async def swallow() -> None:
            while await firehose.reader.read(65_536):
                pass

        async def talk(number: int) -> None:
            for turn in range(turns):
                clients[number].send_event(type="session.update", turn=turn)
                assert turn == (await clients[number].next_event())["turn"]
                done[number] += 1
                behind.append(max(done) - min(done))

        live = next(iter(relay.app.sessions))
        firehose.send_frame(Opcode.TEXT, b"pour")
        swallowing = asyncio.ensure_future(swallow())
        await eventually(lambda: live._to_client.bytes > MIB)
        poured = live._to_client.bytes
        await asyncio.gather(*(talk(number) for number in range(talkers)))
        poured = live._to_client.bytes - poured
        firehose.send_frame(Opcode.CLOSE, b"\x03\xe8")
        await swallowing

        assert [turns] * talkers == done
        assert max(behind) <= 3
        # The firehose went on, and had no more than its share: in the time of one round of all, at most one read and write.
        assert 0 < poured
        assert poured / turns < 4 * READ_BYTES


AUDIO: Final = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 4000 + b'"}'


def half_a_frame() -> tuple[bytes, bytes]:
    """What a client sends, and what of it may reach upstream."""
    return build_frame(Opcode.TEXT, AUDIO, b"abcd")[:2000], b""


def half_a_message() -> tuple[bytes, bytes]:
    """A whole fragment goes on, since nobody can know that the next will not come; half a fragment does not."""
    first = build_frame(Opcode.TEXT, AUDIO, b"abcd")
    fragment = bytes((first[0] & 0x7F,)) + first[1:]
    return fragment + build_frame(Opcode.CONTINUATION, AUDIO, b"abcd")[:2000], fragment


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("what", [half_a_frame, half_a_message])
async def test_e14_a_client_dies_inside_a_message(what: Callable[[], tuple[bytes, bytes]], how: str) -> None:
    """No part of a frame reaches upstream; behind what did, it is told goodbye with 1001."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        data = b""
        while piece := await connection.reader.read(65_536):
            data += piece
            if data.endswith(b"\x88") or b"\x88\x82" in data[-8:]:
                connection.send_close(1001)
        heard.set_result(data)

    sent, expected = what()
    async with scripted_relay(script) as (relay, _), client_of(relay) as client:
        live = newest(relay)
        await asyncio.sleep(0.01)  # the loop's time moves on by milliseconds only
        client.writer.write(sent)
        await eventually(
            lambda: live._client.last_alive_at > live._started_at and live._to_upstream.bytes == len(expected)
        )
        await asyncio.sleep(0.05)  # the rest of it is in the scanner, where nothing can be waited for
        client.reset() if how == "reset" else client.writer.write_eof()
        data = await asyncio.wait_for(heard, 2)

        assert expected == data[:-8]
        goodbye = Scanner(masked=True, max_message_bytes=1).feed(data[-8:])
        assert [Control(Opcode.CLOSE, close_payload(1001))] == goodbye
