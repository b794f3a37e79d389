"""What a session carries: nothing is lost, reordered or changed, and a peer that does not read costs little."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.realtime.frames import Opcode, build_frame
from service.relay.watchdog import SessionLimits
from service.wire.leg import WRITE_HIGH_BYTES
from tests.support.harness import RawClient, Relay, eventually, open_raw, running_relay
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"
READ_BYTES = 256 * 1024  # the most that asyncio reads at once


@asynccontextmanager
async def session(
    script: Script, behind_101: bytes = b"", behind_request: bytes = b""
) -> AsyncIterator[tuple[Relay, RawClient]]:
    """A session with a scripted upstream."""
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
    """Messages of all sizes, some fragmented, as frames."""
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


async def test_all_sizes_pass_both_ways_at_once() -> None:
    """Frames of every size, whole and in fragments, arrive byte for byte and in order in both directions."""
    up, down = b"".join(frames_of(1, masked=True)), b"".join(frames_of(2, masked=False))
    heard = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)

        async def listen() -> None:
            heard.set_result(hashlib.sha256(await connection.reader.readexactly(len(up))).hexdigest())

        listening = asyncio.ensure_future(listen())
        rng = random.Random(3)
        at = 0
        while at < len(down):
            size = rng.choice((1, 3, 100, 5000, 100_000))
            connection.writer.write(down[at : at + size])
            await connection.writer.drain()
            at += size
        await listening
        await connection.wait_closed()

    async with session(script) as (relay, client):
        first = build_frame(Opcode.TEXT, CREATED)
        assert first == await client.reader.readexactly(len(first))
        client.writer.write(up)
        received = await client.reader.readexactly(len(down))

        assert hashlib.sha256(down).hexdigest() == hashlib.sha256(received).hexdigest()
        assert hashlib.sha256(up).hexdigest() == await asyncio.wait_for(heard, 10)
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


async def test_what_comes_early_is_not_lost() -> None:
    """A second event and half of a third in the segment of the 101, and frames right behind the request, all arrive."""
    second, third = build_frame(Opcode.TEXT, b'{"type":"a"}'), build_frame(Opcode.TEXT, b'{"type":"b"}')
    early = b"".join(build_frame(Opcode.TEXT, b'{"type":"session.update","n":%d}' % n, b"abcd") for n in range(4000))
    heard = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.writer.write(third[5:])
        heard.set_result(await connection.reader.readexactly(len(early)))
        await connection.wait_closed()

    first = build_frame(Opcode.TEXT, CREATED)
    async with session(script, first + second + third[:5], early) as (_, client):
        expected = first + second + third
        assert expected == await client.reader.readexactly(len(expected))
        assert early == await asyncio.wait_for(heard, 5)


async def test_a_client_that_does_not_read_costs_little() -> None:
    """While a client reads nothing the relay holds a bounded piece and stops upstream; then nothing is missing."""
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
        await client.reader.readexactly(len(first))
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        live = next(iter(relay.app.sessions))
        await eventually(lambda: "sink_full" in live._upstream._hold_reasons)

        assert not sent.is_set()
        assert live._client.buffered_bytes <= WRITE_HIGH_BYTES + READ_BYTES + len(frame)

        client.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read
        received = await client.reader.readexactly(total * len(frame))
        assert hashlib.sha256(frame * total).hexdigest() == hashlib.sha256(received).hexdigest()
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="upstream_to_client") > 0
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="client_to_upstream") == 0


async def test_peers_that_stay_deaf_are_cut_off() -> None:
    """A client that leaves everything unread is aborted, and upstream is told goodbye."""
    frame = build_frame(Opcode.TEXT, b"x" * 16_000)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        closing = asyncio.ensure_future(connection.until_close())
        while not closing.done():
            connection.writer.write(frame)
            await asyncio.wait(
                [closing, asyncio.ensure_future(connection.writer.drain())], return_when="FIRST_COMPLETED"
            )
        told.set_result(await closing)

    told = asyncio.get_running_loop().create_future()
    async with session(script) as (relay, client):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        live = next(iter(relay.app.sessions))
        live._limits = SessionLimits(max_message_bytes=1 << 20, slow_seconds=0.2)
        await eventually(lambda: bool(relay.events("session.ended")), 5)

        assert relay.events("session.ended")[0]["reason"] == "client_too_slow"
        assert await asyncio.wait_for(told, 2) == (1001, "")


async def test_pings_stay_on_their_leg() -> None:
    """A client's ping is answered by the relay and does not reach upstream; the relay pings a silent client by itself."""
    heard = bytearray()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        while data := await connection.reader.read(1000):
            heard.extend(data)

    async with session(script) as (relay, client):
        await client.next_event()
        client.send_frame(Opcode.PING, b"hello")
        pong = await client.next_item()
        assert (pong.opcode, pong.payload) == (Opcode.PONG, b"hello")
        assert not heard

        live = next(iter(relay.app.sessions))
        live._limits = SessionLimits(max_message_bytes=1 << 20, ping_seconds=0.0, silent_seconds=1.0)
        ping = await client.next_item()
        assert ping.opcode is Opcode.PING
        # Nobody answers that ping, so the client counts as gone.
        await eventually(lambda: bool(relay.events("session.ended")), 4)
        assert relay.events("session.ended")[0]["reason"] in {"client_lost", "upstream_lost"}
