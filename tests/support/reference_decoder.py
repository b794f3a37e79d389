"""A reference decoder for the frame scanner: it decodes a whole stream at once, as simply as RFC 6455 section 5 is written.

It shares no code with the scanner, except its limits and `event_type`. `CheckedScanner` feeds a scanner piece by piece and
compares its items with the reference after each piece.
"""

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from service.realtime.events import HEAD_BYTES, event_type, may_be_object, type_in_head
from service.realtime.scanner import MAX_HELD_BYTES, Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, MessageEnd, Violation
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES

FRAME_COST = 64
"""Added to the size of each held fragment, so that the number of empty fragments is limited, too."""
MAX_UNTYPED_FRAMES = 800
"""A message of more fragments may reach `MAX_HELD_BYTES` before its type is found, and then has no type."""
HEADER_BYTES = 14
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)})
"""RFC 6455 section 7.4, and 1012 to 1014 of the IANA registry."""


@dataclass(frozen=True)
class Frame:
    """A data frame. `payload` is unmasked, and incomplete if the stream ends within the frame."""

    start: int
    header: int
    length: int
    fin: bool
    is_text: bool
    payload: bytes

    @property
    def end(self) -> int:
        """The offset of the end of the frame, which may be beyond the end of the stream."""
        return self.start + self.header + self.length


@dataclass
class DecodedStream:
    """The content of a stream. Control frames and the violation have the offset at which they are certain."""

    stream: bytes
    messages: list[list[Frame]] = field(default_factory=list)  # the last one may be incomplete
    controls: list[tuple[int, int, bytes]] = field(default_factory=list)
    violation: tuple[int, int] | None = None

    @cached_property
    def frames(self) -> list[Frame]:
        """All data frames. Use it after the stream is decoded, because it is cached."""
        return [frame for message in self.messages for frame in message]

    @property
    def data(self) -> bytes:
        """The bytes of the data frames as received."""
        return b"".join(self.stream[frame.start : frame.end] for frame in self.frames)


class _EndOfStream(Exception):
    """The stream ends within a frame."""


