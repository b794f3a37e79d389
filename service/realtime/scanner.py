"""An incremental parser of one direction of a WebSocket connection (RFC 6455 section 5). Pure: no sockets, no clock.

Rules of this file:

* Slicing does not matter: however a stream is cut into reads, the same bytes, messages and control frames come out.
* Data frames are yielded as they were received, masks and fragments included, joined into runs as long as the read allows.
  Only control frames and messages of the requested types are unmasked.
* Most reads are exactly one whole event. `whole_event_type` recognises it without the rest of this file.
* Memory is bounded: at most one frame of `MAX_BUFFERED_FRAME_BYTES` and `MAX_HELD_BYTES` of fragments are kept.
* Text is not checked for UTF-8. The receiving endpoint checks it, and its 1007 is forwarded.
"""

from copy import deepcopy
from functools import cache
from typing import Final

from service.realtime.closing import CloseCode
from service.realtime.events import CLIENT_EVENT_TYPES, HEAD_BYTES, SERVER_EVENT_TYPES, event_type
from service.realtime.frames import Header, Opcode, ProtocolError, check_close, read_header, unmask
from service.realtime.scanner_items import ControlFrame, Item, ItemBuilder, Message, MessageEnd, Violation

MAX_BUFFERED_FRAME_BYTES: Final = 65_536
"""A frame up to this payload size is forwarded when it is complete; a larger one is streamed."""
MAX_HELD_BYTES: Final = 65_536
"""Maximum bytes of a message held until its type is known or, if its type is requested, until the message is complete."""

