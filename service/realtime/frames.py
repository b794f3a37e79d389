"""RFC 6455 frames: an incremental scanner, frame building.

Pure: bytes in, items out; no sockets, no clock. Rules of this file:

* Slicing does not matter: however the bytes of a stream are cut, the items are the same (adjacent `Chunk`s joined).
* Data frames come out exactly as they came in, masks and fragments included. Only control frames and the few messages
  that somebody asked for are opened.
* Memory is bounded: at most one frame of `WHOLE_FRAME_BYTES` and `HELD_BYTES` of held-back fragments are kept.
* Text is not checked for UTF-8: that is for the endpoint, whose 1007 passes through.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from service.realtime.closing import CloseCode, close_code_may_be_sent
from service.realtime.events import HEAD_BYTES, event_type

WHOLE_FRAME_BYTES: Final = 65_536
"""A frame up to this size goes on when it is complete; a larger one is streamed."""
HELD_BYTES: Final = 65_536
"""At most this much of a message is held back until its type is known or, if it is to be read, until it is whole."""
MAX_CONTROL_BYTES: Final = 125


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of data frames, to go on as they are. `mid_frame`: the last frame in it is not complete."""

    raw: bytes
    mid_frame: bool = False


@dataclass(frozen=True, slots=True)
class Completed:
    """A message has passed whole: its event type if the first bytes showed one, its payload size in bytes."""

    type: str | None
    size: int


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message of a type that was asked for; `raw` are its frames, which have not been forwarded yet."""

    type: str
    payload: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Control:
    """A control frame: its payload unmasked. It belongs to this leg and is never forwarded."""

    opcode: Opcode
    payload: bytes


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke the protocol or the message cap; the scanner yields nothing after it. `detail` is static."""

    close_code: CloseCode
    detail: str


Item = Chunk | Completed | Message | Control | Violation


