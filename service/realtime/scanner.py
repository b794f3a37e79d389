"""The stream of one direction: an incremental RFC 6455 scanner.

Pure: bytes in, items out; no sockets, no clock. Rules of this file:

* Slicing does not matter: however the bytes of a stream are cut, the same messages, control frames and bytes come out.
* Data frames come out exactly as they came in, masks and fragments included, in runs as long as the read allows. Only
  control frames and the few messages that somebody asked for are opened.
* What most reads are, one whole event, is recognised by `glance` without any of the machinery below.
* Memory is bounded: at most one frame of `WHOLE_FRAME_BYTES` and `HELD_BYTES` of held-back fragments are kept.
* Text is not checked for UTF-8: that is for the endpoint, whose 1007 passes through.
"""

from copy import deepcopy
from functools import cache
from typing import Final

from service.realtime.closing import CloseCode
from service.realtime.events import CLIENT_EVENT_TYPES, HEAD_BYTES, SERVER_EVENT_TYPES, event_type
from service.realtime.frames import Header, Opcode, ProtocolError, check_close, read_header, unmask
from service.realtime.scanner_items import Completed, Control, Item, ItemBuilder, Message, Violation

MAX_BUFFERED_FRAME_BYTES: Final = 65_536
"""A frame up to this size goes on when it is complete; a larger one is streamed."""
MAX_HELD_BYTES: Final = 65_536
"""At most this much of a message is held back until its type is known or, if it is to be read, until it is whole."""