_UNFRAGMENTED_TEXT: Final = 0x80 | Opcode.TEXT  # the first byte of an unfragmented text message
_TWO_BYTE_LENGTH: Final = 0x7E  # the second byte of a frame whose length is in the next two
_FAST_PATH_HEAD_BYTES: Final = 64  # of a payload: enough for the key and the longest known type
_FAST_PATH_MIN_BYTES: Final = 8 + 126  # the shortest masked frame with a two-byte length
_MASK_REPEATER: Final = int.from_bytes(
    b"\x01\0\0\0" * (_FAST_PATH_HEAD_BYTES // 4), "little"
)  # a mask times this is the mask repeated


@cache
def _forwarded_types(parsed_types: frozenset[str]) -> dict[bytes, str]:
    """The known event types outside `parsed_types`, by their bytes in a message."""
    return {name.encode(): name for name in (CLIENT_EVENT_TYPES | SERVER_EVENT_TYPES) - parsed_types}


class Scanner:
    """Parses one direction of a connection: bytes in, items out.

    `masked` is true for bytes from a client, whose frames must be masked, and false for bytes from a server. A message whose
    type is in `parsed_types` and which fits in `MAX_HELD_BYTES` is yielded as `Message`, any other as `Chunk`s.

    `feed` accepts the stream in pieces of any size and returns the items that a piece completes, in the order of the stream:

    * `Chunk`: bytes of data frames, to be forwarded unchanged;
    * `Message`: a whole message of a requested type, to be processed and then forwarded;
    * `MessageEnd`: a message ended. It follows the `Chunk` or `Message` that holds the end; that `Chunk` may continue with
      frames of the next message;
    * `ControlFrame`: a ping, pong or close frame. It is never part of a `Chunk`, even where it was sent between fragments;
    * `Violation`: the peer broke the protocol or exceeded `max_message_bytes`.

    Together, `Chunk.raw` and `Message.raw` are the data frames of the stream, byte for byte.

    A scanner raises no exception. A `Violation` or a close frame is the last item, and bytes after it are ignored. The size
    limit applies to the declared length, before the payload arrives. At most one incomplete frame of
    `MAX_BUFFERED_FRAME_BYTES` and `MAX_HELD_BYTES` of fragments are kept; a larger frame is yielded as it arrives, and
    `mid_frame` is true until its end. A scanner owns no resource and is not bound to an event loop.
    """

    def __init__(self, *, masked: bool, max_message_bytes: int, parsed_types: frozenset[str] = frozenset()) -> None:
        self._masked = masked
        self._max_message_bytes = max_message_bytes
        self._expected_second_byte = _TWO_BYTE_LENGTH | (0x80 if masked else 0)
        self._parsed_types = parsed_types
        self._forwarded_types = _forwarded_types(parsed_types)
        self._fast_path_blocked = False  # within a frame or a message, or after the end
        self._buffer = bytearray()  # the incomplete frame at the end of the last read
        self._bytes_needed = 0  # length of `_buffer` before parsing it again makes sense
        self._stream_remaining = 0  # missing payload bytes of a frame that is being streamed
        self._stream_fin = False
        self._ended = False
        self._message_open = False  # a message has begun and not ended
        self._message_size = 0  # declared payload bytes of the open message
        self._message_type: str | None = None
        self._type_decided = False  # more bytes would not change `_message_type`
        self._head = b""  # first payload bytes of the open message, until its type is decided
        self._held: list[bytes] = []  # frames of the open message that are not forwarded yet
        self._held_size = 0
        self._partly_forwarded = False  # part of the open message was yielded
        self.fragments = 0
        """Number of data frames that did not end their message."""

    @property
    def mid_frame(self) -> bool:
        """Whether only part of a frame was yielded, so that no other frame may be written after it."""
        return self._stream_remaining > 0

    @property
    def at_message_boundary(self) -> bool:
        """Whether every message was yielded whole or not at all, so that another message may be written."""
        return not (self._message_open and self._partly_forwarded)

    def copy(self) -> "Scanner":
        """Return an independent scanner in the same state, to parse ahead of this one."""
        shared = (self._forwarded_types, self._parsed_types)
        return deepcopy(self, {id(table): table for table in shared})

    def whole_event_type(self, data: bytes) -> str | None:
        """Return the type of the event if `data` is exactly one whole text message of a known type outside `parsed_types`.

        The message then counts as fed: forward `data` and do not call `feed` with it. `feed` would have returned one `Chunk`
        and one `MessageEnd`. On None nothing was consumed, and `feed` must get `data`.
        """
        size = len(data)
        # Only frames with a two-byte length, that is payloads of 126 bytes to 64 KiB: nearly all events.
        if (
            size < _FAST_PATH_MIN_BYTES
            or self._fast_path_blocked
            or data[0] != _UNFRAGMENTED_TEXT
            or data[1] != self._expected_second_byte
        ):
            return None
        length = (data[2] << 8) | data[3]
        if length > self._max_message_bytes:
            return None
        if self._masked:
            if length + 8 != size:
                return None
            key = int.from_bytes(data[4:8], "little") * _MASK_REPEATER
            head = (int.from_bytes(data[8 : _FAST_PATH_HEAD_BYTES + 8], "little") ^ key).to_bytes(
                _FAST_PATH_HEAD_BYTES, "little"
            )
        else:
            if length + 4 != size:
                return None
            head = data[4 : _FAST_PATH_HEAD_BYTES + 4]
        # Servers and JavaScript write no space after the colon, Python writes one.
        start = 9 if head.startswith(b'{"type":"') else 10 if head.startswith(b'{"type": "') else 0
        end = head.find(b'"', start) if start else -1
        return self._forwarded_types.get(head[start:end]) if end > 0 else None

    def feed(self, data: bytes) -> list[Item]:
        """Parse the next bytes, any number of them, and return the items that they complete."""
        if self._ended:
            return []
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._bytes_needed:
                return []
            data = bytes(self._buffer)
            self._buffer.clear()
        builder = ItemBuilder(data)
        offset = self._scan(data, builder)
        if not self._ended:
            builder.end_run(offset, offset)
            self._buffer += data[offset:]
            self._fast_path_blocked = self._message_open or bool(self._buffer)
        builder.flush(mid_frame=self._stream_remaining > 0)
        return builder.items

    def _scan(self, data: bytes, builder: ItemBuilder) -> int:
        """Parse frame after frame; returns the offset of the incomplete frame at the end."""
        offset, end = 0, len(data)
        try:
            if self._stream_remaining:
                offset = self._forward_stream(0, end, builder)
            while offset < end:
                next_offset = self._scan_frame(data, offset, end, builder)
                if next_offset == offset:
                    break
                offset = next_offset
        except ProtocolError as error:
            self._end()
            builder.add_item(Violation(error.code, error.detail), offset, end)
        return offset

    def _end(self) -> None:
        self._ended = self._fast_path_blocked = True
        self._clear_held()

    def _scan_frame(self, data: bytes, offset: int, end: int, builder: ItemBuilder) -> int:
        """Parse the frame at `offset`; returns the offset of the next one, or `offset` if more bytes are needed."""
        self._check_fragmentation(data[offset] & 0x0F)
        header = read_header(data, offset, masked=self._masked)
        if isinstance(header, int):
            self._bytes_needed = header
            return offset
        self._check_size(header)
        is_buffered = header.length <= MAX_BUFFERED_FRAME_BYTES
        self._bytes_needed = header.size + (header.length if is_buffered else HEAD_BYTES)
        if end - offset < self._bytes_needed:
            return offset
        if header.opcode >= Opcode.CLOSE:
            return self._handle_control(header, data, offset, builder)
        self._begin_data_frame(header)
        if not is_buffered:
            return self._start_streaming(header, data, offset, end, builder)
        return self._handle_data_frame(header, data, offset, builder)

    def _check_fragmentation(self, opcode: int) -> None:
        if opcode <= Opcode.BINARY and self._message_open is not (opcode == Opcode.CONTINUATION):
            raise ProtocolError(
                CloseCode.PROTOCOL_ERROR,
                "new message inside a fragmented message"
                if self._message_open
                else "continuation frame without a message",
            )

    def _check_size(self, header: Header) -> None:
        size = header.length + (self._message_size if self._message_open else 0)
        if header.opcode <= Opcode.BINARY and size > self._max_message_bytes:
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, "message exceeds the size limit")

    # -- control frames -----------------------------------------------------------------------------------------------

    def _handle_control(self, header: Header, data: bytes, offset: int, builder: ItemBuilder) -> int:
        next_offset = offset + self._bytes_needed
        payload = unmask(data[offset + header.size : next_offset], header.key)
        if header.opcode == Opcode.CLOSE:
            check_close(payload)
            self._end()  # no frame may follow a close frame (section 5.5.1)
            next_offset = len(data)
        builder.add_item(ControlFrame(Opcode(header.opcode), payload), offset, next_offset)
        return next_offset

    # -- data frames --------------------------------------------------------------------------------------------------

    def _begin_data_frame(self, header: Header) -> None:
        if not self._message_open:
            self._message_open, self._message_size, self._partly_forwarded = True, 0, False
            # A binary message carries no event.
            self._message_type, self._type_decided = None, header.opcode == Opcode.BINARY
        self._message_size += header.length
        if not header.fin:
            self.fragments += 1

    def _handle_data_frame(self, header: Header, data: bytes, offset: int, builder: ItemBuilder) -> int:
        next_offset, start = offset + self._bytes_needed, offset + header.size
        if not self._type_decided:
            head = data[start : min(next_offset, start + HEAD_BYTES - len(self._head))]
            self._find_type(unmask(head, header.key), is_last=header.fin)
        if self._partly_forwarded or (self._type_decided and not self._is_parsed()):
            self._forward_held(offset, builder)
        else:
            builder.end_run(offset, next_offset)
            self._hold(data[offset:next_offset], next_offset, builder)
        if header.fin:
            self._complete_message(next_offset, builder)
        return next_offset

    def _find_type(self, head: bytes, *, is_last: bool) -> None:
        self._head += head
        self._message_type = event_type(self._head)
        self._type_decided = self._message_type is not None or is_last or len(self._head) >= HEAD_BYTES

    def _is_parsed(self) -> bool:
        return self._message_type in self._parsed_types and not self._partly_forwarded

    def _hold(self, raw: bytes, next_offset: int, builder: ItemBuilder) -> None:
        self._held.append(raw)
        # 64 bytes for the object of each frame: a flood of empty fragments must not exceed the limit.
        self._held_size += len(raw) + 64
        if self._held_size > MAX_HELD_BYTES:
            self._type_decided = True
            self._forward_held(next_offset, builder)

    def _forward_held(self, offset: int, builder: ItemBuilder) -> None:
        """Forward the held frames before the bytes from `offset` on, which stay part of the run."""
        if self._held:
            builder.end_run(offset, offset)
            builder.insert_frames(self._held)
            self._clear_held()
        self._partly_forwarded = True

    def _clear_held(self) -> None:
        self._held = []
        self._held_size = 0

    def _complete_message(self, next_offset: int, builder: ItemBuilder) -> None:
        """End the open message; the next frame begins at `next_offset`."""
        if self._held and self._message_type is not None:  # only a message to be parsed is held to its end
            payload = b"".join(_payload_of(frame, masked=self._masked) for frame in self._held)
            message = Message(self._message_type, payload, b"".join(self._held))
            self._clear_held()
            builder.add_item(message, next_offset, next_offset)
        builder.add_completed(MessageEnd(self._message_type, self._message_size))
        self._message_open = False
        self._head = b""

    # -- frames too large to buffer -----------------------------------------------------------------------------------

    def _start_streaming(self, header: Header, data: bytes, offset: int, end: int, builder: ItemBuilder) -> int:
        if not self._type_decided:
            start = offset + header.size
            self._find_type(unmask(data[start : start + HEAD_BYTES - len(self._head)], header.key), is_last=header.fin)
            self._type_decided = True
        self._forward_held(offset, builder)
        self._stream_remaining, self._stream_fin = header.length, header.fin
        return self._forward_stream(offset + header.size, end, builder)

    def _forward_stream(self, offset: int, end: int, builder: ItemBuilder) -> int:
        """Forward the available payload of a streamed frame; returns the offset of its end."""
        next_offset = min(end, offset + self._stream_remaining)
        self._stream_remaining -= next_offset - offset
        if not self._stream_remaining and self._stream_fin:
            self._complete_message(next_offset, builder)
        return next_offset


def _payload_of(frame: bytes, *, masked: bool) -> bytes:
    header = read_header(frame, 0, masked=masked)
    assert isinstance(header, Header)  # noqa: S101 - held frames are complete
    return unmask(frame[header.size :], header.key)
