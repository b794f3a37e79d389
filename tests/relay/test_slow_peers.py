"""E1 to E6, E12: peers that read slowly or not at all. What they cost is bounded, and who reads gets everything.

Twenty seconds are eight tenths of a second here, and the other limits shrink with them.
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
from service.realtime.closing import parse_close
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import MAX_BUFFERED_FRAME_BYTES, Scanner
from service.realtime.scanner_items import Chunk, Control
from service.relay.session import Session
from service.relay.watchdog import SessionLimits
from service.wire.leg import WRITE_HIGH_BYTES, Leg
from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.raw_websocket_server import CREATED, RawUpstream, Script, ServerConnection
from tests.support.scripted_upstream import scripted_relay

PATH: Final = "/v1/realtime?model=scripted"
READ_BYTES: Final = 256 * 1024  # the most that asyncio reads at once
BOUND: Final = WRITE_HIGH_BYTES + READ_BYTES + MAX_BUFFERED_FRAME_BYTES
"""What may wait for a peer that does not read, as docs/architecture.md has it."""
KERNEL_BYTES: Final = 131_072
"""What the kernel may keep on either side of a connection; it takes twice that. On loopback less makes TCP crawl."""
SLOW_SECONDS: Final = 0.8
LIMITS: Final = SessionLimits(
    max_message_bytes=1 << 24, slow_seconds=SLOW_SECONDS, ping_seconds=SLOW_SECONDS, silent_seconds=2 * SLOW_SECONDS
)
DELTA: Final = build_frame(Opcode.TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 16_000 + b'"}')
APPEND: Final = build_frame(
    Opcode.TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 16_000 + b'"}', b"key1"
)
CREATED_FRAME: Final = build_frame(Opcode.TEXT, CREATED)


@pytest.fixture(autouse=True)
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog looks as often as suits the shrunken limits."""
    monkeypatch.setattr("service.relay.ticker.TICK_SECONDS", 0.05)


@pytest.fixture
def most_buffered(monkeypatch: pytest.MonkeyPatch) -> dict[Leg, int]:
    """The most that each leg has held back."""
    most: dict[Leg, int] = {}
    real = Leg.write

    def write(self: Leg, raw: bytes, *, mid_frame: bool = False) -> None:
        real(self, raw, mid_frame=mid_frame)
        most[self] = max(most.get(self, 0), self.buffered_bytes)

    monkeypatch.setattr(Leg, "write", write)
    return most


@asynccontextmanager
async def relay_without_complaints(script: Script) -> AsyncIterator[tuple[Relay, RawUpstream]]:
    """A relay before a scripted upstream. Afterwards no loop has complained."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with scripted_relay(script) as found:
        yield found
    assert [] == complaints


@asynccontextmanager
async def client_of(relay: Relay, *, room: int = KERNEL_BYTES) -> AsyncIterator[tuple[RawClient, Session]]:
    """A client past its first event, for which the kernels between it and the relay keep little; and its session."""
    known = set(relay.app.sessions)

    async def connect(host: str, port: int, *, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        # With loopback's own segments of 64 kB a small window opens by jerks only.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1448)
        await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return await real_connect(sock=sock, limit=limit)

    real_connect = asyncio.open_connection
    with patch("asyncio.open_connection", connect):
        client = await open_raw(relay.app.public_port, PATH)
    try:
        assert CREATED_FRAME == await client.reader.readexactly(len(CREATED_FRAME))
        live = next(iter(set(relay.app.sessions) - known))
        live._limits = LIMITS
        narrow(client, room)
        for leg in (live._client, live._upstream):
            leg._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        yield client, live
    finally:
        await client.close()


def narrow(peer: RawClient | ServerConnection, room: int = KERNEL_BYTES) -> None:
    """Little room for what comes, in the kernel and in the reader."""
    peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    peer.reader._limit = 4096  # type: ignore[attr-defined]  # a stream has one


def deafen(peer: RawClient | ServerConnection) -> None:
    """Read nothing."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read


def listen_again(peer: RawClient | ServerConnection) -> None:
    """Read on."""
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read


