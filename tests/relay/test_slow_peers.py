"""Peers that read slowly or not at all: the memory that they cost is bounded, and a peer that reads receives everything.

The limit of twenty seconds is 0.8 seconds here, and the other limits are scaled with it.
"""

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from unittest.mock import patch

import pytest

from service.failures import CATALOGUE
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES
from service.relay.pipe import Pipe
from service.relay.session import Session
from service.relay.watchdog import SessionLimits
from service.wire.leg import WRITE_HIGH_BYTES, Leg
from tests.support.frame_reader import FrameReader, pause_reading, resume_reading
from tests.support.harness import RawClient, Relay, eventually, open_raw, within
from tests.support.raw_websocket_server import CREATED, RawUpstream, Script, ServerConnection
from tests.support.scaled_limits import scale_limits
from tests.support.scripted_upstream import scripted_relay

PATH: Final = "/v1/realtime?model=scripted"
READ_BYTES: Final = 256 * 1024  # the largest read of asyncio
BOUND: Final = WRITE_HIGH_BYTES + READ_BYTES + MAX_BUFFERED_FRAME_BYTES
"""The limit on what a leg buffers for a peer that does not read (docs/architecture.md)."""
KERNEL_BYTES: Final = 131_072
"""The size of the kernel's buffers on both sides of a connection, which Linux doubles. With less, TCP on loopback stalls."""
SLOW_SECONDS: Final = 0.8
LIMITS: Final = SessionLimits(max_message_bytes=1 << 24, slow_seconds=SLOW_SECONDS, ping_seconds=SLOW_SECONDS)
"""The limit on silence is that of a service: no client that answers no ping while others open is lost before it is slow."""
DELTA: Final = build_frame(Opcode.TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 16_000 + b'"}')
APPEND: Final = build_frame(
    Opcode.TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 16_000 + b'"}', b"key1"
)
CREATED_FRAME: Final = build_frame(Opcode.TEXT, CREATED)


@pytest.fixture(autouse=True)
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tick as often as the scaled limits need it."""
    monkeypatch.setattr("service.relay.ticker.TICK_SECONDS", 0.05)


@pytest.fixture
def max_buffered(monkeypatch: pytest.MonkeyPatch) -> dict[Leg, int]:
    """The largest number of bytes that each leg has buffered."""
    largest: dict[Leg, int] = {}
    real_write, real_read = Leg.write, Pipe.read

    def look(leg: Leg) -> None:
        largest[leg] = max(largest.get(leg, 0), leg.buffered_bytes)

    def write(self: Leg, raw: bytes, *, mid_frame: bool = False) -> None:
        real_write(self, raw, mid_frame=mid_frame)
        look(self)

    def read(self: Pipe, data: bytes) -> None:
        real_read(self, data)
        look(self._sink)

    monkeypatch.setattr(Leg, "write", write)
    monkeypatch.setattr(Pipe, "read", read)
    return largest


@asynccontextmanager
async def clean_relay(script: Script) -> AsyncIterator[tuple[Relay, RawUpstream]]:
    """Run a relay with a scripted upstream; afterwards the event loop has reported no error."""
    loop_errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
    async with scripted_relay(script) as found:
        yield found
    assert [] == loop_errors


@asynccontextmanager
async def open_client(relay: Relay, *, buffer_bytes: int = KERNEL_BYTES) -> AsyncIterator[tuple[RawClient, Session]]:
    """Open a session with small kernel buffers between client and relay, and read its first event."""
    known = set(relay.app.sessions)

    async def connect(host: str, port: int, *, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        # With the segments of 64 kB that loopback uses, a small window stays closed most of the time.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return await real_connect(sock=sock, limit=limit)

    real_connect = asyncio.open_connection
    with patch("asyncio.open_connection", connect):
        client = await open_raw(relay.app.public_port, PATH)
    try:
        assert CREATED_FRAME == await client.reader.readexactly(len(CREATED_FRAME))
        relay_session = next(iter(set(relay.app.sessions) - known))
        scale_limits(relay_session, LIMITS)
        shrink_buffers(client, buffer_bytes)
        for leg in (relay_session._client, relay_session._upstream):
            leg._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        yield client, relay_session
    finally:
        await client.close()


def shrink_buffers(peer: RawClient | ServerConnection, buffer_bytes: int = KERNEL_BYTES) -> None:
    """Limit what the kernel and the reader buffer for a peer."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    peer.reader._limit = 4096  # type: ignore[attr-defined]  # a stream has one


