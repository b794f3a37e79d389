"""Properties of the frame scanner, compared with a reference that decodes the whole stream at once.

Streams are generated valid and then mutated: bits, lengths, opcodes and masks change; frames are removed, copied or moved.
With TEST_PROFILE=deep each property is tested on ten thousand streams.
"""

import itertools
import json
import os
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.seeds import seeds_of
from fuzz.targets import TARGETS
from service.realtime.closing import close_code_to_forward, close_payload, parse_close
from service.realtime.events import HEAD_BYTES
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import MAX_EVENT_BYTES, Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Message, Violation
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES
from tests.support.checked_scanner import CheckedScanner, held_bytes
from tests.support.reference_decoder import HEADER_BYTES, DecodedStream, decode

SIZE_LIMIT: Final = 150_000
KEYS: Final = (b"\x01\x7f\x80\xff", b"\x00\x00\x00\x00", b"{{{{", b'"t"\x81')
PARSED_EVENT_TYPES: Final = frozenset({"error", "response.done"})
SIZES: Final = (
    0, 1, 125, 126, 127, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 65_535, 65_536, 65_537,
    MAX_BUFFERED_FRAME_BYTES + HEAD_BYTES, SIZE_LIMIT - 1, SIZE_LIMIT, SIZE_LIMIT + 1,
)  # fmt: skip
EDGE_FRAMES: Final = (
    1,
    700,
    65_535,
    MAX_BUFFERED_FRAME_BYTES,
    MAX_BUFFERED_FRAME_BYTES + 1,
    MAX_BUFFERED_FRAME_BYTES + HEAD_BYTES,
    SIZE_LIMIT,
)
NEAR_OFFSETS: Final = (0, 1, 2, 3, 9, 13, HEADER_BYTES, HEADER_BYTES + HEAD_BYTES - 1, HEADER_BYTES + HEAD_BYTES)
MAX_HELD_TOTAL_BYTES: Final = MAX_BUFFERED_FRAME_BYTES + HEADER_BYTES + MAX_EVENT_BYTES + HEAD_BYTES
"""One incomplete frame, the held fragments and the head of a message."""
EDGES: Final = (0, 2, 3, 4, 7, 125, 126, 127, 128, 129, 255)

# Ten thousand examples take minutes.
pytestmark = pytest.mark.timeout(3600 if os.environ.get("TEST_PROFILE") == "deep" else 180)

# -- generated input --------------------------------------------------------------------------------------------------

values: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(
        [
            "",
            "x" * 200,
            'a"b\\c',
            '"type":"error"',
            "\u00e9\u4e2d\U0001f600",
            1.5e9,
            -3,
            True,
            None,
            [],
            {"type": "error"},
        ]
    ),
    st.text(max_size=8),
)
types = st.sampled_from(
    ["error", "response.done", "session.update", "response.output_audio.delta", "x", "a b", "\u00e9", "t" * 81, ""]
)


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """The JSON text of an event, its type first or not, with spaces, escapes and non-ASCII text; sometimes truncated."""
    before = draw(
        st.dictionaries(st.sampled_from(["event_id", "a", "\u00fc", 'q"', "types", "\\"]), values, max_size=2)
    )
    body: dict[str, object] = {**before, "type": draw(types)}
    if draw(st.booleans()):
        body["delta"] = draw(values)
    if (size := draw(st.sampled_from((0, 0, 0, *SIZES)))) > 0:
        body["filler"] = "A" * size
    text = json.dumps(
        body,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])),
    ).encode("utf-8", "surrogatepass")
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 7)) == 0 else text


payloads = st.one_of(events(), st.sampled_from(SIZES).map(lambda size: b"A" * size), st.binary(max_size=150))
closes = st.one_of(
    st.just(b""),
    st.builds(close_payload, st.sampled_from([1000, 1001, 3000, 4999]), st.text(max_size=45)),
    st.builds(lambda code, rest: code.to_bytes(2, "big") + rest, st.integers(0, 65_535), st.binary(max_size=20)),
    st.binary(max_size=130),
)


