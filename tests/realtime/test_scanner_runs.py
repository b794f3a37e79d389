"""service/realtime/scanner_runs.py: events behind one another, and frames that arrive in parts."""

import itertools
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Message, MessageEnd
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES, MIN_PART_BYTES
from tests.support.checked_scanner import CheckedScanner
from tests.support.reference_decoder import decode

# Ten thousand examples take minutes.
pytestmark = pytest.mark.timeout(3600 if os.environ.get("TEST_PROFILE") == "deep" else 180)

KEY = b"\x01\x7f\x80\xff"
LIMIT = 1 << 20
PARSED = frozenset({"error"})
MAX_PARTS = 2 * MAX_BUFFERED_FRAME_BYTES // MIN_PART_BYTES + 3
"""A small part follows each large one, and each is at least `MIN_PART_BYTES` together with it; header and remainder."""


def scanner(*, masked: bool = False) -> Scanner:
    """A scanner that yields `error` events as messages."""
    return Scanner(masked=masked, max_message_bytes=LIMIT, parsed_types=PARSED)


def frame(kind: str, size: int = 200, *, masked: bool = False) -> bytes:
    """The frame of an event."""
    payload = b'{"type":"%s","event_id":"e","delta":"%s"}' % (kind.encode(), b"A" * size)
    return build_frame(Opcode.TEXT, payload, KEY if masked else b"")


TWO_TYPES = b'{"type":"response.created","type":"error","a":"%s"}' % (b"A" * 200)
TYPES = ("response.created", "response.output_audio.delta", "input_audio_buffer.append")


@st.composite
def event_streams(draw: st.DrawFn, *, masked: bool) -> bytes:
    """Events of known types behind one another; now and then another message, a control frame, or an invalid one."""
    key = KEY if masked else b""
    known = st.builds(
        lambda kind, size: frame(kind, size, masked=masked), st.sampled_from(TYPES), st.integers(60, 3000)
    )
    other = st.sampled_from(
        [
            frame("error", masked=masked),
            frame("error", 20, masked=masked),
            frame("x", masked=masked),
            frame("response.created", 0, masked=masked),
            frame("response.created", 70_000, masked=masked),
            build_frame(Opcode.BINARY, b'{"type":"response.created"}'.ljust(200), key),
            # Of a client's event the first type counts, of a server's the last one.
            *([] if masked else [build_frame(Opcode.TEXT, TWO_TYPES)]),
            build_frame(
                Opcode.TEXT, b'{"type":"response.created","item":{"type":"message"},"a":"\\n"}'.ljust(200), key
            ),
            build_frame(Opcode.PING, b"p", key),
            build_frame(Opcode.CLOSE, b"", key),
            b"\x83",
        ]
    )
    return b"".join(draw(st.lists(st.one_of(known, known, known, other), min_size=1, max_size=8)))


@given(data=st.data(), masked=st.booleans())
def test_runs_of_events_agree_with_reference_for_any_slicing(data: st.DataObject, *, masked: bool) -> None:
    """Whatever is between the events, and wherever a read ends."""
    stream = data.draw(event_streams(masked=masked))
    parsed = frozenset[str]() if masked else PARSED
    decoded = decode(stream, masked=masked, limit=LIMIT)
    whole = CheckedScanner(Scanner(masked=masked, max_message_bytes=LIMIT, parsed_types=parsed), decoded, parsed)
    cut = whole.clone()
    size = data.draw(st.sampled_from([1448, 900, len(stream)]))
    more = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    cut.feed_sliced([*range(size, len(stream), size), *more])
    whole.feed(stream)

    assert whole.outcome() == cut.outcome()


@pytest.mark.parametrize("masked", [True, False])
def test_events_behind_one_another_are_one_run(masked: bool) -> None:
    """The start of the next event is kept, and completed by the next read."""
    frames = [frame(kind, masked=masked) for kind in TYPES]
    subject = scanner(masked=masked)
    stream = b"".join(frames)

    assert len(stream) == subject.feed_events(stream + frames[0][:100])
    assert list(TYPES) == subject.event_types
    assert len(frames[0]) - 100 == subject.missing_bytes
    assert frames[0] == subject.complete(frames[0][100:])
    assert TYPES[0] == subject.whole_event_type(frames[0])