def endless_sender(upstream_close: "asyncio.Future[Any]") -> Script:
    """An upstream that sends without end until it receives a close frame."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        closing = asyncio.ensure_future(connection.until_close())
        while not closing.done():
            connection.writer.write(DELTA)
            draining = asyncio.ensure_future(connection.writer.drain())
            await asyncio.wait([closing, draining], return_when=asyncio.FIRST_COMPLETED)
            if not draining.cancel():
                draining.exception()  # the relay has disconnected; the test checks the close frame
        upstream_close.set_result(await closing)

    return script


def is_held(leg: Leg, seconds: float = SLOW_SECONDS / 4) -> bool:
    """Whether a leg is held for so long, by default for longer than the kernel needs to make room."""
    return leg.held_since is not None and leg._loop.time() - leg.held_since > seconds


async def test_client_that_reads_nothing_is_aborted(max_buffered: dict[Leg, int]) -> None:
    """The memory is bounded, upstream is held, and the ending has its reason, count and log line."""
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    async with clean_relay(endless_sender(upstream_close)) as (relay, _), open_client(relay) as (client, relay_session):
        pause_reading(client)
        pipe = relay_session._to_client
        await eventually(lambda: is_held(relay_session._upstream))
        forwarded = pipe.forwarded_bytes
        await eventually(relay_session._ended.done, 4 * SLOW_SECONDS)

        assert forwarded == pipe.forwarded_bytes
        assert WRITE_HIGH_BYTES < max_buffered[relay_session._client] <= BOUND
        assert (1001, "") == await within(upstream_close, 2)
        await eventually(lambda: bool(relay.events("session.ended")))
        line = relay.events("session.ended")[0]
        assert ("client_too_slow", "client", "warning") == (line["reason"], line["blame"], line["log_level"])
        assert relay_session.info.session_id == line["session_id"]
        assert line["held_back_seconds"] >= SLOW_SECONDS - 0.01
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="client_too_slow")
        held = relay.metric("realtime_relay_backpressure_seconds_total", direction="upstream_to_client")
        assert held >= SLOW_SECONDS - 0.01  # the loop's clock has a resolution of 1 ms
        assert [] == relay.events("request.failed") == relay.events("session.failed")
        resume_reading(client)
        with contextlib.suppress(ConnectionError):
            assert await client.until_close() is None  # aborted without a close frame, which a library reports as 1006


async def test_upstream_that_reads_nothing_ends_the_session(max_buffered: dict[Leg, int]) -> None:
    """The memory is bounded, the client is held, and the client gets upstream_too_slow."""
    done = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        shrink_buffers(connection)
        pause_reading(connection)
        await done.wait()
        resume_reading(connection)
        await connection.wait_closed()

    async with clean_relay(script) as (relay, _), open_client(relay) as (client, relay_session):
        client.writer.write(APPEND * 200)
        pipe = relay_session._to_upstream
        await eventually(lambda: is_held(relay_session._client))
        forwarded = pipe.forwarded_bytes
        assert (await client.next_event())["error"]["code"] == "upstream_too_slow"
        assert (1011, CATALOGUE["upstream_too_slow"].close_text) == await client.until_close()

        assert forwarded == pipe.forwarded_bytes
        assert WRITE_HIGH_BYTES < max_buffered[relay_session._upstream] <= BOUND
        done.set()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        line = relay.events("session.ended")[0]
        assert ("upstream_too_slow", "provider") == (line["reason"], line["blame"])
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="upstream_too_slow")


async def cancel(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for it."""
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_reading_pause_below_the_limit_is_allowed(side: str) -> None:
    """Two pauses of three quarters of the limit; everything arrives."""
    count = 80
    pings: list[int] = []

    async def read_with_pauses(peer: RawClient | ServerConnection, frame: bytes) -> None:
        reader = FrameReader(peer)
        for _ in range(2):
            pause_reading(peer)
            await eventually(lambda: is_held(senders[0], 0.75 * SLOW_SECONDS))
            resume_reading(peer)
            assert frame * count == await reader.read(len(frame) * count)
        pings.append(reader.pings)

    async def send_and_answer(peer: RawClient | ServerConnection, frame: bytes) -> None:
        answering = asyncio.ensure_future(FrameReader(peer).read(1))
        for _ in range(2 * count):
            peer.writer.write(frame)
            await peer.writer.drain()
        await finished.wait()
        await cancel(answering)

    finished, opened = asyncio.Event(), asyncio.Event()
    senders: list[Leg] = []

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        shrink_buffers(connection)
        await opened.wait()
        await (read_with_pauses(connection, APPEND) if side == "upstream" else send_and_answer(connection, DELTA))
        finished.set()
        await connection.wait_closed()

    async with clean_relay(script) as (relay, _), open_client(relay) as (client, relay_session):
        senders.append(relay_session._client if side == "upstream" else relay_session._upstream)
        opened.set()
        if side == "client":
            await read_with_pauses(client, DELTA)
            finished.set()
        else:
            await send_and_answer(client, APPEND)

        assert pings[0] > 0
        assert not relay_session._ended.done()
        assert relay_session._to_upstream.held_back_seconds + relay_session._to_client.held_back_seconds > SLOW_SECONDS