def fragment(opcode: int, payload: bytes, key: bytes, *, fin: bool) -> bytes:
    """A frame with the given FIN bit."""
    frame = build_frame(Opcode(opcode), payload, key)
    return bytes((frame[0] & (0xFF if fin else 0x7F),)) + frame[1:]


@st.composite
def messages(draw: st.DrawFn, key: bytes) -> list[bytes]:
    """The frames of one message, with control frames between them."""
    payload = draw(payloads)
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]))
    cut_offsets = st.one_of(st.integers(0, len(payload)), st.integers(0, min(len(payload), 40)))
    cuts = sorted(draw(st.lists(cut_offsets, max_size=3)))
    frames: list[bytes] = []
    for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        frames.append(fragment(Opcode.CONTINUATION if frames else opcode, payload[a:b], key, fin=b == len(payload)))
    # A cut at the end makes two final frames; the second one is invalid, which is intended.
    if draw(st.integers(0, 3)) == 0:
        ping = build_frame(draw(st.sampled_from([Opcode.PING, Opcode.PONG])), draw(st.binary(max_size=125)), key)
        frames.insert(draw(st.integers(0, len(frames))), ping)
    return frames


@st.composite
def valid_frames(draw: st.DrawFn, *, masked: bool) -> list[bytes]:
    """Frames of some messages, sometimes a close frame with bytes after it."""
    key = draw(st.sampled_from(KEYS)) if masked else b""
    frames = [frame for _ in range(draw(st.integers(1, 3))) for frame in draw(messages(key))]
    if draw(st.integers(0, 2)) == 0:
        frames.append(build_frame(Opcode.CLOSE, draw(closes), key))
        frames.append(draw(st.binary(max_size=6)))
    return frames


@st.composite
def streams(draw: st.DrawFn, *, masked: bool) -> bytes:
    """Valid frames, or frames changed in one to three places, mostly within headers."""
    frames = draw(valid_frames(masked=masked))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        n = draw(st.integers(0, len(frames) - 1))
        frame = bytearray(frames[n])
        place = draw(st.integers(0, max(0, min(len(frame) - 1, HEADER_BYTES))))
        match draw(st.integers(0, 6)) if frame else 0:
            case 0:
                frames[n : n + 1] = []
                frames = frames or [b""]
            case 1:
                frames.insert(n, bytes(frame))
            case 2:
                frames[n], frames[-1] = frames[-1], frames[n]
            case 3:
                frame[place] ^= 1 << draw(st.integers(0, 7))
                frames[n] = bytes(frame)
            case 4:
                frame[place] = draw(st.sampled_from(EDGES))
                frames[n] = bytes(frame)
            case 5:
                frames[n] = bytes(frame[: draw(st.integers(0, len(frame)))])
            case _:
                frame[place:place] = draw(st.binary(max_size=3))
                frames[n] = bytes(frame)
    return b"".join(frames)


def checked(stream: bytes, *, masked: bool, limit: int = SIZE_LIMIT) -> CheckedScanner:
    """A scanner that is compared with the reference after each piece."""
    scanner = Scanner(masked=masked, max_message_bytes=limit, parsed_types=PARSED_EVENT_TYPES)
    return CheckedScanner(scanner, decode(stream, masked=masked, limit=limit), PARSED_EVENT_TYPES)


def cut_offsets(decoded: DecodedStream) -> st.SearchStrategy[list[int]]:
    """Offsets at which to cut a stream: anywhere, and near the starts of its frames."""
    length = len(decoded.stream)
    near = {
        frame.start + step for frame in decoded.frames[:20] for step in NEAR_OFFSETS if frame.start + step <= length
    }
    anywhere = st.integers(0, length)
    return st.lists(st.one_of(anywhere, st.sampled_from(sorted(near))) if near else anywhere, max_size=8)


# -- the properties ---------------------------------------------------------------------------------------------------


@given(data=st.data(), masked=st.booleans())
def test_scanner_agrees_with_reference_for_any_slicing(data: st.DataObject, *, masked: bool) -> None:
    """They agree after each piece, and slicing does not change the result."""
    whole = checked(data.draw(streams(masked=masked)), masked=masked)
    cut = whole.clone()
    whole.feed(whole.decoded.stream)
    cut.feed_sliced(data.draw(cut_offsets(whole.decoded)))

    assert whole.outcome() == cut.outcome()