@pytest.mark.parametrize("payload_bytes", [42, 125, 126, 127, 3000, 65_535])
def test_requested_event_behind_a_run_is_recognised(payload_bytes: int) -> None:
    """Like `feed`, with every length of a header but the longest; then the next event begins."""
    event, error = frame(TYPES[0]), frame("error", payload_bytes - len(b'{"type":"error","event_id":"e","delta":""}'))
    subject = scanner()
    size = subject.feed_events(event + error)
    message = subject.whole_message(error)

    assert len(event) == size
    assert message == Message("error", error[-payload_bytes:], error)
    assert TYPES[0] == subject.whole_event_type(event)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(frame("error")[:-1], id="incomplete"),
        pytest.param(frame("error", 20)[:-1], id="incomplete short"),
        pytest.param(frame("error", 20) + b"\x81", id="start of another"),
        pytest.param(frame("error") + frame("error"), id="two"),
        pytest.param(frame("error", 66_000), id="longer length"),
        pytest.param(frame("unknown.type"), id="unknown"),
        pytest.param(frame("error", masked=True), id="masked"),
        pytest.param(b"\x01" + frame("error")[1:], id="fragment"),
        pytest.param(b"\xc1" + frame("error")[1:], id="reserved bit"),
        pytest.param(b"\x82" + frame("error")[1:], id="binary"),
        pytest.param(b"\x81\x7e\x00\x7d" + frame("error", 83)[2:], id="length not minimal"),
        pytest.param(b"\x81\x7e" + frame("error", 84)[4:], id="length of a short header"),
        pytest.param(b"\x81\x7f" + frame("error", 85)[4:], id="length of a long header"),
        pytest.param(build_frame(Opcode.TEXT, b'{"type":"error","type":"response.created"}'), id="two types"),
        pytest.param(build_frame(Opcode.TEXT, b'{"type":"error","t\\u0079pe":"response.created"}'), id="escaped type"),
        pytest.param(build_frame(Opcode.TEXT, b'{"event_id":"e","type":"error"}'), id="type behind another key"),
    ],
)
def test_whole_message_leaves_everything_else_to_feed(other: bytes) -> None:
    """Nothing is consumed."""
    subject = scanner()
    expected = subject.copy().feed(other)

    assert subject.whole_message(other) is None
    assert expected == subject.feed(other)


def test_type_without_its_quotation_mark_is_none() -> None:
    """Neither is the rest of the searched bytes one, nor is each later event taken for it."""
    longest = "conversation.item.input_audio_transcription.completed"
    for masked in (False, True):
        subject = scanner(masked=masked)
        cut = build_frame(Opcode.TEXT, b'{"type": "%sX%s"}' % (longest.encode(), b"A" * 200), KEY if masked else b"")
        assert subject.whole_event_type(cut) is None
        assert subject.whole_event_type(frame("unknown.type", masked=masked)) is None
    subject = scanner()
    assert subject.whole_message(build_frame(Opcode.TEXT, b'{"type":"error}')) is None
    assert subject.whole_message(frame(TYPES[0])) is None


def test_whole_message_needs_a_message_boundary() -> None:
    """Within a message, behind a close frame and in the bytes of a client nothing is recognised."""
    within, ended = scanner(), scanner()
    within.feed(b"\x01" + frame(TYPES[0])[1:])
    ended.feed(build_frame(Opcode.CLOSE, b""))

    assert within.whole_message(frame("error")) is None
    assert ended.whole_message(frame("error")) is None
    assert scanner(masked=True).whole_message(frame("error", masked=True)) is None
    assert Scanner(masked=False, max_message_bytes=100, parsed_types=PARSED).whole_message(frame("error")) is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(frame("error"), id="requested"),
        pytest.param(frame("unknown.type"), id="unknown"),
        pytest.param(build_frame(Opcode.PING, b"p"), id="ping"),
        pytest.param(b"\x01" + frame(TYPES[0])[1:], id="fragment"),
        pytest.param(b"\xc1" + frame(TYPES[0])[1:], id="reserved bit"),
        pytest.param(b"\x81\x7e\x00\x7d" + b"A" * 125, id="length not minimal"),
        pytest.param(frame(TYPES[0])[:3], id="incomplete header"),
    ],
)
def test_run_ends_before_anything_else(other: bytes) -> None:
    """`feed` gets the rest, and nothing of it is kept."""
    event = frame(TYPES[1])
    subject = scanner()

    assert len(event) == subject.feed_events(event + other + event)
    assert [TYPES[1]] == subject.event_types
    assert subject.missing_bytes == 0
    assert 0 == subject.feed_events(other)


