"""Events of audio behind one another on real sockets: order, bytes, counts and backpressure are those of all other events."""

import asyncio
import random
from collections.abc import Iterator
from typing import Final

import pytest

from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk
from service.relay.pipe import Pipe
from service.wire.leg import WRITE_HIGH_BYTES
from tests.relay.test_slow_peers import shrink_buffers
from tests.support.harness import eventually
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.scripted_upstream import session

KINDS: Final = {True: b"input_audio_buffer.append", False: b"response.output_audio.delta"}
OTHER_KINDS: Final = {True: b"response.create", False: b"response.created"}
KEYS: Final = (b"\0\0\0\0", b'{"ty', b"abcd", b"\x01\x7f\x80\xff")
SIZES: Final = (80, 80, 80, 81, 120, 3000, 65_000)


def event(kind: bytes, size: int, key: bytes) -> bytes:
    """A frame; 80 bytes of audio make about the smallest that can be a part of a run."""
    return build_frame(Opcode.TEXT, b'{"type":"%s","event_id":"e","audio":"%s"}' % (kind, b"A" * size), key)


def frames(choice: random.Random, *, masked: bool) -> Iterator[tuple[bytes, int]]:
    """Mostly audio; with each frame the number of messages that it ends."""
    kind = KINDS[masked]
    for _ in range(150):
        key, size = choice.choice(KEYS) if masked else b"", choice.choice(SIZES)
        audio = event(kind, size, key)
        match choice.randrange(24):
            case 0:
                yield build_frame(Opcode.PING, b"p", key), 0
            case 1:
                yield bytes((audio[0] & 0x7F,)) + audio[1:], 0
                yield build_frame(Opcode.CONTINUATION, b"A" * 100, key), 1
            case 2:
                yield event(OTHER_KINDS[masked], size, key), 1
            case 3:
                yield event(kind[:-1] + b"x", size, key), 1
            case 4:
                yield build_frame(Opcode.BINARY, audio[-size:], key), 1
            case 5:
                yield event(kind, 70_000, key), 1
            case _:
                yield audio, 1


def data_of(stream: bytes | bytearray, *, masked: bool) -> bytes:
    """The data frames of a stream."""
    items = Scanner(masked=masked, max_message_bytes=1 << 30).feed(bytes(stream))
    return b"".join(item.raw for item in items if isinstance(item, Chunk))


async def send(writer: asyncio.StreamWriter, choice: random.Random, parts: list[bytes]) -> None:
    """Send frames, mostly one in a read, or the stream cut anywhere."""
    if choice.random() < 0.4:
        stream = b"".join(parts)
        parts = []
        while stream:
            size = choice.choice((1, 200, 1448, 60_000))
            parts.append(stream[:size])
            stream = stream[size:]
    while parts:
        count = choice.choice((1, 1, 1, 1, 2, 3))
        writer.write(b"".join(parts[:count]))
        del parts[:count]
        await writer.drain()
        await asyncio.sleep(choice.choice((0, 0, 0.001)))


async def read_all(reader: asyncio.StreamReader, received: bytearray) -> None:
    """Read to the end of the stream."""
    while data := await reader.read(65_536):
        received += data