@given(data=st.data(), masked=st.booleans(), limit=st.sampled_from([0, 1, 125, 126, 400]))
def test_scanner_agrees_with_reference_byte_by_byte(data: st.DataObject, *, masked: bool, limit: int) -> None:
    """Short streams one byte at a time, with small size limits."""
    checked_bytes = checked(data.draw(streams(masked=masked))[:300], masked=masked, limit=limit)
    checked_bytes.feed_sliced(range(1, len(checked_bytes.decoded.stream)))


@given(data=st.data(), masked=st.booleans())
def test_scanner_forwards_exactly_the_data_frames(data: st.DataObject, *, masked: bool) -> None:
    """Byte for byte, and nothing after a violation or a close frame."""
    parts = data.draw(valid_frames(masked=masked))
    stream = b"".join(parts) + data.draw(st.sampled_from([b"", b"\xff", b"\x08\x00", b"\x81", parts[0]]))
    decoded = decode(stream, masked=masked, limit=SIZE_LIMIT)
    scanner = Scanner(masked=masked, max_message_bytes=SIZE_LIMIT, parsed_types=PARSED_EVENT_TYPES)
    items = [item for piece in slices(stream, data.draw(cut_offsets(decoded))) for item in scanner.feed(piece)]
    passed = b"".join(item.raw for item in items if isinstance(item, Chunk | Message))
    ended = decoded.violation is not None or any(opcode == Opcode.CLOSE for _, opcode, _ in decoded.controls)

    assert decoded.data.startswith(passed)
    assert len(decoded.data) == len(passed) or not decoded.messages[-1][-1].fin or len(stream) < decoded.frames[-1].end
    assert not ended or [] == scanner.feed(fragment(Opcode.TEXT, b"x", KEYS[0] if masked else b"", fin=True))


@given(data=st.data(), masked=st.booleans(), size=st.sampled_from(EDGE_FRAMES), kind=st.sampled_from(["error", "x"]))
def test_frame_is_forwarded_whole_up_to_64_kib(data: st.DataObject, *, masked: bool, size: int, kind: str) -> None:
    """Nothing of it is yielded before its last byte; a larger frame is yielded as it arrives, unless it must be parsed."""
    payload = (b'{"type":"%s","a":"' % kind.encode()).ljust(size, b"A")
    frame = build_frame(Opcode.TEXT, payload, KEYS[0] if masked else b"")
    scanner = Scanner(masked=masked, max_message_bytes=SIZE_LIMIT, parsed_types=PARSED_EVENT_TYPES)
    fed = out = 0
    for piece in slices(frame, data.draw(st.lists(st.integers(0, len(frame)), max_size=8))):
        fed += len(piece)
        out += sum(len(item.raw) for item in scanner.feed(piece) if isinstance(item, Chunk | Message))
        if size <= MAX_BUFFERED_FRAME_BYTES or kind == "error":
            assert out == (len(frame) if fed == len(frame) else 0)
        else:
            assert out == (fed if fed >= len(frame) - size + HEAD_BYTES else 0)
    assert out == len(frame)


PREFIXES: Final = {
    "open": fragment(Opcode.TEXT, b'{"type":"x"', b"", fin=False),
    "open-untyped": fragment(Opcode.TEXT, b"", b"", fin=False),
    "within": build_frame(Opcode.BINARY, b"A" * 2000)[:300],
    "streamed": build_frame(Opcode.BINARY, b"A" * 100_000)[:80_000],
    "header": b"\x82",
    "control": b"\x89\x7d",
    "closed": build_frame(Opcode.CLOSE, b""),
    "broken": b"\x83",
    "whole": build_frame(Opcode.TEXT, b"{}"),
}


@pytest.mark.parametrize("prefix", PREFIXES.values(), ids=PREFIXES.keys())
@pytest.mark.parametrize("kind", ["error", "session.updated", "unknown.type"])
def test_whole_event_type_needs_a_message_boundary(prefix: bytes, kind: str) -> None:
    """Bytes that look like one event are recognised only where a message may begin, and not for a requested type."""
    event = build_frame(Opcode.TEXT, b'{"type":"%s","a":"%s"}' % (kind.encode(), b"A" * 200))
    subject = checked(prefix + event, masked=False)
    subject.feed(prefix)
    found = subject.scanner.whole_event_type(event)

    assert found == ("session.updated" if (prefix, kind) == (PREFIXES["whole"], "session.updated") else None)
    subject.feed(event)


