"""An incremental parser of one direction of a WebSocket connection (RFC 6455 section 5). Pure: no sockets, no clock.

Rules of this file:

* Slicing does not matter: however a stream is cut into reads, the same bytes, messages and control frames come out.
* Data frames are yielded as they were received, masks and fragments included, joined into runs as long as the read allows.
  Only control frames and messages of the requested types are unmasked.
* Most reads hold whole events, or end inside one. `scanner_runs.py` processes them without the rest of this file.
* A type that was not found may matter: where types are requested, a message whose first bytes do not show its type is read
  whole before any of it is yielded. If it is too large for that, it is a violation and never a `Chunk`; an event of a
  requested type that reports no failure passes unread.
* Memory is bounded: one frame of `MAX_BUFFERED_FRAME_BYTES` and `MAX_HELD_BYTES` of fragments, or `MAX_EVENT_BYTES` if read.
* Text is not checked for UTF-8. The receiving endpoint checks it, and its 1007 is forwarded.
"""

import sys
from copy import deepcopy
from typing import Final

from service.realtime.events import HEAD_BYTES
from service.realtime.frames import Header, Opcode, ProtocolError, check_close, check_fragmentation, read_header, unmask
from service.realtime.scanner_items import Chunk, ControlFrame, Item, ItemBuilder, Message, MessageEnd, Violation
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES, EventRuns
from service.realtime.scanner_types import FRAGMENT_COST, payload_of, too_big, too_large_to_read, type_rules

MAX_HELD_BYTES: Final = 65_536
"""Maximum bytes of fragments held until their message is complete, unless the message has to be read whole."""
MAX_EVENT_BYTES: Final = 1_048_576
"""Maximum bytes of a message that is read whole, because its type is requested or unknown."""


