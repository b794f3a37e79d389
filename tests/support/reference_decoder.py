"""A second opinion on the frame scanner: decodes a whole stream at once, as slowly and plainly as RFC 6455 section 5 reads.

It shares no code with the scanner but the numbers that bound it and the type of an event.
`Watch` feeds a scanner piece by piece and holds what comes out against the reference after each piece.
"""

import copy
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from service.realtime.events import HEAD_BYTES, event_type
from service.realtime.scanner import MAX_BUFFERED_FRAME_BYTES, MAX_HELD_BYTES, Scanner
from service.realtime.scanner_items import Chunk, Completed, Control, Item, Message, Violation

FRAME_COST = 64
"""What a held fragment counts for beside its bytes, so that a flood of empty ones is bounded too."""
MANY_FRAMES = 800
"""So many fragments without a type may fill what is held back; the message then goes on with its type unknown."""
HEADER_BYTES = 14
CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, *range(3000, 5000)})
"""RFC 6455 section 7.4, and the three that the registry has got since."""


@dataclass(frozen=True)
class Frame:
    """A data frame. `payload` is unmasked, and short if the stream ends in it."""

    start: int
    header: int
    length: int
    fin: bool
    is_text: bool
    payload: bytes

    @property
    def end(self) -> int:
        """Where in the stream it ends, or would."""
        return self.start + self.header + self.length


@dataclass
class Story:
    """What a stream says. Of each control frame and of the violation: where in the stream it is certain."""

    stream: bytes
    messages: list[list[Frame]] = field(default_factory=list)  # the last one may be open
    controls: list[tuple[int, int, bytes]] = field(default_factory=list)
    violation: tuple[int, int] | None = None

    @cached_property
    def frames(self) -> list[Frame]:
        """All data frames; to be asked for once the stream is read."""
        return [frame for message in self.messages for frame in message]

    @property
    def data(self) -> bytes:
        """The bytes of the data frames, as they came."""
        return b"".join(self.stream[frame.start : frame.end] for frame in self.frames)


class _Ended(Exception):
    """The stream ends here."""


