"""`CheckedScanner` feeds a scanner piece by piece and compares its items with the reference decoder after each piece."""

import copy
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, MessageEnd, Violation
from tests.support.reference_decoder import (
    DecodedStream,
    Frame,
    completed,
    is_parsed,
    max_forwarded,
    min_forwarded,
    possible_types,
)

_HOLD_NO_BYTES: Final = frozenset({int, bool, str, type(None), frozenset})


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
    if value.__class__ in _HOLD_NO_BYTES:  # most attributes; some tests look at them after each byte
        return 0
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    return sum(map(_size_of, value)) if isinstance(value, list | tuple) else 0