def test_run_counts_no_message_within_another() -> None:
    """After a fragment, bytes that look like an event are a violation, which `feed` reports."""
    subject = scanner()
    subject.feed(b"\x01\x01{")

    assert 0 == subject.feed_events(frame(TYPES[0]))
    assert [] == subject.event_types


@pytest.mark.parametrize("piece", [1, 7, MIN_PART_BYTES - 1, MIN_PART_BYTES, 1448])
@pytest.mark.parametrize("masked", [True, False])
def test_parts_of_a_frame_cost_few_objects(piece: int, masked: bool) -> None:
    """Also in parts of one byte a frame of 64 KiB costs its own size, an eighth that a bytearray reserves, and 16 KiB."""
    whole = frame(TYPES[0], MAX_BUFFERED_FRAME_BYTES - 100, masked=masked)
    subject = scanner(masked=masked)
    for at in range(0, len(whole) - piece, piece):
        assert [] == subject.feed(whole[at : at + piece])

        assert len(subject._parts) <= MAX_PARTS
    held = sum(map(sys.getsizeof, subject._parts)) + sys.getsizeof(subject._parts)
    assert held <= MAX_BUFFERED_FRAME_BYTES * 9 // 8 + 16_384


def test_small_and_large_parts_in_turn_cost_few_objects() -> None:
    """The worst case: a small part between any two large ones."""
    whole = frame(TYPES[0], MAX_BUFFERED_FRAME_BYTES - 100)
    subject, at, sizes = scanner(), 0, itertools.cycle((MIN_PART_BYTES, 1))
    while at < len(whole) - MIN_PART_BYTES:
        size = next(sizes)
        subject.feed(whole[at : at + size])
        at += size

    assert len(subject._parts) <= MAX_PARTS
    assert sum(map(sys.getsizeof, subject._parts)) <= MAX_BUFFERED_FRAME_BYTES * 9 // 8 + 16_384
    assert [Chunk(whole), MessageEnd(TYPES[0], len(whole) - 4)] == subject.feed(whole[at:])


def test_copy_keeps_its_own_parts() -> None:
    """A copy parses ahead while the scanner itself waits for the rest of the frame."""
    event = frame(TYPES[0], 3000)
    subject = scanner()
    for part in (event[:2000], event[2000:2010]):  # a large part and a small one
        subject.feed(part)
    ahead = subject.copy()
    ahead.feed(event[2010:2020])

    assert [Chunk(event), MessageEnd(TYPES[0], len(event) - 4)] == subject.feed(event[2010:])
    assert [Chunk(event), MessageEnd(TYPES[0], len(event) - 4)] == ahead.feed(event[2020:])


def test_streamed_payload_is_forwarded_as_it_is() -> None:
    """The bytes of a read inside a large frame are not copied; the last read of the frame ends its message."""
    event = frame("response.created", 2 * MAX_BUFFERED_FRAME_BYTES)
    subject = scanner()
    subject.feed(event[:5000])
    middle = event[5000:9000]
    (chunk,) = subject.feed(middle)

    assert isinstance(chunk, Chunk)
    assert chunk.raw is middle
    assert chunk.mid_frame
    assert [] == subject.feed(b"")
    end = subject.feed(event[9000:] + build_frame(Opcode.PING, b""))
    assert [Chunk(event[9000:]), MessageEnd("response.created", len(event) - 10), ControlFrame(Opcode.PING, b"")] == end


def test_error_behind_events_is_yielded_whole() -> None:
    """Its type is found behind a run, too, and in any number of parts."""
    error = frame("error", 4000)
    subject = scanner()
    size = subject.feed_events(frame(TYPES[0]) + error[:1448])

    assert len(frame(TYPES[0])) == size
    assert subject.whole_event_type(error) is None
    rest = subject.complete(error[1448:])
    assert 0 == subject.feed_events(rest)
    assert [Message("error", error[4:], error), MessageEnd("error", len(error) - 4)] == subject.feed(rest)


@pytest.mark.parametrize("size", [1, 70, 200])
def test_payload_of_zeros_is_no_event(size: int) -> None:
    """Nor before a scanner has seen any event: the fuzzer found that it was a message of an empty type."""
    frame = build_frame(Opcode.TEXT, bytes(size))
    for parsed in (frozenset[str](), frozenset({"error"})):
        subject = Scanner(masked=False, max_message_bytes=1000, parsed_types=parsed)
        assert subject.whole_message(frame) is None
        assert subject.whole_event_type(frame) is None