class Scanner(EventRuns):
    """Parses one direction of a connection: bytes in, items out.

    `masked` is true for bytes from a client, whose frames must be masked, and false for bytes from a server. A message whose
    type is in `parsed_types` or unknown is yielded as `Message`, any other as `Chunk`s. A type is unknown if the whole
    message shows none: it is not JSON, or its `type` is not a string. `Chunk`s are all messages if `parsed_types` is empty,
    and those that cannot be a JSON object and are binary or exceed `MAX_HELD_BYTES`.

    The type is that of a JSON parser, wherever it is written. Exceptions: the type that the first bytes show counts without
    `parsed_types`, whose types are only counted, and in messages above `MAX_HELD_BYTES` if it is not in `parsed_types`.
    `is_strict` removes both; use `StrictScanner`. `kept_types` are requested as well, but pass unread if they are too large.

    `feed` accepts the stream in pieces of any size and returns the items that a piece completes, in the order of the stream:

    * `Chunk`: bytes of data frames, to be forwarded unchanged;
    * `Message`: a whole message of a requested or unknown type, to be processed and then forwarded;
    * `MessageEnd`: a message ended. It follows the `Chunk` or `Message` that holds the end; that `Chunk` may continue with
      frames of the next message;
    * `ControlFrame`: a ping, pong or close frame. It is never part of a `Chunk`, even where it was sent between fragments;
    * `Violation`: the peer broke the protocol, exceeded `max_message_bytes`, or sent a message of an unknown type or one that
      must be read (an `error`, a `session.start`) that exceeds `max_event_bytes`. Larger ones of other requested types pass
      unread, as `Chunk`s.

    Together, `Chunk.raw` and `Message.raw` are the data frames of the stream, byte for byte.

    A scanner raises no exception. A `Violation` or a close frame is the last item, and bytes after it are ignored. The size
    limit applies to the declared length, before the payload arrives. At most one incomplete frame of
    `MAX_BUFFERED_FRAME_BYTES` and `MAX_HELD_BYTES` of fragments are kept, or `max_event_bytes` of a message that is read
    whole; any other larger frame is yielded as it arrives, and `mid_frame` is true until its end.
    """

    __slots__ = (
        "_bytes_needed",
        "_ended",
        "_head",
        "_head_verdict",
        "_held",
        "_held_size",
        "_max_event_bytes",
        "_message_size",
        "_message_type",
        "_partly_forwarded",
        "_payload",
        "_rest",
        "_rules",
        "_rules_of",
        "_stream_fin",
        "_stream_remaining",
        "fragments",
    )

    def __init__(
        self,
        *,
        masked: bool,
        max_message_bytes: int,
        parsed_types: frozenset[str] = frozenset(),
        kept_types: frozenset[str] = frozenset(),
        is_strict: bool = False,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        super().__init__(masked=masked, max_message_bytes=max_message_bytes, parsed_types=parsed_types | kept_types)
        self._max_event_bytes = max_event_bytes
        self._rules_of = type_rules(parsed_types, kept_types, is_strict=is_strict, masked=masked)
        self._rules = self._rules_of[Opcode.TEXT]  # of the open message
        self._bytes_needed = 0  # of the frame being parsed, before parsing it again makes sense
        self._stream_remaining = 0  # missing payload bytes of a frame that is being streamed
        self._stream_fin = self._ended = False
        self._rest = b""  # what the last `feed` left
        self._message_size = self._held_size = 0  # declared payload bytes of the open message, and those that are held
        self._message_type: str | None = None
        self._head = b""  # first payload bytes of the open message, while it is held
        self._head_verdict = (False, False)  # whether a message with that head is read whole, or may be forwarded
        self._payload = b""  # once it is complete and to be yielded as `Message`
        self._held: list[bytes] = []  # frames of the open message that are not forwarded yet
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

    @property
    def kept_bytes(self) -> int:
        """Bytes of incomplete frames and messages that it keeps."""
        return self._held_size + sum(map(len, self._parts))

    @property
    def open_type(self) -> str | None:
        """The type of the message of which a part was yielded, None if it is unknown."""
        return self._message_type

    def copy(self) -> "Scanner":
        """Return an independent scanner in the same state, to parse ahead of this one."""
        shared = (self._forwarded_types, self._requested_types, self._rules_of, self._rules)
        return deepcopy(self, {id(table): table for table in shared})

    def feed(self, data: bytes, max_frames: int = sys.maxsize) -> list[Item]:
        """Parse the next bytes, any number of them, and return the items that they complete.

        At most `max_frames` frames are parsed. `take_rest` then returns what is behind them; feed it next.
        """
        if self._ended:
            return []
        if self.missing_bytes:
            if len(data) < self.missing_bytes:
                self.add_part(data)
                return []
            data = self.complete(data)
        if self._stream_remaining > len(data):
            self._stream_remaining -= len(data)
            return [Chunk(data, mid_frame=True)] if data else []
        builder = ItemBuilder(data)
        offset = self._scan(data, builder, max_frames)
        if not self._ended:
            builder.end_run(offset, offset)
            self._fast_path_blocked = self._message_open
            if offset < len(data) and not self._rest:
                self._keep(data, offset, self._bytes_needed - (len(data) - offset))
        builder.flush(mid_frame=self._stream_remaining > 0)
        return builder.items

    def take_rest(self) -> bytes:
        """Return the bytes that the last `feed` left, once."""
        rest, self._rest = self._rest, b""
        return rest

    def _scan(self, data: bytes, builder: ItemBuilder, max_frames: int) -> int:
        """Parse frame after frame; returns the offset of the incomplete frame, or of the rest, at the end."""
        offset, end = 0, len(data)
        try:
            if self._stream_remaining:
                offset = self._forward_stream(0, end, builder)
            while offset < end:
                if not max_frames:
                    self._rest = data[offset:]
                    break
                max_frames -= 1
                next_offset = self._scan_frame(data, offset, end, builder)
                if next_offset == offset:
                    break
                offset = next_offset
        except ProtocolError as error:
            self.end()
            builder.add_item(Violation(error.code, error.detail), offset, end)
        return offset

    def end(self) -> None:
        """Read nothing more, and free what is kept."""
        self._ended = self._fast_path_blocked = True
        self._parts, self.missing_bytes = [], 0
        self._clear_held()

    def _scan_frame(self, data: bytes, offset: int, end: int, builder: ItemBuilder) -> int:
        """Parse the frame at `offset`; returns the offset of the next one, or `offset` if more bytes are needed."""
        check_fragmentation(data[offset] & 0x0F, message_open=self._message_open)
        header = read_header(data, offset, masked=self._masked)
        if isinstance(header, int):
            self._bytes_needed = header
            return offset
        is_data, is_buffered = header.opcode <= Opcode.BINARY, header.length <= MAX_BUFFERED_FRAME_BYTES
        size = header.length + (self._message_size if self._message_open else 0)
        if is_data and size > self._max_message_bytes:
            raise too_big(size, self._max_message_bytes)
        self._bytes_needed = header.size + (header.length if is_buffered else HEAD_BYTES)
        if end - offset < self._bytes_needed:
            return offset
        if not is_buffered and self._needs_whole_frame(header, data, offset):
            is_buffered, self._bytes_needed = True, header.size + header.length
            if end - offset < self._bytes_needed:
                return offset
        if not is_data:
            return self._handle_control(header, data, offset, builder)
        self._begin_data_frame(header)
        if not is_buffered:
            return self._start_streaming(header, data, offset, end, builder)
        return self._handle_data_frame(header, data, offset, builder)

    # -- control frames -----------------------------------------------------------------------------------------------

    def _handle_control(self, header: Header, data: bytes, offset: int, builder: ItemBuilder) -> int:
        next_offset = offset + self._bytes_needed
        payload = unmask(data[offset + header.size : next_offset], header.key)
        if header.opcode == Opcode.CLOSE:
            check_close(payload)
            self.end()  # no frame may follow a close frame (section 5.5.1)
            next_offset = len(data)
        builder.add_item(ControlFrame(Opcode(header.opcode), payload), offset, next_offset)
        return next_offset

    # -- data frames --------------------------------------------------------------------------------------------------

    def _begin_data_frame(self, header: Header) -> None:
        if not self._message_open:
            self._message_open, self._message_size, self._partly_forwarded = True, 0, False
            self._message_type, self._rules = None, self._rules_of[header.opcode]
        self._message_size += header.length
        if not header.fin:
            self.fragments += 1

    def _handle_data_frame(self, header: Header, data: bytes, offset: int, builder: ItemBuilder) -> int:
        next_offset = offset + self._bytes_needed
        if not self._partly_forwarded:
            if not header.fin or self._held:
                self._handle_fragment(header, data[offset:next_offset], offset, builder)
            elif self._must_parse_whole(data[offset + header.size : next_offset], header.key):
                self._hold(data[offset:next_offset], offset, builder)
            else:
                self._forward_held(offset, builder)
        if header.fin:
            self._complete_message(next_offset, builder)
        return next_offset

    def _must_parse_whole(self, payload: bytes, key: bytes) -> bool:
        """Find the type of an unfragmented message; returns whether it is to be yielded as `Message`."""
        if not self._rules.parsed_types:  # the first type counts, without unmasking the rest
            self._message_type = self._rules.type_in_head(unmask(payload[:HEAD_BYTES], key))
            if self._message_type is not None:
                return False
        payload = unmask(payload, key)
        self._message_type = self._rules.type_of(payload)
        is_requested = self._rules.must_parse(self._message_type, payload)
        self._payload = payload if is_requested else b""
        return is_requested

    def _handle_fragment(self, header: Header, frame: bytes, offset: int, builder: ItemBuilder) -> None:
        """Hold a fragment; at the end of its message, and at the limit, decide about the held ones."""
        next_offset = offset + len(frame)
        is_first, more = not self._held, frame[header.size : header.size + HEAD_BYTES - len(self._head)]
        self._hold(frame, offset, builder)
        self._head += unmask(more, header.key)
        if header.fin:
            self._payload = payload = payload_of(self._held, masked=self._masked)
            self._message_type = self._rules.type_of(payload)
            if not self._rules.must_parse(self._message_type, payload):
                self._forward_held(next_offset, builder)
            return
        if is_first or more:  # else the head is what it was
            self._message_type = self._rules.type_in_head(self._head)
            self._head_verdict = self._rules.must_read_whole(self._head), self._rules.may_forward(self._head)
        read_whole, may_forward = self._head_verdict
        if read_whole:
            if self._held_size > self._max_event_bytes:
                self._refuse_unless_unread(self._head)
                self._forward_held(next_offset, builder)
        elif self._held_size > MAX_HELD_BYTES or may_forward:
            self._forward_held(next_offset, builder)

    def _needs_whole_frame(self, header: Header, data: bytes, offset: int) -> bool:
        """Whether a frame that is too large to buffer has to be read whole even so. Its head is complete."""
        if self._message_open and self._partly_forwarded:
            return False
        if not self._message_open:
            self._rules = self._rules_of[header.opcode]
        head = self._head_with(header, data, offset)
        if not self._rules.must_read_whole(head):
            return False
        if self._held_size + header.size + header.length > self._max_event_bytes:
            self._refuse_unless_unread(head)
            return False
        return True

    def _refuse_unless_unread(self, head: bytes) -> None:
        if not self._rules.may_pass_unread(head):
            raise too_large_to_read(self._max_event_bytes, masked=self._masked)

    def _head_with(self, header: Header, data: bytes, offset: int) -> bytes:
        start = offset + header.size
        return self._head + unmask(data[start : start + HEAD_BYTES - len(self._head)], header.key)

    def _hold(self, frame: bytes, offset: int, builder: ItemBuilder) -> None:
        builder.end_run(offset, offset + len(frame))
        self._held.append(frame)
        self._held_size += len(frame) + FRAGMENT_COST

    def _forward_held(self, offset: int, builder: ItemBuilder) -> None:
        """Forward the held frames before the bytes from `offset` on, which stay part of the run."""
        if self._held:
            builder.end_run(offset, offset)
            builder.insert_frames(self._held)
            self._clear_held()
        self._partly_forwarded = True

    def _clear_held(self) -> None:
        self._held, self._held_size, self._payload = [], 0, b""

    def _complete_message(self, next_offset: int, builder: ItemBuilder) -> None:
        """End the open message; the next frame begins at `next_offset`."""
        if self._held:  # only a message to be parsed is still held
            message = Message(self._message_type, self._payload, b"".join(self._held))
            self._clear_held()
            builder.add_item(message, next_offset, next_offset)
        builder.add_completed(MessageEnd(self._message_type, self._message_size))
        self._message_open = False
        self._head = b""

    # -- frames too large to buffer -----------------------------------------------------------------------------------

    def _start_streaming(self, header: Header, data: bytes, offset: int, end: int, builder: ItemBuilder) -> int:
        if not self._partly_forwarded:
            self._message_type = self._rules.type_in_head(self._head_with(header, data, offset))
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