def pouring(told: "asyncio.Future[Any]") -> Script:
    """An upstream that sends without end, whatever becomes of it, until it is told goodbye."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        closing = asyncio.ensure_future(connection.until_close())
        while not closing.done():
            connection.writer.write(DELTA)
            draining = asyncio.ensure_future(connection.writer.drain())
            await asyncio.wait([closing, draining], return_when=asyncio.FIRST_COMPLETED)
            if not draining.cancel():
                draining.exception()  # the relay has hung up: the test looks at what was told
        told.set_result(await closing)

    return script


def is_held(leg: Leg) -> bool:
    """Whether a leg is held back for good, and not just until the kernel has found some room."""
    return leg.held_since is not None and asyncio.get_running_loop().time() - leg.held_since > SLOW_SECONDS / 4


async def test_e1_e6_a_client_that_reads_nothing(most_buffered: dict[Leg, int]) -> None:
    """It costs a bounded piece, upstream is stopped, and after its time it is cut off with reason, count and log line."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    async with relay_without_complaints(pouring(told)) as (relay, _), client_of(relay) as (client, live):
        deafen(client)
        down = live._to_client
        await eventually(lambda: is_held(live._upstream))
        taken = down.bytes
        await eventually(live._ended.done, 4 * SLOW_SECONDS)

        assert taken == down.bytes
        assert WRITE_HIGH_BYTES < most_buffered[live._client] <= BOUND
        assert (1001, "") == await asyncio.wait_for(told, 2)
        await eventually(lambda: bool(relay.events("session.ended")))
        line = relay.events("session.ended")[0]
        assert ("client_too_slow", "client", "warning") == (line["reason"], line["blame"], line["log_level"])
        assert live.info.session_id == line["session_id"]
        assert line["held_back_seconds"] >= SLOW_SECONDS - 0.01
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="client_too_slow")
        held = relay.metric("realtime_relay_backpressure_seconds_total", direction="upstream_to_client")
        assert held >= SLOW_SECONDS - 0.01  # the loop's clock counts milliseconds
        assert [] == relay.events("request.failed") == relay.events("session.failed")
        listen_again(client)
        with contextlib.suppress(ConnectionError):
            assert await client.until_close() is None  # aborted: no CLOSE, which is 1006 to its library


async def test_e4_an_upstream_that_reads_nothing(most_buffered: dict[Leg, int]) -> None:
    """It costs a bounded piece, the client is stopped, and after its time the client is told upstream_too_slow."""
    done = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        narrow(connection)
        deafen(connection)
        await done.wait()
        listen_again(connection)
        await connection.wait_closed()

    async with relay_without_complaints(script) as (relay, _), client_of(relay) as (client, live):
        client.writer.write(APPEND * 200)
        up = live._to_upstream
        await eventually(lambda: is_held(live._client))
        taken = up.bytes
        assert (await client.next_event())["error"]["code"] == "upstream_too_slow"
        assert (1011, CATALOGUE["upstream_too_slow"].close_text) == await client.until_close()

        assert taken == up.bytes
        assert WRITE_HIGH_BYTES < most_buffered[live._upstream] <= BOUND
        done.set()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        line = relay.events("session.ended")[0]
        assert ("upstream_too_slow", "provider") == (line["reason"], line["blame"])
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="upstream_too_slow")


class Ear:
    """Reads a peer's data frames at whatever pace, and answers the pings between them."""

    def __init__(self, peer: RawClient | ServerConnection) -> None:
        self._peer = peer
        self._is_client = isinstance(peer, RawClient)
        self._scanner = Scanner(masked=not self._is_client, max_message_bytes=1 << 24)
        self._heard = bytearray()
        self.pings = 0
        self.close: tuple[int | None, str] | None = None

    async def hear(self, size: int, *, most: int = 65_536, pause: float = 0.0) -> bytes:
        """The next so many bytes of data frames, or what comes before a CLOSE, reading `most` at once."""
        while len(self._heard) < size and self.close is None:
            if pause:
                await asyncio.sleep(pause)
            data = await self._peer.reader.read(most)
            assert data, f"the stream ended after {len(self._heard)} of {size} bytes"
            for item in self._scanner.feed(data):
                match item:
                    case Chunk(raw, _):
                        self._heard += raw
                    case Control(Opcode.PING, payload):
                        self.pings += 1
                        key = b"abcd" if self._is_client else b""
                        self._peer.writer.write(build_frame(Opcode.PONG, payload, key))
                    case Control(Opcode.CLOSE, payload):
                        self.close = parse_close(payload)
        heard = bytes(self._heard[:size])
        del self._heard[:size]
        return heard


