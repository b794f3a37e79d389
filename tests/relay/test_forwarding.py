"""Forwarding: nothing is lost, reordered or changed, backpressure bounds the memory, control frames stay on their leg."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.realtime.frames import Opcode, build_frame
from service.relay.closing_sides import CLIENT_CLOSE_SECONDS
from service.relay.watchdog import SessionLimits
from service.wire.leg import WRITE_HIGH_BYTES
from tests.support.frame_reader import FrameReader
from tests.support.harness import RawClient, Relay, eventually, open_raw, running_relay, within
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection, raw_upstream
from tests.support.scaled_limits import scale_limits

PATH = "/v1/realtime?model=scripted"
READ_BYTES = 256 * 1024  # the largest read of asyncio


@asynccontextmanager
async def session(
    script: Script, behind_101: bytes = b"", behind_request: bytes = b""
) -> AsyncIterator[tuple[Relay, RawClient]]:
    """Open a session with a scripted upstream."""
    async with (
        raw_upstream(script, behind_101=behind_101) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, PATH, behind=behind_request)
        try:
            yield relay, client
        finally:
            await client.close()
        assert upstream.upgrades == 1


def frames_of(seed: int, *, masked: bool) -> list[bytes]:
    """The frames of messages of all sizes, some of them fragmented."""
    rng = random.Random(seed)
    frames = []
    for size in (0, 1, 125, 126, 4000, 65_535, 65_536, 65_537, 300_000, 1_000_000, *rng.choices(range(9000), k=60)):
        payload = b'{"type":"x.%d","a":"' % size + rng.randbytes(size).hex().encode()[:size] + b'"}'
        key = rng.randbytes(4) if masked else b""
        if rng.random() < 0.3:
            cut = rng.randrange(len(payload))
            first = build_frame(Opcode.TEXT, payload[:cut], key)
            frames.append(bytes((first[0] & 0x7F,)) + first[1:] + build_frame(Opcode.CONTINUATION, payload[cut:], key))
        else:
            frames.append(build_frame(Opcode.TEXT, payload, key))
    return frames


async def test_frames_of_all_sizes_are_forwarded_unchanged_in_both_directions() -> None:
    """Whole and fragmented, concurrently, however the bytes are cut; the counters are exact."""
    up, down = b"".join(frames_of(1, masked=True)), b"".join(frames_of(2, masked=False))
    received = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)

        async def read() -> None:
            received.set_result(hashlib.sha256(await FrameReader(connection).read(len(up))).hexdigest())

        reading = asyncio.ensure_future(read())
        rng = random.Random(3)
        at = 0
        while at < len(down):
            size = rng.choice((1, 3, 100, 5000, 100_000))
            connection.writer.write(down[at : at + size])
            await connection.writer.drain()
            at += size
        await reading
        await connection.wait_closed()

    async with session(script) as (relay, client):
        first = build_frame(Opcode.TEXT, CREATED)
        reader = FrameReader(client)
        assert first == await reader.read(len(first))
        client.writer.write(up)
        received_by_client = await reader.read(len(down))

        assert hashlib.sha256(down).hexdigest() == hashlib.sha256(received_by_client).hexdigest()
        assert hashlib.sha256(up).hexdigest() == await within(received, 10)
        count = len(frames_of(1, masked=True))
        for direction, size, messages in (
            ("client_to_upstream", len(up), count),
            ("upstream_to_client", len(down) + len(first), count + 1),
        ):
            labels = {"direction": direction}
            assert relay.metric("realtime_relay_forwarded_bytes_total", **labels) == size
            assert relay.metric("realtime_relay_forwarded_messages_total", **labels) == messages
        types = {"direction": "upstream_to_client"}
        assert relay.metric("realtime_relay_events_total", type="session.created", **types) == 1
        assert relay.metric("realtime_relay_events_total", type="other", **types) == count


async def test_frames_behind_the_handshakes_are_forwarded() -> None:
    """A second event and a part of a third behind the 101 of upstream, and 4000 frames behind the request of the client."""
    second, third = build_frame(Opcode.TEXT, b'{"type":"a"}'), build_frame(Opcode.TEXT, b'{"type":"b"}')
    early = b"".join(build_frame(Opcode.TEXT, b'{"type":"session.update","n":%d}' % n, b"abcd") for n in range(4000))
    received = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.writer.write(third[5:])
        received.set_result(await FrameReader(connection).read(len(early)))
        await connection.wait_closed()

    first = build_frame(Opcode.TEXT, CREATED)
    async with session(script, first + second + third[:5], early) as (_, client):
        expected = first + second + third
        assert expected == await FrameReader(client).read(len(expected))
        assert early == await within(received, 5)


async def test_client_that_does_not_read_stops_upstream() -> None:
    """The relay buffers a bounded amount; when the client reads again nothing is missing."""
    frame = build_frame(Opcode.TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 16_000 + b'"}')
    total = 2000
    sent = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        for _ in range(total):
            connection.writer.write(frame)
            await connection.writer.drain()
        sent.set()
        await connection.wait_closed()

    async with session(script) as (relay, client):
        first = build_frame(Opcode.TEXT, CREATED)
        reader = FrameReader(client)
        await reader.read(len(first))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        relay_session = next(iter(relay.app.sessions))
        await eventually(lambda: "sink_full" in relay_session._upstream._hold_reasons)

        assert not sent.is_set()
        assert relay_session._client.buffered_bytes <= WRITE_HIGH_BYTES + READ_BYTES + len(frame)

        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read
        received = await reader.read(total * len(frame))
        assert hashlib.sha256(frame * total).hexdigest() == hashlib.sha256(received).hexdigest()
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="upstream_to_client") > 0
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="client_to_upstream") == 0


async def test_client_that_reads_nothing_for_too_long_is_aborted() -> None:
    """Upstream gets a close frame."""
    frame = build_frame(Opcode.TEXT, b"x" * 16_000)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        closing = asyncio.ensure_future(connection.until_close())
        while not closing.done():
            connection.writer.write(frame)
            await asyncio.wait(
                [closing, asyncio.ensure_future(connection.writer.drain())], return_when="FIRST_COMPLETED"
            )
        close_frame.set_result(await closing)

    close_frame = asyncio.get_running_loop().create_future()
    async with session(script) as (relay, client):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        relay_session = next(iter(relay.app.sessions))
        # It answers no ping either: on a busy machine the buffers take long to fill.
        limits = SessionLimits(max_message_bytes=1 << 20, slow_seconds=0.2, silent_seconds=3600.0)
        scale_limits(relay_session, limits)
        await eventually(lambda: bool(relay.events("session.ended")), 5)

        assert relay.events("session.ended")[0]["reason"] == "client_too_slow"
        assert await within(close_frame, 2) == (1001, "")


async def test_pings_are_not_forwarded() -> None:
    """The relay answers a client's ping, and pings a silent client itself."""
    received = bytearray()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        while data := await connection.reader.read(1000):
            received.extend(data)

    async with session(script) as (relay, client):
        await client.next_event()
        client.send_frame(Opcode.PING, b"hello")
        pong = await client.next_item()
        assert (pong.opcode, pong.payload) == (Opcode.PONG, b"hello")
        assert not received

        relay_session = next(iter(relay.app.sessions))
        scale_limits(relay_session, SessionLimits(max_message_bytes=1 << 20, ping_seconds=0.0, silent_seconds=1.0))
        ping = await client.next_item_or_ping()
        assert ping.opcode is Opcode.PING
        # Neither peer answers pings; the first one found is lost. If it is upstream, the client has five seconds to close.
        await eventually(lambda: bool(relay.events("session.ended")), 1.0 + CLIENT_CLOSE_SECONDS + 2)
        assert relay.events("session.ended")[0]["reason"] in {"client_lost", "upstream_lost"}