@pytest.mark.parametrize("seed", range(6))
async def test_audio_among_other_frames_is_forwarded_unchanged_and_counted(seed: int) -> None:
    """In both directions at once, with a close frame directly behind audio; the totals are exact in view, log and metrics."""
    choice = random.Random(seed)
    up, down = list(frames(choice, masked=True)), list(frames(choice, masked=False))
    sent = {masked: b"".join(frame for frame, _ in part) for masked, part in ((True, up), (False, down))}
    at_upstream, at_client, is_open = bytearray(), bytearray(), asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        reading = asyncio.ensure_future(read_all(connection.reader, at_upstream))
        await is_open.wait()
        await send(connection.writer, choice, [frame for frame, _ in down])
        await reading

    async with session(script) as scripted:
        reading = asyncio.ensure_future(read_all(scripted.client.reader, at_client))
        is_open.set()
        await send(scripted.client.writer, choice, [frame for frame, _ in up])
        expected = {masked: data_of(stream, masked=masked) for masked, stream in sent.items()}
        await eventually(lambda: data_of(at_client, masked=False) == expected[False], 20)
        audio = event(KINDS[True], 80, KEYS[2])
        for _ in range(4):
            await eventually(lambda: data_of(at_upstream, masked=True) == expected[True], 20)
            scripted.client.writer.write(audio)
            expected[True] += audio
        await eventually(lambda: data_of(at_upstream, masked=True) == expected[True], 20)
        view = scripted.session.view()
        assert view is not None
        seen = view.as_object()
        scripted.client.writer.write(audio + build_frame(Opcode.CLOSE, b"\x03\xe8", KEYS[2]))

        assert "client_closed" == await scripted.ended(10)
        await reading
        assert expected[True] + audio == data_of(at_upstream, masked=True)
        [line] = scripted.relay.events("session.ended")
        messages = {True: sum(number for _, number in up) + 5, False: sum(number for _, number in down) + 1}
        sizes = {True: len(expected[True]) + len(audio), False: len(expected[False]) + len(CREATED) + 2}
        for masked, direction in ((True, "client_to_upstream"), (False, "upstream_to_client")):
            assert (messages[masked], sizes[masked]) == (line[f"{direction}_messages"], line[f"{direction}_bytes"])
            for metric in ("realtime_relay_forwarded_messages_total", "realtime_relay_events_total"):
                assert messages[masked] == scripted.relay.metric(metric, direction=direction)
            assert sizes[masked] == scripted.relay.metric("realtime_relay_forwarded_bytes_total", direction=direction)
        both = seen["client_to_upstream"], seen["upstream_to_client"]
        assert [messages[True] - 1, messages[False]] == [part["messages"] for part in both if isinstance(part, dict)]


@pytest.mark.parametrize("deaf", ["client", "upstream"])
async def test_flood_of_audio_holds_its_source(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Single events to a peer that reads nothing: the source is held and not read, and the unsent bytes are bounded."""
    unsent, reads_while_held, is_over = [0], [], asyncio.Event()
    read = Pipe.read
    frame = event(KINDS[deaf == "upstream"], 900, KEYS[2] if deaf == "upstream" else b"")

    def observed(pipe: Pipe, data: bytes) -> None:
        if pipe._source.held_since is not None:
            reads_while_held.append(data)
        read(pipe, data)
        unsent.append(pipe._sink.buffered_bytes)

    monkeypatch.setattr(Pipe, "read", observed)

    async def flood(writer: asyncio.StreamWriter) -> None:
        while not is_over.is_set():
            writer.write(frame)
            await writer.drain()
            await asyncio.sleep(0)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        if deaf == "client":
            flooding = asyncio.ensure_future(flood(connection.writer))
            await is_over.wait()
            flooding.cancel()
        else:
            shrink_buffers(connection)
            connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await is_over.wait()
            connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await connection.wait_closed()

    async with session(script) as scripted:
        client = scripted.client.writer
        if deaf == "client":
            client.transport.pause_reading()  # type: ignore[attr-defined]
        flooding = asyncio.ensure_future(flood(client) if deaf == "upstream" else is_over.wait())
        source = scripted.session._client if deaf == "upstream" else scripted.session._upstream
        await eventually(lambda: source.held_since is not None, 60)
        reads = len(unsent)
        scripted.session.tick()
        await asyncio.sleep(0.1)  # in which nothing may happen

        assert ([], reads) == (reads_while_held, len(unsent))
        assert max(unsent) <= WRITE_HIGH_BYTES + len(frame)
        is_over.set()
        flooding.cancel()
        if deaf == "client":
            client.transport.resume_reading()  # type: ignore[attr-defined]


async def test_quiet_session_counts_at_every_second_tick() -> None:
    """Any other counts, and checks its limits, at each tick."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.until_close()

    async with session(script) as scripted:
        subject, audio = scripted.session, event(KINDS[True], 80, KEYS[2])
        ticker, traffic = scripted.relay.app.sessions._ticker, subject._to_upstream._traffic
        ticker.remove(subject)  # the test ticks it
        subject._tick()
        assert subject._watch.is_quiet(asyncio.get_running_loop().time())

        def counts_after_ticks(number: int) -> list[int]:
            counts = []
            for _ in range(number):
                assert subject._to_upstream._audio.goes_on_with(audio)
                subject.tick()
                counts.append(traffic.types[KINDS[True].decode()])
            return counts

        subject._to_upstream.receive(audio)
        assert [1, 3, 3, 5] == counts_after_ticks(4)
        subject._client.hold("sink_full")
        assert [6, 7, 8] == counts_after_ticks(3)
        subject._client.release("sink_full")
