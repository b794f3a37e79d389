"""A reference decoder for the frame scanner: it decodes a whole stream at once, as simply as RFC 6455 section 5 is written.

It shares no code with the scanner, except its limits and `event_type`. `checked_scanner.py` compares a scanner with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from service.realtime.events import HEAD_BYTES, event_type, may_be_object, type_in_head
from service.realtime.scanner import MAX_HELD_BYTES
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES
from service.realtime.scanner_types import FRAGMENT_COST

FRAME_COST = FRAGMENT_COST
"""Added to the size of each held fragment, so that the number of empty fragments is limited, too."""
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