async def stop(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and see it gone."""
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_e5_a_pause_below_the_limit(side: str) -> None:
    """Who reads nothing for three quarters of the limit, twice, and else answers pings, is not cut off; all arrives."""
    count = 80
    pings: list[int] = []

    async def take_pauses(peer: RawClient | ServerConnection, frame: bytes) -> None:
        ear = Ear(peer)
        for _ in range(2):
            deafen(peer)
            await asyncio.sleep(0.75 * SLOW_SECONDS)
            listen_again(peer)
            assert frame * count == await ear.hear(len(frame) * count)
        pings.append(ear.pings)

    async def send_and_answer(peer: RawClient | ServerConnection, frame: bytes) -> None:
        answering = asyncio.ensure_future(Ear(peer).hear(1))
        for _ in range(2 * count):
            peer.writer.write(frame)
            await peer.writer.drain()
        await finished.wait()
        await stop(answering)

    finished = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        narrow(connection)
        await (take_pauses(connection, APPEND) if side == "upstream" else send_and_answer(connection, DELTA))
        finished.set()
        await connection.wait_closed()

    async with relay_without_complaints(script) as (relay, _), client_of(relay) as (client, live):
        if side == "client":
            await take_pauses(client, DELTA)
            finished.set()
        else:
            await send_and_answer(client, APPEND)

        assert pings[0] > 0
        assert not live._ended.done()
        assert live._to_upstream.held_back_seconds + live._to_client.held_back_seconds > SLOW_SECONDS


async def test_e2_a_client_that_reads_slowly() -> None:
    """Who reads on, however slowly, is not taken for one who does not: everything arrives, in order."""
    count = 24
    finished = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        answering = asyncio.ensure_future(Ear(connection).hear(1))
        for _ in range(count):
            connection.writer.write(DELTA)
        await finished.wait()
        await stop(answering)
        await connection.wait_closed()

    async with relay_without_complaints(script) as (relay, _), client_of(relay, room=32_768) as (client, live):
        live._limits = SessionLimits(max_message_bytes=1 << 24, slow_seconds=SLOW_SECONDS)
        # 160 kB/s: what the relay may hold takes two seconds, longer than a peer may read nothing.
        heard = await Ear(client).hear(count * len(DELTA), most=1600, pause=0.01)
        finished.set()

        assert hashlib.sha256(DELTA * count).digest() == hashlib.sha256(heard).digest()
        assert not live._ended.done(), live._ended.result().reason


@pytest.mark.parametrize("client_speaks", [False, True], ids=["silent client", "speaking client"])
async def test_e12_a_burst_and_a_close_for_a_slow_client(client_speaks: bool) -> None:
    """Three thousand messages of 1 kB, then CLOSE 4000 and an end of the connection: a slow client gets all, then 4000."""
    burst = b"".join(
        build_frame(Opcode.TEXT, b'{"type":"x","n":%d,"a":"' % number + b"A" * 1000 + b'"}') for number in range(3000)
    )

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(burst)
        connection.send_close(4000, "invalid_request_error.session_limit")
        await connection.writer.drain()
        if client_speaks:
            await (
                connection.until_close()
            )  # as RFC 6455 section 7.1.1 has it: the connection stays until both have said CLOSE

    async with relay_without_complaints(script) as (relay, _), client_of(relay) as (client, live):
        speaking = asyncio.ensure_future(speak(client)) if client_speaks else None
        ear, down = Ear(client), live._to_client
        heard = await ear.hear(len(burst) + 1, most=20_000, pause=0.002)
        if speaking is not None:
            await stop(speaking)

        assert hashlib.sha256(burst).digest() == hashlib.sha256(heard).digest()
        assert (4000, "invalid_request_error.session_limit") == ear.close
        assert down.held_back_seconds > 0
        await client.close()
        await eventually(lambda: [line["reason"] for line in relay.events("session.ended")] == ["upstream_closed"])


async def speak(client: RawClient) -> None:
    """Speech at its usual pace."""
    while True:
        client.send_event(type="input_audio_buffer.append", audio="A" * 1000)
        await asyncio.sleep(0.02)


async def test_e3_many_stuck_clients_and_some_that_talk(most_buffered: dict[Leg, int]) -> None:
    """While forty clients read nothing, five others talk as ever; memory is bounded by their number; only they are cut."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            for _ in range(100 if payload == b"pour" else 1):
                connection.writer.write(DELTA)

    async with relay_without_complaints(script) as (relay, _), contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(relay)) for _ in range(45)]
        stuck, talkers = clients[:40], clients[40:]
        for client, _live in stuck:
            deafen(client)
            client.send_frame(Opcode.TEXT, b"pour")
        await eventually(lambda: all(live._upstream.held_since is not None for _, live in stuck), 5)

        async def talk(client: RawClient) -> None:
            ear = Ear(client)
            for _ in range(30):
                client.send_frame(Opcode.TEXT, b"say")
                assert DELTA == await ear.hear(len(DELTA))

        await asyncio.gather(*(talk(client) for client, _ in talkers))
        assert all(most_buffered[live._client] <= BOUND for _, live in stuck)
        await eventually(lambda: len(relay.events("session.ended")) == len(stuck), 10)
        assert {"client_too_slow"} == {line["reason"] for line in relay.events("session.ended")}
        assert not any(live._ended.done() for _, live in talkers)