async def test_client_that_reads_slowly_receives_everything() -> None:
    """Its progress is seen, although its leg is full for longer than the limit."""
    count = 24
    finished = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        answering = asyncio.ensure_future(FrameReader(connection).read(1))
        for _ in range(count):
            connection.writer.write(DELTA)
        await finished.wait()
        await cancel(answering)
        await connection.wait_closed()

    async with clean_relay(script) as (relay, _), open_client(relay, buffer_bytes=32_768) as (client, relay_session):
        # 160 kB/s: what the relay buffers takes two seconds, longer than a peer may read nothing.
        received = await FrameReader(client).read(count * len(DELTA), limit=1600, pause=0.01)
        finished.set()

        assert hashlib.sha256(DELTA * count).digest() == hashlib.sha256(received).digest()
        assert not relay_session._ended.done(), relay_session._ended.result().reason


@pytest.mark.parametrize("client_sends", [False, True], ids=["silent client", "sending client"])
async def test_slow_client_receives_a_burst_and_the_close_behind_it(client_sends: bool) -> None:
    """Three thousand messages of 1 kB, then close code 4000 and FIN."""
    burst = b"".join(
        build_frame(Opcode.TEXT, b'{"type":"x","n":%d,"a":"' % number + b"A" * 1000 + b'"}') for number in range(3000)
    )

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(burst)
        connection.send_close(4000, "invalid_request_error.session_limit")
        await connection.writer.drain()
        if client_sends:
            await connection.until_close()  # the closing handshake of RFC 6455 section 7.1.1

    async with clean_relay(script) as (relay, _), open_client(relay) as (client, relay_session):
        speech_task = asyncio.ensure_future(send_speech(client)) if client_sends else None
        reader, pipe = FrameReader(client), relay_session._to_client
        pause_reading(client)
        await eventually(lambda: pipe.is_held_back)
        resume_reading(client)
        received = await reader.read(len(burst) + 1, limit=20_000, pause=0.002)
        if speech_task is not None:
            await cancel(speech_task)

        assert hashlib.sha256(burst).digest() == hashlib.sha256(received).digest()
        assert (4000, "invalid_request_error.session_limit") == reader.close
        assert pipe.held_back_seconds > 0
        await client.close()
        await eventually(lambda: [line["reason"] for line in relay.events("session.ended")] == ["upstream_closed"])


async def send_speech(client: RawClient) -> None:
    """Send speech at its usual rate."""
    while True:
        client.send_event(type="input_audio_buffer.append", audio="A" * 1000)
        await asyncio.sleep(0.02)


async def test_forty_stuck_clients_do_not_disturb_five_others(max_buffered: dict[Leg, int]) -> None:
    """The memory is bounded for each; only the stuck clients are aborted."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            for _ in range(100 if payload == b"flood" else 1):
                connection.writer.write(DELTA)

    async with clean_relay(script) as (relay, _), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(relay)) for _ in range(45)]
        stuck, others = clients[:40], clients[40:]
        for client, _ in stuck:
            pause_reading(client)
            client.send_frame(Opcode.TEXT, b"flood")
        await eventually(lambda: all(found._upstream.held_since or found._ended.done() for _, found in stuck), 5)

        async def exchange(client: RawClient) -> None:
            reader = FrameReader(client)
            for _ in range(30):
                client.send_frame(Opcode.TEXT, b"one")
                assert DELTA == await reader.read(len(DELTA))

        await asyncio.gather(*(exchange(client) for client, _ in others))
        assert all(max_buffered[relay_session._client] <= BOUND for _, relay_session in stuck)
        await eventually(lambda: len(relay.events("session.ended")) == len(stuck), 10)
        assert {"client_too_slow"} == {line["reason"] for line in relay.events("session.ended")}
        assert not any(relay_session._ended.done() for _, relay_session in others)
