"""service/relay/continuity/kept_pipes.py: all that passes is kept once, in order and whole, however it is cut into reads."""

import time
from collections import Counter
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.continuity.kept import KEEP_FROM_UPSTREAM
from service.realtime.continuity.kept_scanner import KeptScanner
from service.realtime.events import PARSED_EVENT_TYPES, Api, Direction
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Message
from service.relay.continuity.kept_pipes import MAX_APPEND_BYTES, MAX_APPENDS, KeptClientPipe, KeptUpstreamPipe
from service.relay.latency import LatencyTimer
from service.relay.pipe import Pipe
from service.relay.pipe_owner import Verdict
from service.telemetry.metrics import Metrics
from service.wire.leg import Leg

KEY = b"\x01\x7f\x80\xff"
METRICS = Metrics("compatible")


class FakeLeg:
    """A leg that keeps what is written to it, and passes each read on to its pipe."""

    def __init__(self) -> None:
        self.written = b""
        self.write_frames = self.write
        self.pipe: Pipe | None = None
        self.on_full = self.on_writable = None

    def write(self, raw: bytes, *, mid_frame: bool = False) -> None:
        """Called by the pipe."""
        self.written += raw

    def receive_read(self, data: bytes) -> None:
        """Called by the pipe."""
        assert self.pipe is not None
        self.pipe.receive(data)

    def put_back(self, data: bytes) -> None:
        """Called where a delivery has too many frames."""
        self.receive_read(data)

    def note_life(self) -> None:
        """Called by the pipe."""

    def send_control(self, *_: object) -> None:
        """Called by the pipe."""


class Recorder:
    """Owner and keeper: records what it is shown. `audio` counts events of an answer's audio, and their bytes."""

    def __init__(self) -> None:
        self.kept = b""
        self.unread = 0
        self.audio = [0, 0]
        self.audio_of: Counter[str] = Counter()
        self.pongs: list[bytes] = []
        self.appends: list[bytes] = []
        self.alike = 0  # lists that were taken as of one size
        self.awaited_pong = b""

    def event_read(self, _direction: Direction, message: Message) -> Verdict:
        """Called by the pipe."""
        self.take_appends()
        self.kept += message.raw
        return Verdict.FORWARD

    def take_appends(self, *, are_alike: bool = False) -> None:
        """Called by the pipe."""
        if are_alike:
            self.alike += 1
            assert len(set(map(len, self.appends))) == 1
        self.kept += b"".join(self.appends)
        self.appends.clear()

    def keep_unread(self) -> None:
        """Called by the pipe."""
        self.unread += 1

    def keep_audio(self, events: int, size: int, item_id: str = "") -> None:
        """Called by the pipe."""
        self.audio[0] += events
        self.audio[1] += size
        self.audio_of[item_id] += size

    def pong_received(self, payload: bytes) -> None:
        """Called by the pipe."""
        self.pongs.append(payload)

    def fail(self) -> None:
        """Called by the pipe, in an exception."""
        raise AssertionError


def pipe_of(recorder: Recorder, direction: Direction) -> tuple[Pipe, FakeLeg]:
    """A pipe of one direction, and its sink."""
    source, sink = FakeLeg(), FakeLeg()
    common: dict[str, Any] = {
        "traffic": METRICS.traffic[Api.REALTIME, direction],
        "latency": LatencyTimer(time.perf_counter, lambda _: None, lambda _: None),
        "owner": recorder,
        "keeper": recorder,
    }
    legs = cast("Leg", source), cast("Leg", sink)
    if direction is Direction.CLIENT_TO_UPSTREAM:
        source.pipe = KeptClientPipe(*legs, KeptScanner(max_message_bytes=1 << 24), **common)
    else:
        scanner = Scanner(
            masked=False, max_message_bytes=1 << 24, parsed_types=PARSED_EVENT_TYPES, kept_types=KEEP_FROM_UPSTREAM
        )
        source.pipe = KeptUpstreamPipe(*legs, scanner, **common)
    return source.pipe, sink