class _Violation(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Reader:
    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.offset = 0

    def read(self, count: int) -> bytes:
        data = self.stream[self.offset : self.offset + count]
        if len(data) < count:
            raise _EndOfStream
        self.offset += count
        return data


def decode(stream: bytes, *, masked: bool, limit: int) -> DecodedStream:
    """Decode a whole stream."""
    decoded, reader = DecodedStream(stream), _Reader(stream)
    try:
        while not (decoded.controls and decoded.controls[-1][1] == 0x8):
            _read_frame(reader, decoded, masked=masked, limit=limit)
    except _EndOfStream:
        pass
    except _Violation as violation:
        decoded.violation = (reader.offset, violation.code)
    return decoded


def _read_frame(reader: _Reader, decoded: DecodedStream, *, masked: bool, limit: int) -> None:
    start = reader.offset
    first = reader.read(1)[0]
    opcode, fin, is_control = first & 0x0F, first >= 0x80, first & 0x08 != 0
    open_message = decoded.messages[-1] if decoded.messages and not decoded.messages[-1][-1].fin else None
    if first & 0x70 or opcode not in {0x0, 0x1, 0x2, 0x8, 0x9, 0xA} or (is_control and not fin):
        raise _Violation(1002)
    if not is_control and (open_message is not None) != (opcode == 0x0):
        raise _Violation(1002)
    second = reader.read(1)[0]
    length = second & 0x7F
    if (second >= 0x80) != masked or (is_control and length > 125):
        raise _Violation(1002)
    if length >= 126:
        width, shortest = (2, 126) if length == 126 else (8, 65_536)
        length = int.from_bytes(reader.read(width), "big")
        if length < shortest:
            raise _Violation(1002)
    if not is_control and sum(frame.length for frame in open_message or []) + length > limit:
        raise _Violation(1009)
    key = reader.read(4) if masked else bytes(4)
    header = reader.offset - start
    if is_control:
        payload = _unmask(reader.read(length), key)
        if opcode == 0x8:
            _check_close(payload)
        decoded.controls.append((reader.offset, opcode, payload))
        return
    if open_message is None:
        open_message = []
        decoded.messages.append(open_message)
    is_text = opcode == 0x1 or (bool(open_message) and open_message[0].is_text)
    payload = _unmask(reader.stream[reader.offset : reader.offset + length], key)
    open_message.append(Frame(start, header, length, fin, is_text, payload))
    reader.read(length)


def _unmask(payload: bytes, key: bytes) -> bytes:
    pad = key * (len(payload) // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad[: len(payload)], "big")).to_bytes(len(payload), "big")


def _check_close(payload: bytes) -> None:
    if len(payload) == 1 or (payload and int.from_bytes(payload[:2], "big") not in CLOSE_CODES):
        raise _Violation(1002)
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise _Violation(1007) from None


# -- what a relay may and must forward ---------------------------------------------------------------------------------


def completed(message: Sequence[Frame], fed: int) -> bool:
    """Whether the message ended within the first `fed` bytes."""
    return message[-1].fin and message[-1].end <= fed


def message_head(message: Iterable[Frame]) -> bytes:
    """The payload bytes that are searched for the type."""
    return b"".join(frame.payload[:HEAD_BYTES] for frame in message)[:HEAD_BYTES]


def possible_types(message: Sequence[Frame], parsed_types: frozenset[str]) -> set[str | None]:
    """The types that the scanner may report for a whole message.

    The type that the head shows may count above the limit. Where no types are requested it may count in any message, and
    above the limit a message may have no type.
    """
    payload = b"".join(frame.payload for frame in message)
    if not message[0].is_text and not may_be_object(payload):
        return {None}
    head = type_in_head(message_head(message))
    is_large = held_cost(message) > MAX_HELD_BYTES
    head_may_count = (is_large and head) if parsed_types else (is_large or head)
    return {event_type(payload), head} if head_may_count else {event_type(payload)}


def is_parsed(message: Sequence[Frame], parsed_types: frozenset[str]) -> bool | None:
    """Whether a whole message must be yielded as `Message`, or must not; None if both are correct."""
    if not parsed_types:
        return False
    if not may_be_object(b"".join(frame.payload for frame in message)):
        return False if not message[0].is_text else None if held_cost(message) > MAX_HELD_BYTES else True
    results = {found is None or found in parsed_types for found in possible_types(message, parsed_types)}
    return results.pop() if len(results) == 1 else None


def held_cost(frames: Iterable[Frame]) -> int:
    """The size of held frames, with their cost."""
    return sum(frame.end - frame.start + FRAME_COST for frame in frames)


def forwarded_bytes(frame: Frame, fed: int, *, required: bool) -> int:
    """How many bytes of a frame may be forwarded, or are `required` to be, after `fed` bytes of the stream."""
    if frame.end <= fed:
        return frame.end - frame.start
    payload = fed - frame.start - frame.header
    if frame.length <= MAX_BUFFERED_FRAME_BYTES or payload < (HEAD_BYTES if required else 0):
        return 0
    return frame.header + payload


def max_forwarded(decoded: DecodedStream, fed: int) -> int:
    """How many bytes of data frames may be forwarded after `fed` bytes."""
    return sum(forwarded_bytes(frame, fed, required=False) for frame in decoded.frames)


def min_forwarded(decoded: DecodedStream, fed: int, parsed_types: frozenset[str]) -> int:
    """How many bytes of data frames must be forwarded: all but those of an open message that may be held."""
    return sum(
        sum(forwarded_bytes(frame, fed, required=True) for frame in message)
        for message in decoded.messages
        if completed(message, fed)
        or not _may_be_held([f for f in message if forwarded_bytes(f, fed, required=True)], parsed_types)
    )


def _may_be_held(frames: list[Frame], parsed_types: frozenset[str]) -> bool:
    head = message_head(frames)
    if frames and not may_be_object(head):
        return frames[0].is_text and held_cost(frames) <= MAX_HELD_BYTES
    found = type_in_head(head)
    return held_cost(frames) <= MAX_HELD_BYTES or found is None or found in parsed_types


# -- comparing a scanner with it -------------------------------------------------------------------------------------


@dataclass
class CheckedScanner:
    """A scanner and all its items. Raises AssertionError as soon as they differ from the reference."""

    scanner: Scanner
    decoded: DecodedStream
    parsed_types: frozenset[str]
    fed: int = 0
    forwarded: int = 0
    sizes: list[int] = field(default_factory=list)
    types: list[str | None] = field(default_factory=list)
    parsed: list[tuple[int, bytes]] = field(default_factory=list)  # offset within the data frames, payload
    controls: list[tuple[int, bytes]] = field(default_factory=list)
    violation: int | None = None
    max_held: int = 0

    def __post_init__(self) -> None:
        """Compute the offsets that every comparison needs."""
        self._data = self.decoded.data
        ends = [0]
        for frame in self.decoded.frames:
            ends.append(ends[-1] + frame.end - frame.start)
        self._frame_ends = frozenset(ends)
        counts = itertools.accumulate(len(message) for message in self.decoded.messages if message[-1].fin)
        self._message_ends = frozenset({0} | {ends[count] for count in counts})

    def feed(self, piece: bytes) -> None:
        """Feed a piece and compare everything that is visible from outside."""
        self.fed += len(piece)
        expected = self.scanner.copy().feed(piece)
        items = self._feed_like_a_pipe(piece)
        assert content(items) == content(expected), "the fast paths differ from feed"
        for number, item in enumerate(items):
            self._check_item(item, is_last=number == len(items) - 1)
        self._check_state()

    def _feed_like_a_pipe(self, piece: bytes) -> list[Item]:
        """Feed a piece by the scanner's fast paths as far as they go, as `Pipe.receive` does."""
        scanner = self.scanner
        if scanner.missing_bytes:
            if len(piece) < scanner.missing_bytes:
                scanner.add_part(piece)
                return []
            piece = scanner.complete(piece)
        kind = scanner.whole_event_type(piece)
        if kind is not None:
            return [Chunk(piece), MessageEnd(kind, self._payload_size(piece))]
        size = scanner.feed_events(piece)
        items: list[Item] = [Chunk(piece[:size])] if size else []
        at = 0
        for kind in scanner.event_types:
            length = self._payload_size(piece[at:])
            items.append(MessageEnd(kind, length))
            at += length + (8 if piece[at + 1] & 0x80 else 4)
        assert at == size, "the types are not those of the consumed frames"
        if scanner.missing_bytes:
            return items
        message = scanner.whole_message(piece[size:])
        if message is not None:
            return [*items, message, MessageEnd(message.type, len(message.payload))]
        return items + scanner.feed(piece[size:])

    def _payload_size(self, frame: bytes) -> int:
        return int.from_bytes(frame[2:4], "big")

    def feed_sliced(self, cuts: Iterable[int]) -> None:
        """Feed the whole stream, sliced at these offsets. A copy of the scanner, made after the first slice, must agree."""
        stream = self.decoded.stream
        offsets = [0, *sorted(cuts), len(stream)]
        for number, (a, b) in enumerate(itertools.pairwise(offsets)):
            if number == 1:  # a session whose reading is held parses ahead with a copy
                self.clone().feed(stream[a:])
            self.feed(stream[a:b])

    def clone(self) -> "CheckedScanner":
        """Return an independent copy."""
        clone = copy.copy(self)
        clone.scanner = self.scanner.copy()
        for name in ("sizes", "types", "parsed", "controls"):
            setattr(clone, name, list(getattr(self, name)))
        return clone

    def outcome(self) -> tuple[object, ...]:
        """Everything that slicing must not change."""
        return self.forwarded, self.sizes, self.types, self.parsed, self.controls, self.violation

    def _check_item(self, item: Item, *, is_last: bool) -> None:
        assert self.violation is None, f"{item} after a violation"
        assert not self.controls or self.controls[-1][0] != 0x8, f"{item} after a close frame"
        match item:
            case Chunk(raw, mid_frame):
                self._check_forwarded(raw)
                assert mid_frame is (self.forwarded not in self._frame_ends), "mid_frame of a chunk"
            case Message(kind, payload, raw):
                self.parsed.append((self.forwarded, payload))
                assert kind is None or kind in self.parsed_types, f"{kind} was not requested"
                self._check_forwarded(raw)
                assert self.forwarded in self._message_ends, "an incomplete message"
            case MessageEnd(kind, size):
                self.types.append(kind)
                self.sizes.append(size)
            case ControlFrame(opcode, payload):
                self.controls.append((int(opcode), payload))
            case Violation(code, _):
                assert is_last, "a violation is not the last item"
                self.violation = int(code)

    def _check_forwarded(self, raw: bytes) -> None:
        assert raw, "an empty chunk"
        assert raw == self._data[self.forwarded : self.forwarded + len(raw)], "forwarded bytes differ from the input"
        self.forwarded += len(raw)

    def _check_state(self) -> None:
        decoded, fed = self.decoded, self.fed
        assert self.forwarded <= max_forwarded(decoded, fed), "forwarded more than allowed"
        assert self.forwarded >= min_forwarded(decoded, fed, self.parsed_types), "forwarded less than required"
        self.max_held = max(self.max_held, held_bytes(self.scanner))
        ended = [message for message in decoded.messages if completed(message, fed)]
        assert [sum(frame.length for frame in message) for message in ended] == self.sizes, "messages"
        assert [(opcode, payload) for offset, opcode, payload in decoded.controls if offset <= fed] == self.controls, (
            "controls"
        )
        certain, code = decoded.violation or (0, None)
        assert self.violation == (code if certain <= fed else None), f"violation {self.violation} instead of {code}"
        assert self.scanner.mid_frame is (self.forwarded not in self._frame_ends), "mid_frame"
        assert self.scanner.at_message_boundary is (self.forwarded in self._message_ends), "at_message_boundary"
        self._check_types(ended)

    def _check_types(self, ended: list[list[Frame]]) -> None:
        parsed = dict(self.parsed)
        offset = 0
        for message, kind in zip(ended, self.types, strict=True):
            expected = possible_types(message, self.parsed_types)
            assert kind in expected, f"type {kind} instead of {expected}"
            payload = parsed.pop(offset, None)
            assert is_parsed(message, self.parsed_types) in {None, payload is not None}, "yielded as a message, or not"
            assert payload in {None, b"".join(frame.payload for frame in message)}, "payload"
            offset += sum(frame.end - frame.start for frame in message)
        assert not parsed, "a message was yielded that the stream does not contain"


def content(items: Iterable[Item]) -> tuple[bytes, list[Item]]:
    """What must not depend on how a read is processed: the bytes, and everything else in its order."""
    items = list(items)
    raw = b"".join(item.raw for item in items if isinstance(item, Chunk | Message))
    return raw, [item for item in items if not isinstance(item, Chunk)]


def held_bytes(scanner: Scanner) -> int:
    """The number of bytes in all attributes of a scanner."""
    names = [name for kind in type(scanner).__mro__ for name in getattr(kind, "__slots__", ())]
    return sum(_size_of(getattr(scanner, name)) for name in names)


def _size_of(value: object) -> int:
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    return sum(map(_size_of, value)) if isinstance(value, list | tuple) else 0