class _Wrong(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Cursor:
    def __init__(self, stream: bytes) -> None:
        self.stream = stream
        self.at = 0

    def take(self, count: int) -> bytes:
        taken = self.stream[self.at : self.at + count]
        if len(taken) < count:
            raise _Ended
        self.at += count
        return taken


def decode(stream: bytes, *, masked: bool, cap: int) -> Story:
    """Read a whole stream."""
    story, cursor = Story(stream), _Cursor(stream)
    try:
        while not (story.controls and story.controls[-1][1] == 0x8):
            _read_frame(cursor, story, masked=masked, cap=cap)
    except _Ended:
        pass
    except _Wrong as wrong:
        story.violation = (cursor.at, wrong.code)
    return story


def _read_frame(cursor: _Cursor, story: Story, *, masked: bool, cap: int) -> None:
    start = cursor.at
    first = cursor.take(1)[0]
    opcode, fin, is_control = first & 0x0F, first >= 0x80, first & 0x08 != 0
    open_message = story.messages[-1] if story.messages and not story.messages[-1][-1].fin else None
    if first & 0x70 or opcode not in {0x0, 0x1, 0x2, 0x8, 0x9, 0xA} or (is_control and not fin):
        raise _Wrong(1002)
    if not is_control and (open_message is not None) != (opcode == 0x0):
        raise _Wrong(1002)
    second = cursor.take(1)[0]
    length = second & 0x7F
    if (second >= 0x80) != masked or (is_control and length > 125):
        raise _Wrong(1002)
    if length >= 126:
        width, shortest = (2, 126) if length == 126 else (8, 65_536)
        length = int.from_bytes(cursor.take(width), "big")
        if length < shortest:
            raise _Wrong(1002)
    if not is_control and sum(frame.length for frame in open_message or []) + length > cap:
        raise _Wrong(1009)
    key = cursor.take(4) if masked else bytes(4)
    header = cursor.at - start
    if is_control:
        payload = _plain(cursor.take(length), key)
        if opcode == 0x8:
            _check_close(payload)
        story.controls.append((cursor.at, opcode, payload))
        return
    if open_message is None:
        open_message = []
        story.messages.append(open_message)
    is_text = opcode == 0x1 or (bool(open_message) and open_message[0].is_text)
    payload = _plain(cursor.stream[cursor.at : cursor.at + length], key)
    open_message.append(Frame(start, header, length, fin, is_text, payload))
    cursor.take(length)


def _plain(payload: bytes, key: bytes) -> bytes:
    pad = key * (len(payload) // 4 + 1)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pad[: len(payload)], "big")).to_bytes(len(payload), "big")


def _check_close(payload: bytes) -> None:
    if len(payload) == 1 or (payload and int.from_bytes(payload[:2], "big") not in CLOSE_CODES):
        raise _Wrong(1002)
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise _Wrong(1007) from None


# -- what follows from it for a relay ---------------------------------------------------------------------------------


def completed(message: Sequence[Frame], fed: int) -> bool:
    """Whether a message has ended within the first `fed` bytes."""
    return message[-1].fin and message[-1].end <= fed


def head_of(message: Iterable[Frame]) -> bytes:
    """The bytes in which the type is looked for."""
    return b"".join(frame.payload[:HEAD_BYTES] for frame in message)[:HEAD_BYTES]


def types_of(message: Sequence[Frame]) -> set[str | None]:
    """The type that a whole message may be told by."""
    shown = event_type(head_of(message)) if message[0].is_text else None
    return {shown, None} if len(message) > MANY_FRAMES else {shown}


def is_read(message: Sequence[Frame], parsed_types: frozenset[str]) -> bool | None:
    """Whether a whole message is handed over instead of forwarded; None if either will do."""
    types = types_of(message)
    if not types & parsed_types or sum(frame.length for frame in message) > MAX_HELD_BYTES:
        return False
    return True if held_cost(message) <= MAX_HELD_BYTES and None not in types else None


def held_cost(frames: Iterable[Frame]) -> int:
    """What frames count for while they are held back."""
    return sum(frame.end - frame.start + FRAME_COST for frame in frames)


def going(frame: Frame, fed: int, *, must: bool) -> int:
    """How much of a frame may have gone on, or must have, when `fed` bytes of the stream are there."""
    if frame.end <= fed:
        return frame.end - frame.start
    payload = fed - frame.start - frame.header
    if frame.length <= MAX_BUFFERED_FRAME_BYTES or payload < (HEAD_BYTES if must else 0):
        return 0
    return frame.header + payload


def most(story: Story, fed: int) -> int:
    """How many bytes of data frames may have gone on."""
    return sum(going(frame, fed, must=False) for frame in story.frames)


def least(story: Story, fed: int, parsed_types: frozenset[str]) -> int:
    """How many bytes of data frames must have gone on: all but those of an open message that may be held back."""
    return sum(
        sum(going(frame, fed, must=True) for frame in message)
        for message in story.messages
        if completed(message, fed) or not _may_wait([f for f in message if going(f, fed, must=True)], parsed_types)
    )


def _may_wait(frames: list[Frame], parsed_types: frozenset[str]) -> bool:
    if held_cost(frames) > MAX_HELD_BYTES or not all(frame.is_text for frame in frames):
        return False
    head = head_of(frames)
    shown = event_type(head)
    return shown in parsed_types if shown is not None else len(head) < HEAD_BYTES


# -- holding a scanner against it -------------------------------------------------------------------------------------


@dataclass
class Watch:
    """A scanner and all that came out of it; raises AssertionError as soon as that cannot be right."""

    scanner: Scanner
    story: Story
    parsed_types: frozenset[str]
    fed: int = 0
    forwarded: int = 0
    sizes: list[int] = field(default_factory=list)
    types: list[str | None] = field(default_factory=list)
    read: list[tuple[int, bytes]] = field(default_factory=list)  # where in the data frames they begin
    controls: list[tuple[int, bytes]] = field(default_factory=list)
    violation: int | None = None
    most_held: int = 0

    def __post_init__(self) -> None:
        """Reckon once what each look needs."""
        self._data = self.story.data
        ends = [0]
        for frame in self.story.frames:
            ends.append(ends[-1] + frame.end - frame.start)
        self._frame_ends = frozenset(ends)
        counts = itertools.accumulate(len(message) for message in self.story.messages if message[-1].fin)
        self._message_ends = frozenset({0} | {ends[count] for count in counts})

    def feed(self, piece: bytes) -> None:
        """Feed a piece and look at all that may be seen from outside."""
        self.fed += len(piece)
        items = self._glance(piece) or self.scanner.feed(piece)
        for number, item in enumerate(items):
            self._take(item, is_last=number == len(items) - 1)
        self._look()

    def _glance(self, piece: bytes) -> list[Item]:
        """Whatever a glance tells, the scanner's whole machinery has to tell too."""
        kind = self.scanner.whole_event_type(piece)
        if kind is None:
            return []
        items: list[Item] = [Chunk(piece), Completed(kind, len(piece) - (8 if piece[1] & 0x80 else 4))]
        assert items == self.scanner.copy().feed(piece), f"a glance saw {kind}"
        return items

    def feed_cut(self, cuts: Iterable[int]) -> None:
        """Feed the whole stream, cut at these places; a copy that is made on the way must not differ."""
        stream = self.story.stream
        places = [0, *sorted(cuts), len(stream)]
        for number, (a, b) in enumerate(itertools.pairwise(places)):
            if number == 1:  # a held session looks ahead with a copy
                self.fork().feed(stream[a:])
            self.feed(stream[a:b])

    def fork(self) -> "Watch":
        """A copy that goes its own way."""
        fork = copy.copy(self)
        fork.scanner = self.scanner.copy()
        for name in ("sizes", "types", "read", "controls"):
            setattr(fork, name, list(getattr(self, name)))
        return fork

    def outcome(self) -> tuple[object, ...]:
        """All that slicing must not change."""
        return self.forwarded, self.sizes, self.types, self.read, self.controls, self.violation

    def _take(self, item: Item, *, is_last: bool) -> None:
        assert self.violation is None, f"{item} behind a violation"
        assert not self.controls or self.controls[-1][0] != 0x8, f"{item} behind CLOSE"
        match item:
            case Chunk(raw, mid_frame):
                self._pass(raw)
                assert mid_frame is (self.forwarded not in self._frame_ends), "mid_frame of a chunk"
            case Message(kind, payload, raw):
                self.read.append((self.forwarded, payload))
                assert kind in self.parsed_types, f"{kind} was not asked for"
                self._pass(raw)
                assert self.forwarded in self._message_ends, "a message that is not whole"
            case Completed(kind, size):
                self.types.append(kind)
                self.sizes.append(size)
            case Control(opcode, payload):
                self.controls.append((int(opcode), payload))
            case Violation(code, _):
                assert is_last, "a violation is not the last item"
                self.violation = int(code)

    def _pass(self, raw: bytes) -> None:
        assert raw, "an empty piece"
        assert raw == self._data[self.forwarded : self.forwarded + len(raw)], "what went on is not what came in"
        self.forwarded += len(raw)

    def _look(self) -> None:
        story, fed = self.story, self.fed
        assert self.forwarded <= most(story, fed), "more went on than may"
        assert self.forwarded >= least(story, fed, self.parsed_types), "less went on than must"
        self.most_held = max(self.most_held, held_bytes(self.scanner))
        over = [message for message in story.messages if completed(message, fed)]
        assert [sum(frame.length for frame in message) for message in over] == self.sizes, "messages"
        assert [(opcode, payload) for at, opcode, payload in story.controls if at <= fed] == self.controls, "controls"
        certain, code = story.violation or (0, None)
        assert self.violation == (code if certain <= fed else None), f"violation {self.violation} instead of {code}"
        assert self.scanner.mid_frame is (self.forwarded not in self._frame_ends), "mid_frame"
        assert self.scanner.at_message_boundary is (self.forwarded in self._message_ends), "at_message_boundary"
        self._look_at_types(over)

    def _look_at_types(self, over: list[list[Frame]]) -> None:
        read = dict(self.read)
        at = 0
        for message, kind in zip(over, self.types, strict=True):
            assert kind in types_of(message), f"type {kind} instead of {types_of(message)}"
            payload = read.pop(at, None)
            assert is_read(message, self.parsed_types) in {None, payload is not None}, "read, or not read"
            assert payload in {None, b"".join(frame.payload for frame in message)}, "payload"
            at += sum(frame.end - frame.start for frame in message)
        assert not read, "a message was handed over that is none"


def held_bytes(scanner: Scanner) -> int:
    """What a scanner keeps, whatever its attributes are called."""
    names = getattr(type(scanner), "__slots__", None) or vars(scanner)
    return sum(_weigh(getattr(scanner, name)) for name in names)


def _weigh(value: object) -> int:
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    return sum(map(_weigh, value)) if isinstance(value, list | tuple) else 0