def fragments(frame: bytes, parts: int, key: bytes) -> bytes:
    """The message of one frame in several."""
    header = build_frame(Opcode.TEXT, frame, b"")
    payload = header[-len(frame) :]
    cuts = [len(payload) * part // parts for part in range(parts + 1)]
    pieces = [payload[start:end] for start, end in pairwise(cuts)]
    frames = [build_frame(Opcode.TEXT if not n else Opcode.CONTINUATION, piece, key) for n, piece in enumerate(pieces)]
    return b"".join(bytes((raw[0] & 0x7F,)) + raw[1:] for raw in frames[:-1]) + frames[-1]


def event(event_type: str, size: int) -> bytes:
    """The payload of an event."""
    return b'{"type":"%s","value":"%s"}' % (event_type.encode(), b"A" * size)


CLIENT_TYPES = ("input_audio_buffer.append", "input_audio_buffer.append", "session.update", "unknown.type")
SERVER_TYPES = ("response.output_audio.delta", "response.output_audio.delta", "response.done", "rate_limits.updated")
SIZES = st.sampled_from((0, 100, 200, 5_000, 70_000))


@st.composite
def streams(draw: st.DrawFn, types: tuple[str, ...], key: bytes) -> tuple[list[tuple[str, bytes]], list[bytes]]:
    """Messages with their types, some in fragments, and the reads of their stream."""
    drawn = [draw(st.sampled_from(types)) for _ in range(draw(st.integers(1, 12)))]
    messages = [
        (event_type, fragments(event(event_type, draw(SIZES)), draw(st.sampled_from((1, 1, 1, 3))), key))
        for event_type in drawn
    ]
    stream = b"".join(raw for _, raw in messages)
    cuts = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=10))})
    return messages, [stream[start:end] for start, end in pairwise(cuts)]


@given(streams(CLIENT_TYPES, KEY))
def test_everything_of_the_client_is_kept_and_forwarded(case: tuple[list[tuple[str, bytes]], list[bytes]]) -> None:
    """In the order of the stream, byte for byte."""
    messages, reads = case
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.CLIENT_TO_UPSTREAM)
    for read in reads:
        pipe.read(read)
        assert len(recorder.appends) < MAX_APPENDS
    recorder.take_appends()
    assert sink.written == recorder.kept == b"".join(raw for _, raw in messages)
    assert not recorder.unread
    assert pipe.messages == len(messages)


@given(streams(SERVER_TYPES, b""))
def test_audio_of_answers_is_counted(case: tuple[list[tuple[str, bytes]], list[bytes]]) -> None:
    """Each event once, with its size but for the headers of fragments; the others are shown."""
    messages, reads = case
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.UPSTREAM_TO_CLIENT)
    for read in reads:
        pipe.read(read)
    pipe.count_audio()
    audio = [raw for event_type, raw in messages if event_type == "response.output_audio.delta"]
    assert sink.written == b"".join(raw for _, raw in messages)
    assert recorder.audio[0] == len(audio)
    assert abs(recorder.audio[1] - sum(map(len, audio))) <= 16 * len(audio)
    others = [raw for event_type, raw in messages if event_type != "response.output_audio.delta"]
    assert recorder.kept == b"".join(others)


def test_message_that_is_too_large_is_forwarded_and_not_kept() -> None:
    """A message of two megabytes passes as it arrives."""
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.CLIENT_TO_UPSTREAM)
    large = build_frame(Opcode.TEXT, event("conversation.item.create", 2 << 20), KEY)
    small = build_frame(Opcode.TEXT, event("input_audio_buffer.append", 200), KEY)
    for start in range(0, len(large), 60_000):
        pipe.read(large[start : start + 60_000])
    pipe.read(small)
    assert sink.written == large + small
    assert recorder.unread
    recorder.take_appends()
    assert recorder.kept == small


def test_appends_are_taken_when_they_are_many() -> None:
    """However they arrive."""
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.CLIENT_TO_UPSTREAM)
    small = build_frame(Opcode.TEXT, event("input_audio_buffer.append", 200), KEY)
    for number in range(100):
        pipe.read(small * (1 + 9 * (number % 10 == 9)))
        assert len(recorder.appends) < MAX_APPENDS
    recorder.take_appends()
    assert sink.written == recorder.kept == small * 190


@given(st.lists(st.tuples(st.sampled_from((200, 204, 208)), st.integers(1, 120), st.booleans()), max_size=8))
def test_appends_are_alike_only_if_no_size_changes(runs: list[tuple[int, int, bool]]) -> None:
    """Also if sizes change back, others take in between, or an append arrives in two reads. The recorder compares them."""
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.CLIENT_TO_UPSTREAM)
    for size, count, others_take in runs:
        raw = build_frame(Opcode.TEXT, event("input_audio_buffer.append", size), KEY)
        for _ in range(count):
            pipe.read(raw)
        if others_take:
            recorder.take_appends()
            pipe.read(raw[:100])
            pipe.read(raw[100:])
    recorder.take_appends()
    assert sink.written == recorder.kept


