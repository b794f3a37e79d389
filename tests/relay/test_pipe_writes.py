"""service/relay/pipe.py: how often it writes for reads that are not whole messages."""

import itertools
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from service.realtime import live
from service.realtime.events import CLIENT_EVENT_TYPES, PARSED_EVENT_TYPES, SERVER_EVENT_TYPES, Direction
from service.realtime.frames import Opcode, build_frame
from service.realtime.live_events import Transcript, parse_live_event
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Message
from service.relay.latency import LatencyTimer
from service.relay.pipe import MESSAGES_PER_READ, Pipe
from service.relay.pipe_owner import PipeOwner, Verdict
from service.telemetry.traffic import Traffic
from service.wire.leg import Leg
from service.wire.turns import FRAMES_PER_DELIVERY

KEY = b"\x01\x7f\x80\xff"
SEGMENT_BYTES = 1448


class Sink:
    """A leg that keeps what is written to it."""

    buffered_bytes = 0

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.write_frames = self.writes.append

    def write(self, raw: bytes, *, mid_frame: bool = False) -> None:
        """Called by the pipe."""
        assert not mid_frame
        self.writes.append(raw)


class Source(Sink):
    """A leg that passes each read on to `receive_read`."""

    receive: Callable[[bytes], None]
    signs_of_life = 0
    receptions = 0

    def receive_read(self, data: bytes) -> None:
        """Called by the pipe for what it does not process itself."""
        self.receptions += 1
        self.receive(data)

    def note_life(self) -> None:
        """Called by the pipe."""
        self.signs_of_life += 1


class Owner:
    """A session in which nothing happens. `heard` are the starts of all transcripts, in order."""

    def __init__(self) -> None:
        self.heard: list[float] = []

    def event_read(self, _: Direction, message: Message) -> Verdict:
        """Called by the pipe."""
        transcript = parse_live_event(message.type or "", message.payload).transcript
        if transcript is not None:
            self.transcripts_passed([transcript])
        return Verdict.FORWARD

    def transcripts_passed(self, transcripts: list[Transcript]) -> None:
        """Called by the pipe."""
        self.heard += [transcript.start_ms for transcript in transcripts]

    def fail(self) -> None:
        """Called by the pipe within the exception."""
        raise  # noqa: PLE0704 - the exception is being handled


def pipe(*, masked: bool, parsed: frozenset[str] = PARSED_EVENT_TYPES) -> tuple[Pipe, Sink, Traffic]:
    """A pipe that writes to a list. `parsed`: the types of upstream's events that are read."""
    sink = Sink()
    types = CLIENT_EVENT_TYPES if masked else SERVER_EVENT_TYPES
    traffic = Traffic(Direction.CLIENT_TO_UPSTREAM if masked else Direction.UPSTREAM_TO_CLIENT, types)
    parsed = frozenset[str]() if masked else parsed
    subject = Pipe(
        cast("Leg", Source()),
        cast("Leg", sink),
        Scanner(masked=masked, max_message_bytes=1 << 20, parsed_types=parsed),
        traffic=traffic,
        latency=LatencyTimer(time.perf_counter, float, float),
        owner=cast("PipeOwner", Owner()),
    )
    return subject, sink, traffic


def audio(*, masked: bool, size: int = 6000) -> bytes:
    """The frame of an audio event."""
    kind = b"input_audio_buffer.append" if masked else b"response.output_audio.delta"
    return build_frame(Opcode.TEXT, b'{"type":"%s","a":"%s"}' % (kind, b"A" * size), KEY if masked else b"")


def live_transcript(kind: str, start: int, further: str = "") -> bytes:
    """The frame of a transcript."""
    times = f'"start_ms":{start},"end_ms":{start + 9}'
    return build_frame(Opcode.TEXT, f'{{"type":"{kind}","event_id":"e","delta":" hello",{further}{times}}}'.encode())


@pytest.mark.parametrize("masked", [True, False])
def test_event_in_parts_is_one_write(masked: bool) -> None:
    """At the read that completes it, and unchanged."""
    subject, sink, traffic = pipe(masked=masked)
    event = audio(masked=masked)
    cuts = [*range(0, len(event), SEGMENT_BYTES), len(event)]
    for number, (a, b) in enumerate(itertools.pairwise(cuts)):
        assert (0, []) == (subject.messages, sink.writes), number
        subject.receive(event[a:b])

    assert [event] == sink.writes
    assert (1, len(event), len(event)) == (subject.messages, subject.forwarded_bytes, traffic.bytes)
    assert sum(traffic.types.values()) == 1