@st.composite
def holdable_frames(draw: st.DrawFn, *, masked: bool) -> list[bytes]:
    """Frames that a scanner might keep: many fragments, empty ones, a requested event, and an incomplete last one."""
    key = KEYS[0] if masked else b""
    start = draw(
        st.sampled_from([b"", b" ", b"{", b'{"type":"error","a":"', b'{"type":"response.done"', b'{"type":"x"'])
    )
    frames = [fragment(Opcode.TEXT, start.ljust(draw(st.sampled_from((0, 0, *EDGE_FRAMES))), b" "), key, fin=False)]
    for _ in range(draw(st.integers(0, 3))):
        size, times = draw(
            st.sampled_from([(0, 1200), (1, 900), (100, 500), (4000, 15), (30_000, 2), (65_536, 1), (9, 40)])
        )
        frames += [fragment(Opcode.CONTINUATION, b" " * size, key, fin=False)] * times
    last = fragment(Opcode.CONTINUATION, b" " * draw(st.sampled_from(EDGE_FRAMES)), key, fin=True)
    return [*frames, build_frame(Opcode.PING, b"p" * 125, key), last[: draw(st.integers(0, len(last)))]]


@given(data=st.data(), masked=st.booleans())
def test_scanner_memory_is_bounded(data: st.DataObject, *, masked: bool) -> None:
    """For any input and slicing the scanner keeps no more than its documented limit."""
    frames = data.draw(holdable_frames(masked=masked))
    scanner = Scanner(masked=masked, max_message_bytes=1 << 24, parsed_types=PARSED_EVENT_TYPES)
    stream = b"".join(frames)
    if data.draw(st.booleans()):
        pieces = slices(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    else:
        pieces = frames
    for piece in pieces:
        scanner.feed(piece)
        assert held_bytes(scanner) <= MAX_HELD_TOTAL_BYTES


def slices(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at these offsets."""
    return [stream[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(stream)])]


# -- close frames ---------------------------------------------------------------------------------------------------------

REASONS: Final = (
    b"",
    b"a.b",
    b"x" * 123,
    "\u00e9".encode() * 61,
    b"\xff",
    b"x" * 120 + b"\xf0\x9f\x98",
    b"\xed\xa0\x80",
)
CODES: Final = (0, 999, 1000, 1005, 1006, 1014, 1015, 2999, 3000, 4999, 5000, 65_535)


@pytest.mark.parametrize("masked", [False, True])
def test_close_frame_of_every_code_and_length(masked: bool) -> None:
    """Codes up to 5000, reasons of every length: accepted or refused like the reference, and forwarded as a valid payload."""
    key = KEYS[0] if masked else b""
    every_code = ((code, reason) for code in (*range(5001), 65_535) for reason in REASONS)
    every_length = ((code, part * length) for code in CODES for length in range(124) for part in (b"x", b"\xc3"))
    for code, reason in itertools.chain(every_code, every_length):
        payload = code.to_bytes(2, "big") + reason
        frame = build_frame(Opcode.CLOSE, payload, key)
        decoded = decode(frame, masked=masked, limit=0)
        (item,) = Scanner(masked=masked, max_message_bytes=0).feed(frame)
        if isinstance(item, Violation):
            assert decoded.violation == (len(frame), item.close_code), payload
            continue
        assert decoded.controls == [(len(frame), 8, payload)], payload
        assert item == ControlFrame(Opcode.CLOSE, payload)
        code_received, text = parse_close(payload)
        forwarded = close_payload(close_code_to_forward(code_received), text)
        assert forwarded == (1011 if code == 1014 else code).to_bytes(2, "big") + reason


# -- the fuzzer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz_target_accepts_its_seeds(target: str) -> None:
    """The properties that the fuzzer checks hold for the inputs that it starts with."""
    for seed in seeds_of(target):
        TARGETS[target](seed)