def test_appends_of_an_open_microphone_are_alike() -> None:
    """All but the first ones, which begin the run."""
    recorder = Recorder()
    pipe, _ = pipe_of(recorder, Direction.CLIENT_TO_UPSTREAM)
    for _ in range(10 * MAX_APPENDS):
        pipe.read(build_frame(Opcode.TEXT, event("input_audio_buffer.append", 200), KEY))
    assert recorder.alike == 9


def test_large_appends_are_taken_at_once() -> None:
    """So that those that are not taken yet are few bytes."""
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.CLIENT_TO_UPSTREAM)
    for size in (200, MAX_APPEND_BYTES, 200, MAX_APPEND_BYTES, MAX_APPEND_BYTES, 60_000, 60_000):
        pipe.read(build_frame(Opcode.TEXT, event("input_audio_buffer.append", size), KEY))
        assert sum(map(len, recorder.appends)) < 1_000
    assert sink.written == recorder.kept


@pytest.mark.parametrize("awaited", [b"", build_frame(Opcode.PONG, b"7")])
@pytest.mark.parametrize("size", [0, 200, 5_000])
def test_answers_to_pings_are_reported(awaited: bytes, size: int) -> None:
    """With their payload, which says which one was answered: also between two events of audio, and behind a part of one."""
    recorder = Recorder()
    recorder.awaited_pong = awaited
    pipe, sink = pipe_of(recorder, Direction.UPSTREAM_TO_CLIENT)
    pong = build_frame(Opcode.PONG, b"7")
    audio = build_frame(Opcode.TEXT, event("response.output_audio.delta", size))
    for read in (pong, audio, audio, pong, audio, audio[:3], audio[3:] + pong, pong):
        pipe.read(read)
    assert recorder.pongs == [b"7"] * 4
    assert sink.written == audio * 4
    assert (pipe.messages, pipe.totals()[1]) == (4, 8)


def test_bytes_of_a_pong_within_an_event_are_no_pong() -> None:
    """They are a read of their own."""
    recorder = Recorder()
    recorder.awaited_pong = pong = build_frame(Opcode.PONG, b"7")
    for size in (3_000, 100_000):  # kept until it is whole, and forwarded as it arrives
        pipe, sink = pipe_of(recorder, Direction.UPSTREAM_TO_CLIENT)
        raw = build_frame(Opcode.TEXT, event("response.output_audio.delta", size))
        for read in (raw[:2_000], pong, raw[2_000 + len(pong) :]):
            pipe.read(read)
        assert sink.written == raw[:2_000] + pong + raw[2_000 + len(pong) :]
    assert not recorder.pongs


@pytest.mark.parametrize("is_together", [True, False])
@pytest.mark.parametrize("is_last", [True, False])
def test_audio_of_several_answers_at_once_is_counted_by_item(*, is_together: bool, is_last: bool) -> None:
    """While it has to be, and wherever the id is; the events pass as they are."""
    recorder = Recorder()
    pipe, sink = pipe_of(recorder, Direction.UPSTREAM_TO_CLIENT)
    assert isinstance(pipe, KeptUpstreamPipe)
    sizes = {"a": 1_000, "b": 2_000, "": 0}
    frames = []
    for item_id in ("a", "b", "a", "a", "b"):
        place, audio = f'"item_id": "{item_id}"', f'"delta": "{"A" * sizes[item_id]}"'
        body = f'{{"type": "response.output_audio.delta", {", ".join([audio, place] if is_last else [place, audio])}}}'
        frames.append(build_frame(Opcode.TEXT, body.encode()))
    for is_needed in (True, False):
        pipe.read_audio(is_needed=is_needed)
        recorder.audio_of.clear()
        for data in [b"".join(frames)] if is_together else frames:
            pipe.read(data)
        pipe.count_audio()
        counted = {"a": 3 * len(frames[0]), "b": 2 * len(frames[1])}
        assert recorder.audio_of == (counted if is_needed else {"": sum(counted.values())})
    assert sink.written == 2 * b"".join(frames)


def test_event_with_very_many_values_is_not_parsed_for_its_type() -> None:
    """It would hold up other sessions: one that does not begin with its type has none."""
    scanner = KeptScanner(max_message_bytes=1 << 20)
    body = b'{"values":[%s0],"type":"response.create"}'
    types = []
    for values in (1_000, 20_000):
        items = scanner.feed(build_frame(Opcode.TEXT, body % (b"0," * values), KEY))
        types += [item.type for item in items if isinstance(item, Message)]
    assert types == ["response.create", None]