class _Broken(Exception):
    def __init__(self, code: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.violation = Violation(code, detail)


@dataclass(frozen=True, slots=True)
class _Header:
    opcode: int
    fin: bool
    size: int  # of the header
    length: int  # of the payload
    key: bytes  # the mask, empty if unmasked


class Scanner:
    """Reads one direction of a connection.

    `masked` says whether frames must be masked (from a client) or must not be (from a server). Messages whose type is in
    `read_types` and which are at most `HELD_BYTES` long come out as `Message`, all others as `Chunk`s.
    """

    def __init__(self, *, masked: bool, max_message_bytes: int, read_types: frozenset[str] = frozenset()) -> None:
        self._masked = masked
        self._max_message_bytes = max_message_bytes
        self._read_types = read_types
        self._buffer = bytearray()
        self._stream_left = 0  # bytes still to come of a frame that is being streamed
        self._stream_fin = False
        self._dead = False
        self._open = False  # a message has begun and has not ended
        self._size = 0  # payload bytes of the open message, as declared so far
        self._type: str | None = None
        self._decided = False  # whether the type has been looked for in full
        self._head = bytearray()
        self._held: list[bytes] = []  # frames of the open message that wait
        self._held_payload = bytearray()
        self._held_size = 0
        self._released = False  # part of the open message has gone on

    @property
    def mid_frame(self) -> bool:
        """Whether a frame has gone on in part only: nothing else may be written behind it."""
        return self._stream_left > 0

    @property
    def at_message_boundary(self) -> bool:
        """Whether no message has gone on in part only."""
        return not (self._open and self._released)

    def feed(self, data: bytes) -> list[Item]:
        """Take the next bytes, of any length, and return what they complete."""
        items: list[Item] = []
        if self._dead:
            return items
        self._buffer += data
        try:
            while self._step(items):
                pass
        except _Broken as broken:
            self._dead = True
            self._buffer.clear()
            items.append(broken.violation)
        return items

    def _step(self, items: list[Item]) -> bool:
        """Handle one frame or one piece of a streamed frame; False if more bytes are needed."""
        if self._stream_left:
            return self._stream(items)
        header = self._parse_header()
        if header is None:
            return False
        if header.opcode >= Opcode.CLOSE:
            return self._control(header, items)
        whole = header.length <= WHOLE_FRAME_BYTES
        needed = header.size + (header.length if whole else HEAD_BYTES)
        if len(self._buffer) < needed:
            return False
        self._begin(header)
        if whole:
            raw = bytes(self._buffer[:needed])
            del self._buffer[:needed]
            self._take_frame(header, raw, items)
        else:
            self._start_stream(header, items)
        return True

    # -- headers ------------------------------------------------------------------------------------------------------

    def _parse_header(self) -> _Header | None:
        """The next frame's header, None while incomplete. Refuses as early as the offending byte is there."""
        buffer = self._buffer
        if not buffer:
            return None
        first = buffer[0]
        opcode, fin = first & 0x0F, bool(first & 0x80)
        self._check_first_byte(first, opcode, fin=fin)
        if len(buffer) < 2:  # noqa: PLR2004 - the two fixed bytes of a header
            return None
        if bool(buffer[1] & 0x80) is not self._masked:
            raise _Broken(
                CloseCode.PROTOCOL_ERROR,
                "unmasked frame from a client" if self._masked else "masked frame from a server",
            )
        length, size = buffer[1] & 0x7F, 2
        if opcode >= Opcode.CLOSE and length > MAX_CONTROL_BYTES:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes")
        if length > MAX_CONTROL_BYTES:
            width = 2 if length == 126 else 8  # noqa: PLR2004 - RFC 6455 section 5.2: 126 and 127 announce longer lengths
            size += width
            if len(buffer) < size:
                return None
            length = int.from_bytes(buffer[2:size], "big")
            if length <= (MAX_CONTROL_BYTES if width == 2 else 0xFFFF):  # noqa: PLR2004 - the width just above
                raise _Broken(CloseCode.PROTOCOL_ERROR, "frame length not in its shortest form")
        if opcode < Opcode.CLOSE and (self._size if self._open else 0) + length > self._max_message_bytes:
            raise _Broken(CloseCode.MESSAGE_TOO_BIG, "message over the cap")
        key = b""
        if self._masked:
            size += 4
            if len(buffer) < size:
                return None
            key = bytes(buffer[size - 4 : size])
        return _Header(opcode, fin, size, length, key)

    def _check_first_byte(self, first: int, opcode: int, *, fin: bool) -> None:
        if first & 0x70:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved bit set, no extension was agreed")
        if opcode >= Opcode.CLOSE:
            if opcode > Opcode.PONG:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved opcode")
            if not fin:
                raise _Broken(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
        elif opcode > Opcode.BINARY:
            raise _Broken(CloseCode.PROTOCOL_ERROR, "reserved opcode")
        elif self._open is not (opcode == Opcode.CONTINUATION):
            raise _Broken(
                CloseCode.PROTOCOL_ERROR, "new message inside a message" if self._open else "continuation of nothing"
            )

    # -- control frames -----------------------------------------------------------------------------------------------

    def _control(self, header: _Header, items: list[Item]) -> bool:
        needed = header.size + header.length
        if len(self._buffer) < needed:
            return False
        payload = unmask(bytes(self._buffer[header.size : needed]), header.key)
        del self._buffer[:needed]
        opcode = Opcode(header.opcode)
        if opcode is Opcode.CLOSE:
            _check_close(payload)
            self._dead = True  # nothing may follow a CLOSE (section 5.5.1)
        items.append(Control(opcode, payload))
        return not self._dead

    # -- data frames --------------------------------------------------------------------------------------------------

    def _begin(self, header: _Header) -> None:
        if not self._open:
            self._open, self._size, self._released = True, 0, False
            # A binary message carries no event.
            self._type, self._decided = None, header.opcode == Opcode.BINARY
            self._head.clear()
        self._size += header.length

    def _take_frame(self, header: _Header, raw: bytes, items: list[Item]) -> None:
        payload = b""
        if not self._decided or self._wanted():
            payload = unmask(raw[header.size :], header.key)
        if not self._decided:
            self._decide(payload, fin=header.fin)
        if self._released or (self._decided and not self._wanted()):
            self._release(raw, items)
        else:
            self._hold(raw, payload, items)
        if header.fin:
            self._finish(items)

    def _decide(self, payload: bytes, *, fin: bool) -> None:
        self._head += payload[: HEAD_BYTES - len(self._head)]
        self._type = event_type(bytes(self._head))
        self._decided = self._type is not None or fin or len(self._head) >= HEAD_BYTES

    def _wanted(self) -> bool:
        return self._type in self._read_types and not self._released

    def _hold(self, raw: bytes, payload: bytes, items: list[Item]) -> None:
        self._held.append(raw)
        self._held_payload += payload
        # Each frame counts for its object too: a flood of empty fragments must not grow past the bound.
        self._held_size += len(raw) + 64
        if self._held_size > HELD_BYTES:
            self._decided = True
            self._release(b"", items)

    def _release(self, raw: bytes, items: list[Item], *, mid_frame: bool = False) -> None:
        """Let what was held go on, and `raw` behind it."""
        if self._held:
            raw = b"".join((*self._held, raw))
            self._forget_held()
        self._released = True
        if raw:
            items.append(Chunk(raw, mid_frame))

    def _forget_held(self) -> None:
        self._held.clear()
        self._held_payload.clear()
        self._held_size = 0

    def _finish(self, items: list[Item]) -> None:
        if self._held:
            raw, payload = b"".join(self._held), bytes(self._held_payload)
            self._forget_held()
            if self._type is not None and self._wanted():
                items.append(Message(self._type, payload, raw))
            else:
                items.append(Chunk(raw))
        items.append(Completed(self._type, self._size))
        self._open = False

    # -- frames too large to wait for ---------------------------------------------------------------------------------

    def _start_stream(self, header: _Header, items: list[Item]) -> None:
        if not self._decided:
            head = bytes(self._buffer[header.size : header.size + HEAD_BYTES])
            self._decide(unmask(head, header.key), fin=header.fin)
            self._decided = True
        raw = bytes(self._buffer[: header.size])
        del self._buffer[: header.size]
        self._stream_left, self._stream_fin = header.length, header.fin
        self._release(raw, items, mid_frame=True)

    def _stream(self, items: list[Item]) -> bool:
        if not self._buffer:
            return False
        raw = bytes(self._buffer[: self._stream_left])
        del self._buffer[: len(raw)]
        self._stream_left -= len(raw)
        items.append(Chunk(raw, self._stream_left > 0))
        if not self._stream_left and self._stream_fin:
            self._finish(items)
        return True


def unmask(payload: bytes, key: bytes) -> bytes:
    """XOR with the four-byte mask (section 5.3); masking is the same. An empty key leaves the payload as it is."""
    if not key or not payload:
        return payload
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


def build_frame(opcode: Opcode, payload: bytes, key: bytes = b"") -> bytes:
    """One whole frame; `key` is a fresh random four-byte mask when a client sends, empty when a server does."""
    first, mask_bit, length = 0x80 | opcode, 0x80 if key else 0, len(payload)
    if length <= MAX_CONTROL_BYTES:
        head = bytes((first, mask_bit | length))
    elif length <= 0xFFFF:  # noqa: PLR2004 - the largest length of two bytes
        head = bytes((first, mask_bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, mask_bit | 127)) + length.to_bytes(8, "big")
    return head + key + unmask(payload, key)


def _check_close(payload: bytes) -> None:
    if not payload:
        return
    if len(payload) == 1:
        raise _Broken(CloseCode.PROTOCOL_ERROR, "close frame with half a code")
    if not close_code_may_be_sent(int.from_bytes(payload[:2], "big")):
        raise _Broken(CloseCode.PROTOCOL_ERROR, "close code that may not be sent")
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise _Broken(CloseCode.INVALID_PAYLOAD, "close reason is not UTF-8") from None