_TEXT_WHOLE: Final = 0x80 | Opcode.TEXT  # the first byte of an unfragmented text message
_LENGTH_OF_TWO: Final = 0x7E  # the second byte of a frame whose length stands in the next two
_GLANCE_BYTES: Final = 64  # of a payload: enough for the longest type that is known, its key and its quotes
_GLANCE_LEAST: Final = 8 + 126  # the shortest frame, masked, whose length needs two bytes
_EACH_KEY: Final = int.from_bytes(b"\x01\0\0\0" * (_GLANCE_BYTES // 4), "little")  # times a mask: the mask, repeated


@cache
def _forwarded_types(parsed_types: frozenset[str]) -> dict[bytes, str]:
    """The known event types that nobody asked for, by the bytes in which they stand in a message."""
    return {name.encode(): name for name in (CLIENT_EVENT_TYPES | SERVER_EVENT_TYPES) - parsed_types}


class Scanner:
    """Reads one direction of a connection.

    `masked` says whether frames must be masked (from a client) or must not be (from a server). Messages whose type is in
    `read_types` and which are at most `HELD_BYTES` long come out as `Message`, all others as `Chunk`s.
    """

    def __init__(self, *, masked: bool, max_message_bytes: int, parsed_types: frozenset[str] = frozenset()) -> None:
        self._masked = masked
        self._max_message_bytes = max_message_bytes
        self._second_byte = _LENGTH_OF_TWO | (0x80 if masked else 0)
        self._read_types = parsed_types
        self._forwarded_types = _forwarded_types(parsed_types)
        self._amid = False  # in a frame or in a message, or at the end: a glance cannot tell what comes next
        self._carry = bytearray()  # the incomplete frame behind the last read
        self._needed = 0  # so many bytes of it, before a look at it is of use
        self._stream_left = 0  # bytes still to come of a frame that is being streamed
        self._stream_fin = False
        self._dead = False
        self._open = False  # a message has begun and has not ended
        self._size = 0  # payload bytes of the open message, as declared so far
        self._type: str | None = None
        self._decided = False  # whether the type has been looked for in full
        self._head = b""
        self._held: list[bytes] = []  # frames of the open message that wait
        self._held_size = 0
        self._released = False  # part of the open message has gone on
        self.fragments = 0
        """Data frames so far that did not end their message."""

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has gone on in part only: nothing else may be written behind it."""
        return self._stream_left > 0

    @property
    def at_message_boundary(self) -> bool:
        """Whether no message has gone on in part only."""
        return not (self._open and self._released)

    def copy(self) -> "Scanner":
        """A scanner in the same state, to look ahead with."""
        shared = (self._forwarded_types, self._read_types)
        return deepcopy(self, {id(table): table for table in shared})

    def whole_event_type(self, data: bytes) -> str | None:
        """The type of the event if `data` is exactly one whole message, of a known type that nobody asked for.

        It may then go on as it is and counts as taken; on None nothing was taken, and `feed` has to have it.
        """
        size = len(data)
        # Only frames with a length of two bytes: 126 bytes to 64 KiB, which is nearly all that is ever sent.
        if size < _GLANCE_LEAST or self._amid or data[0] != _TEXT_WHOLE or data[1] != self._second_byte:
            return None
        length = (data[2] << 8) | data[3]
        if length > self._max_message_bytes:
            return None
        if self._masked:
            if length + 8 != size:
                return None
            key = int.from_bytes(data[4:8], "little") * _EACH_KEY
            head = (int.from_bytes(data[8 : _GLANCE_BYTES + 8], "little") ^ key).to_bytes(_GLANCE_BYTES, "little")
        else:
            if length + 4 != size:
                return None
            head = data[4 : _GLANCE_BYTES + 4]
        # Without a blank, as servers and JavaScript write it, or with one, as Python does.
        start = 9 if head.startswith(b'{"type":"') else 10 if head.startswith(b'{"type": "') else 0
        end = head.find(b'"', start) if start else -1
        return self._forwarded_types.get(head[start:end]) if end > 0 else None

    def feed(self, data: bytes) -> list[Item]:
        """Take the next bytes, of any length, and return what they complete."""
        if self._dead:
            return []
        if self._carry:
            self._carry += data
            if len(self._carry) < self._needed:
                return []
            data = bytes(self._carry)
            self._carry.clear()
        out = ItemBuilder(data)
        at = self._scan(data, out)
        if not self._dead:
            out.cut(at, at)
            self._carry += data[at:]
            self._amid = self._open or bool(self._carry)
        out.emit(mid_frame=self._stream_left > 0)
        return out.items

    def _scan(self, data: bytes, out: ItemBuilder) -> int:
        """Go from frame to frame; returns where the incomplete one begins that has to wait for more."""
        at, end = 0, len(data)
        try:
            if self._stream_left:
                at = self._stream(0, end, out)
            while at < end:
                following = self._step(data, at, end, out)
                if following == at:
                    break
                at = following
        except ProtocolError as broken:
            self._die()
            out.put(Violation(broken.code, broken.detail), at, end)
        return at

    def _die(self) -> None:
        self._dead = self._amid = True
        self._forget_held()

    def _step(self, data: bytes, at: int, end: int, out: ItemBuilder) -> int:
        """Take the frame that begins at `at`; returns where the next one begins, or `at` if more bytes are needed."""
        self._check_order(data[at] & 0x0F)
        header = read_header(data, at, masked=self._masked)
        if isinstance(header, int):
            self._needed = header
            return at
        self._check_size(header)
        whole = header.length <= MAX_BUFFERED_FRAME_BYTES
        self._needed = header.size + (header.length if whole else HEAD_BYTES)
        if end - at < self._needed:
            return at
        if header.opcode >= Opcode.CLOSE:
            return self._take_control(header, data, at, out)
        self._begin(header)
        if not whole:
            return self._start_stream(header, data, at, end, out)
        return self._take_frame(header, data, at, out)

    def _check_order(self, opcode: int) -> None:
        if opcode <= Opcode.BINARY and self._open is not (opcode == Opcode.CONTINUATION):
            raise ProtocolError(
                CloseCode.PROTOCOL_ERROR, "new message inside a message" if self._open else "continuation of nothing"
            )

    def _check_size(self, header: Header) -> None:
        size = header.length + (self._size if self._open else 0)
        if header.opcode <= Opcode.BINARY and size > self._max_message_bytes:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "message over the cap")

    # -- control frames -----------------------------------------------------------------------------------------------

    def _take_control(self, header: Header, data: bytes, at: int, out: ItemBuilder) -> int:
        following = at + self._needed
        payload = unmask(data[at + header.size : following], header.key)
        if header.opcode == Opcode.CLOSE:
            check_close(payload)
            self._die()  # nothing may follow a CLOSE (section 5.5.1)
            following = len(data)
        out.put(Control(Opcode(header.opcode), payload), at, following)
        return following

    # -- data frames --------------------------------------------------------------------------------------------------

    def _begin(self, header: Header) -> None:
        if not self._open:
            self._open, self._size, self._released = True, 0, False
            # A binary message carries no event.
            self._type, self._decided = None, header.opcode == Opcode.BINARY
        self._size += header.length
        if not header.fin:
            self.fragments += 1

    def _take_frame(self, header: Header, data: bytes, at: int, out: ItemBuilder) -> int:
        following, start = at + self._needed, at + header.size
        if not self._decided:
            head = data[start : min(following, start + HEAD_BYTES - len(self._head))]
            self._decide(unmask(head, header.key), is_last=header.fin)
        if self._released or (self._decided and not self._is_wanted()):
            self._release(at, out)
        else:
            out.cut(at, following)
            self._hold(data[at:following], following, out)
        if header.fin:
            self._finish(following, out)
        return following

    def _decide(self, head: bytes, *, is_last: bool) -> None:
        self._head += head
        self._type = event_type(self._head)
        self._decided = self._type is not None or is_last or len(self._head) >= HEAD_BYTES

    def _is_wanted(self) -> bool:
        return self._type in self._read_types and not self._released

    def _hold(self, raw: bytes, following: int, out: ItemBuilder) -> None:
        self._held.append(raw)
        # Each frame counts for its object too: a flood of empty fragments must not grow past the bound.
        self._held_size += len(raw) + 64
        if self._held_size > MAX_HELD_BYTES:
            self._decided = True
            self._release(following, out)

    def _release(self, at: int, out: ItemBuilder) -> None:
        """Let what was held go on before the bytes from `at`, which are part of the run."""
        if self._held:
            out.cut(at, at)
            out.insert(self._held)
            self._forget_held()
        self._released = True

    def _forget_held(self) -> None:
        self._held = []
        self._held_size = 0

    def _finish(self, following: int, out: ItemBuilder) -> None:
        """The open message is whole; the next frame begins at `following`."""
        if self._held and self._type is not None:  # only what is wanted is held to its end
            payload = b"".join(_payload_of(frame, masked=self._masked) for frame in self._held)
            message = Message(self._type, payload, b"".join(self._held))
            self._forget_held()
            out.put(message, following, following)
        out.complete(Completed(self._type, self._size))
        self._open = False
        self._head = b""

    # -- frames too large to wait for ---------------------------------------------------------------------------------

    def _start_stream(self, header: Header, data: bytes, at: int, end: int, out: ItemBuilder) -> int:
        if not self._decided:
            start = at + header.size
            self._decide(unmask(data[start : start + HEAD_BYTES - len(self._head)], header.key), is_last=header.fin)
            self._decided = True
        self._release(at, out)
        self._stream_left, self._stream_fin = header.length, header.fin
        return self._stream(at + header.size, end, out)

    def _stream(self, at: int, end: int, out: ItemBuilder) -> int:
        """Let the payload of a streamed frame go on as far as it is there; returns where it ends."""
        following = min(end, at + self._stream_left)
        self._stream_left -= following - at
        if not self._stream_left and self._stream_fin:
            self._finish(following, out)
        return following


def _payload_of(frame: bytes, *, masked: bool) -> bytes:
    header = read_header(frame, 0, masked=masked)
    assert isinstance(header, Header)  # noqa: S101 - a frame is held when it is whole
    return unmask(frame[header.size :], header.key)