@pytest.mark.parametrize("masked", [True, False])
def test_events_of_one_read_are_one_write(masked: bool) -> None:
    """Whole events behind one another are forwarded together; the start of the next one waits."""
    subject, sink, traffic = pipe(masked=masked)
    event = audio(masked=masked)
    subject.receive(event * 3 + event[:1000])

    assert [event * 3] == sink.writes
    assert (3, len(event) * 3) == (subject.messages, traffic.bytes)

    subject.receive(event[1000:] + event)
    assert [event * 3, event * 2] == sink.writes
    assert (5, 5) == (subject.messages, sum(traffic.types.values()))


def test_stream_cut_anywhere_is_forwarded_unchanged() -> None:
    """Reads of every size, with pings and small events in between."""
    event = audio(masked=False, size=300)
    small = build_frame(Opcode.TEXT, b'{"type":"response.created"}')
    stream = (event * 2 + small + event) * 2
    for size in range(1, len(stream) + 1):
        subject, sink, traffic = pipe(masked=False)
        for at in range(0, len(stream), size):
            subject.receive(stream[at : at + size])

        assert stream == b"".join(sink.writes)
        assert (8, len(stream)) == (subject.messages, subject.forwarded_bytes)
        assert {"response.output_audio.delta": 6, "response.created": 2} == {
            k: n for k, n in traffic.types.items() if n
        }


def test_events_after_the_close_are_discarded_in_any_form() -> None:
    """Whole, in parts and several in a read."""
    subject, sink, _ = pipe(masked=False)
    subject.discard_data()
    event = audio(masked=False)
    for read in (event, event[:1448], event[1448:], event * 3, event + event[:10]):
        subject.receive(read)

    assert (0, [], 0) == (subject.messages, sink.writes, subject.forwarded_bytes)


@pytest.mark.parametrize("masked", [True, False])
def test_audio_behind_audio_is_forwarded_and_counted(masked: bool) -> None:
    """By `read`, which the transport calls, in sizes that vary; other events and parts end the run and keep the order."""
    subject, sink, traffic = pipe(masked=masked)
    source = cast("Source", subject._source)
    source.receive = subject.receive
    other = build_frame(Opcode.TEXT, b'{"type":"response.created","a":"%s"}' % (b"A" * 6000), KEY if masked else b"")
    event, longer = audio(masked=masked), audio(masked=masked, size=6001)
    reads = [event, event, longer, event, other, event, event, event[:100], event[100:], event * 2, event]
    for read in reads:
        subject.read(read)

    stream = b"".join(reads)
    assert stream == b"".join(sink.writes)
    assert (11, len(stream)) == (subject.messages, subject.forwarded_bytes)
    assert (len(stream), {10, 1}) == (traffic.bytes, set(traffic.types.values()) - {0})
    assert source.signs_of_life > 0
    subject.discard_data()
    subject.read(event)
    assert stream == b"".join(sink.writes)


@pytest.mark.parametrize("masked", [True, False])
def test_audio_goes_on_behind_other_events(masked: bool) -> None:
    """Which are received one by one. Behind a part of an event the next audio is received as well."""
    subject, sink, traffic = pipe(masked=masked)
    source = cast("Source", subject._source)
    source.receive = subject.receive
    event, key = audio(masked=masked), KEY if masked else b""
    kinds = [b"conversation.item.create"] if masked else [b"conversation.item.added", b"error"]
    others = [build_frame(Opcode.TEXT, b'{"type":"%s","a":"%s"}' % (kind, b"A" * 200), key) for kind in kinds]
    for read in [event, *(read for other in others for read in (event, other, event))]:
        subject.read(read)
    assert 1 + len(others) == source.receptions

    for read in (event[:2000], event[2000:], event, event):
        subject.read(read)
    assert 1 + len(others) + 2 == source.receptions
    assert (4 + 3 * len(others), sum(map(len, sink.writes))) == (subject.messages, subject.forwarded_bytes)
    assert traffic.bytes == subject.forwarded_bytes


def test_transcripts_between_audio_are_forwarded_at_once_and_counted_later() -> None:
    """In the order of the stream, whatever way each goes: with a further member, behind another in a read, before a close."""
    subject, sink, traffic = pipe(masked=False, parsed=live.PARSED_EVENT_TYPES)
    source, owner = cast("Source", subject._source), cast("Owner", subject._owner)
    source.receive = subject.receive
    event = audio(masked=False)

    def transcript(start: int, further: str = "") -> bytes:
        return live_transcript((live.INPUT_TRANSCRIPT, live.OUTPUT_TRANSCRIPT)[start % 2], start, further)

    for read in (event, transcript(1), event, transcript(2), transcript(3)):
        subject.read(read)
        assert read == sink.writes[-1]
    assert (1, []) == (source.receptions, owner.heard)

    longer, two = transcript(4, '"channel":1,'), transcript(6) + event
    for read in (longer, transcript(5), two, event, transcript(7), event):
        subject.read(read)
    assert [1, 2, 3, 4, 5, 6] == owner.heard
    assert (12, len(b"".join(sink.writes))) == (subject.messages, subject.forwarded_bytes)
    assert [1, 2, 3, 4, 5, 6, 7] == owner.heard
    counted = [traffic.types[kind] for kind in (live.INPUT_TRANSCRIPT, live.OUTPUT_TRANSCRIPT)]
    assert ([3, 4], subject.forwarded_bytes) == (counted, traffic.bytes)

    subject.read(transcript(8))
    subject.discard_data()
    subject.read(event)
    assert (13, 8) == (subject.messages, owner.heard[-1])


def test_audio_goes_on_behind_whole_events_in_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transcripts and audio in any order; none is parsed frame by frame. Behind a rest, audio is received first."""
    subject, sink, traffic = pipe(masked=False, parsed=live.PARSED_EVENT_TYPES)
    source, owner = cast("Source", subject._source), cast("Owner", subject._owner)
    source.receive = subject.receive
    event = audio(masked=False)
    words = [live_transcript(live.INPUT_TRANSCRIPT, start, '"channel":1,' * (start % 2)) for start in range(6)]
    with monkeypatch.context() as patched:
        patched.setattr(Scanner, "_scan_frame", lambda *_: pytest.fail("a frame was parsed"))
        subject.read(event)
        for read in (words[0] + event, event + words[1], words[2] + words[3] + event * 2 + words[4] + event):
            subject.read(read)
            receptions = source.receptions
            subject.read(event)
            assert receptions == source.receptions

    subject.read(words[5] + build_frame(Opcode.PONG, b""))
    subject.read(event)
    assert receptions + 2 == source.receptions
    assert [0, 1, 2, 3, 4, 5] == owner.heard
    assert (16, len(b"".join(sink.writes))) == (subject.messages, subject.forwarded_bytes)
    assert ({10, 6}, traffic.bytes) == (set(traffic.types.values()) - {0}, subject.forwarded_bytes)


def test_flood_of_transcripts_in_one_read_is_bounded() -> None:
    """Behind the first few they are parsed frame by frame, as far as `wire.turns` lets them."""
    subject, sink, _ = pipe(masked=False, parsed=live.PARSED_EVENT_TYPES)
    flood = b"".join(live_transcript(live.OUTPUT_TRANSCRIPT, start) for start in range(300))
    rest: list[bytes] = []
    cast("Any", subject._source).put_back = rest.append
    subject.receive(flood)

    assert (MESSAGES_PER_READ + FRAMES_PER_DELIVERY, 1) == (subject.messages, len(rest))
    assert flood == b"".join((*sink.writes, *rest))


def test_first_audio_of_an_answer_is_timed_behind_other_audio() -> None:
    """A run of audio ends where audio is watched."""
    seconds: list[float] = []
    subject, _, _ = pipe(masked=False)
    subject._latency = LatencyTimer(itertools.count().__next__, seconds.append, float)
    cast("Source", subject._source).receive = subject.receive
    event = audio(masked=False)
    kinds = (b"input_audio_buffer.speech_stopped", b"response.created")
    stopped, created = (build_frame(Opcode.TEXT, b'{"type":"%s","a":"%s"}' % (kind, b"A" * 200)) for kind in kinds)
    for read in (
        event,
        event,
        stopped,
        event,
        created,
        event,
        event,
        stopped,
        created,
        event,
        stopped + created,
        event,
    ):
        subject.read(read)

    assert [1, 1, 1] == seconds
