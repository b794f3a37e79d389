"""The fast paths of the scanner: whole events, alone or behind one another, and frames that arrive in parts. Pure.

On a network a read is seldom one whole event. It ends inside a frame, holds the end of one and the start of the next, or
several. These cases cost little here as well: a part of a frame is kept as it is, without a copy and without parsing it
again; whole events behind one another are recognised one by one and forwarded as one run of bytes. An event of a requested
type that ends a read is recognised as well: transcripts of GPT-Live are a third of its events. Everything else is left to
`scanner.py`: fragments, control frames, short, long and binary messages, and messages of an unknown type.
"""

from struct import Struct
from typing import Final

from service.realtime.audio_run import AudioRun
from service.realtime.events import may_repeat_type
from service.realtime.scanner_items import Message
from service.realtime.scanner_types import forwarded_types, requested_types, type_start
from service.realtime.transcript_run import TRANSCRIPT_TYPES, TranscriptRun

MAX_BUFFERED_FRAME_BYTES: Final = 65_536
"""A frame up to this payload size is forwarded when it is complete; a larger one is streamed."""
MIN_PART_BYTES: Final = 1024
"""A smaller part of a frame is copied to the one before, so that a frame in parts of one byte is not an object per byte."""

_unpack_start = Struct(">I").unpack_from
_HEAD_BYTES: Final = 64  # of a payload: enough for the key and the longest known type
_MIN_PAYLOAD_BYTES: Final = 126  # of a frame with a two-byte length
_SHORT_HEADER_BYTES: Final = 2  # of a frame with a shorter payload, without a mask
_TWO_BYTE_LENGTH: Final = 126  # in the second byte of a frame without a mask
_NO_HEAD: Final[tuple[bytes, ...]] = ()  # `startswith` finds no payload that begins with it
_TEXT: Final = 0x81  # the first byte of a text message in one frame
_MASK_REPEATER: Final = int.from_bytes(b"\x01\0\0\0" * (_HEAD_BYTES // 4), "little")  # times a mask repeats it


class EventRuns:
    """Recognises whole text messages of known types outside `parsed_types`, which are only forwarded and counted.

    `complete`, `whole_event_type`, `feed_events` and `whole_message`, in this order, are what `Scanner.feed` would have done
    with the same bytes, for most reads at a fraction of the cost; `feed` gets what they leave.
    """

    __slots__ = (
        "_fast_path_blocked",
        "_fast_path_max_bytes",
        "_fast_path_min_bytes",
        "_forwarded_types",
        "_header_bytes",
        "_last_head",
        "_last_head_end",
        "_last_head_number",
        "_last_mask_repeater",
        "_last_requested_head",
        "_last_requested_type",
        "_last_type",
        "_masked",
        "_max_message_bytes",
        "_message_open",
        "_parts",
        "_requested_types",
        "_start_without_size",
        "event_types",
        "missing_bytes",
    )

    def __init__(self, *, masked: bool, max_message_bytes: int, parsed_types: frozenset[str]) -> None:
        self._masked = masked
        self._max_message_bytes = max_message_bytes
        self._header_bytes = 8 if masked else 4
        self._fast_path_min_bytes = self._header_bytes + _MIN_PAYLOAD_BYTES
        self._fast_path_max_bytes = self._header_bytes + min(max_message_bytes, MAX_BUFFERED_FRAME_BYTES - 1)
        # Such a frame begins with flags, opcode, mask bit and the length in two bytes. As a number, this minus the following
        # is the size of the frame.
        self._start_without_size = (0x81FE0000 if masked else 0x817E0000) - self._header_bytes
        self._forwarded_types = forwarded_types(parsed_types)
        self._requested_types = requested_types(parsed_types)
        self._fast_path_blocked = False  # within a frame or a message, or after the end
        self._message_open = False  # a message has begun and not ended
        self._parts: list[bytes | bytearray] = []  # the incomplete frame at the end of the last read
        self.missing_bytes = 0
        """How many more bytes an incomplete frame, or its header, needs before parsing it makes sense; 0 without one."""
        self.event_types: list[str] = []
        """The types of the events that `feed_events` consumed."""
        # Most events have the type of the one before: its payload up to the end of its type, of the client's as a number.
        self._last_head: bytes | tuple[bytes, ...] = _NO_HEAD
        self._last_head_end = 0
        self._last_head_number = -1
        self._last_mask_repeater = 0
        self._last_type: str | None = None
        self._last_requested_head: bytes | tuple[bytes, ...] = _NO_HEAD
        self._last_requested_type = ""

    def new_audio_run(self, max_bytes: int = MAX_BUFFERED_FRAME_BYTES) -> AudioRun:
        """Return what recognises events of audio up to a size that follow one that `whole_event_type` has recognised."""
        transcripts = None
        if not self._masked and self._requested_types.keys() >= TRANSCRIPT_TYPES:
            transcripts = TranscriptRun(max_message_bytes=self._max_message_bytes)
        limit = min(max_bytes, self._max_message_bytes)
        return AudioRun(masked=self._masked, max_message_bytes=limit, transcripts=transcripts)

    def add_part(self, data: bytes) -> None:
        """Keep a read of fewer than `missing_bytes`, the next part of the incomplete frame. It then counts as fed."""
        self.missing_bytes -= len(data)
        parts = self._parts
        if len(data) >= MIN_PART_BYTES:
            parts.append(data)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += data
        else:
            parts.append(bytearray(data))

    def complete(self, data: bytes) -> bytes:
        """Return the incomplete frame with a read of at least `missing_bytes`, to be processed like one read."""
        self._parts.append(data)
        data = b"".join(self._parts)
        self._parts = []
        self.missing_bytes = 0
        self._fast_path_blocked = self._message_open
        return data

    def _keep(self, data: bytes, offset: int, missing: int) -> None:
        """Keep the incomplete frame that begins at `offset`, until `missing` more bytes have arrived."""
        self._parts.append(data[offset:] if offset else data)
        self.missing_bytes = missing
        self._fast_path_blocked = True

    def whole_event_type(self, data: bytes) -> str | None:
        """Return the type of the event if `data` is exactly one whole text message of a known type outside `parsed_types`.

        The message then counts as fed: forward `data` and do not call `feed` with it. `feed` would have returned one `Chunk`
        and one `MessageEnd`. On None nothing was consumed, and `feed_events` or `feed` must get `data`.
        """
        size = len(data)
        # Only frames with a two-byte length, that is payloads of 126 bytes to 64 KiB: nearly all events.
        if (
            self._fast_path_blocked
            or not self._fast_path_min_bytes <= size <= self._fast_path_max_bytes
            or _unpack_start(data)[0] != self._start_without_size + size
        ):
            return None
        if self._masked:
            return self._masked_type(data, 0, size)
        # `_plain_type` without the call: most bytes come this way.
        if not data.startswith(self._last_head, 4) and not self._find_type(data[4 : _HEAD_BYTES + 4]):
            return None
        end = self._last_head_end
        last_string = data.rfind(b'"', end, -2) + 1
        if data.find(b'"type"', end, last_string) < 0 and data.find(b"\\", end, last_string) < 0:
            return self._last_type
        return None if may_repeat_type(data, end) else self._last_type

    def feed_events(self, data: bytes) -> int:
        """Consume the events at the start of `data` that `whole_event_type` would recognise; returns the size of all.

        `event_types` then holds their types. If the rest of `data` is the start of such an event, it is kept, and
        `missing_bytes` is above 0. Otherwise `feed` must get the rest.
        """
        types = self.event_types = []
        if self._fast_path_blocked:
            return 0
        type_of = self._masked_type if self._masked else self._plain_type
        start_without_size, minimum, maximum = (
            self._start_without_size,
            self._fast_path_min_bytes,
            self._fast_path_max_bytes,
        )
        offset, end = 0, len(data)
        last_start = end - self._header_bytes
        while offset <= last_start:
            size = _unpack_start(data, offset)[0] - start_without_size
            if not minimum <= size <= maximum:
                break
            next_offset = offset + size
            if next_offset > end:
                self._keep(data, offset, next_offset - end)
                break
            found = type_of(data, offset, next_offset)
            if found is None:
                break
            types.append(found)
            offset = next_offset
        return offset

    def first_frame_bytes(self, data: bytes) -> int:
        """The size of the frame at the start of `data`, as its header says; 0 if it is longer, or no text of upstream."""
        size = len(data)
        if size <= _SHORT_HEADER_BYTES or data[0] != _TEXT or data[1] > _TWO_BYTE_LENGTH:
            return 0
        if data[1] < _TWO_BYTE_LENGTH:
            first = data[1] + _SHORT_HEADER_BYTES
        else:
            first = _unpack_start(data)[0] - self._start_without_size if size > self._header_bytes else 0
        return first if first <= size else 0

    def whole_message(self, data: bytes) -> Message | None:
        """Return the event if `data` is exactly one whole message of upstream, and of a type in `parsed_types`.

        It then counts as fed: `feed` would have returned this `Message` and one `MessageEnd`. On None nothing was consumed.
        """
        size = len(data)
        if self._fast_path_blocked or self._masked or not _SHORT_HEADER_BYTES < size <= self._fast_path_max_bytes:
            return None
        if size >= self._fast_path_min_bytes:
            if _unpack_start(data)[0] != self._start_without_size + size:
                return None
            payload = data[4:]
        elif data[0] == _TEXT and data[1] == size - _SHORT_HEADER_BYTES < _MIN_PAYLOAD_BYTES:
            payload = data[_SHORT_HEADER_BYTES:]
        else:
            return None
        if not payload.startswith(self._last_requested_head):
            end = payload.find(b'"', 10)
            found = self._requested_types.get(payload[type_start(payload) : end])
            if found is None or end < 0:
                return None
            self._last_requested_head, self._last_requested_type = payload[: end + 1], found
        end = len(self._last_requested_head)
        last_string = payload.rfind(b'"', end, -2) + 1  # see `_plain_type`
        is_sure = payload.find(b'"type"', end, last_string) < 0 and payload.find(b"\\", end, last_string) < 0
        if not is_sure and may_repeat_type(payload, end):
            return None
        return Message(self._last_requested_type, payload, data)

    def _plain_type(self, data: bytes, start: int, end: int) -> str | None:
        """Return the type of the event in the frame from `start` to `end` if it is known and outside `parsed_types`."""
        if not data.startswith(self._last_head, start + 4) and not self._find_type(data[start + 4 : start + 68]):
            return None
        type_end = start + self._last_head_end
        # The first test of `may_repeat_type` without the call: it decides for nearly every event.
        last_string = data.rfind(b'"', type_end, end - 2) + 1
        if data.find(b'"type"', type_end, last_string) < 0 and data.find(b"\\", type_end, last_string) < 0:
            return self._last_type
        return None if may_repeat_type(data[type_end:end], 0) else self._last_type

    def _masked_type(self, data: bytes, start: int, _end: int) -> str | None:
        """Return the type that the first bytes of a client's event show. It is only counted, and a second one ignored."""
        key, payload = int.from_bytes(data[start + 4 : start + 8], "little"), start + 8
        part = int.from_bytes(data[payload : payload + self._last_head_end], "little")
        if part ^ key * self._last_mask_repeater == self._last_head_number:
            return self._last_type
        masked_head = int.from_bytes(data[payload : payload + _HEAD_BYTES], "little")
        head = (masked_head ^ key * _MASK_REPEATER).to_bytes(_HEAD_BYTES, "little")
        if not self._find_type(head):
            return None
        end = self._last_head_end = len(self._last_head) + 3 & ~3  # whole masks
        self._last_head_number = int.from_bytes(head[:end], "little")
        self._last_mask_repeater = _MASK_REPEATER & (1 << 8 * end) - 1
        return self._last_type

    def _find_type(self, head: bytes) -> bool:
        """Set `_last_head` and `_last_type` if the first bytes of an event show a known type outside `parsed_types`."""
        end = head.find(b'"', 10)
        found = self._forwarded_types.get(head[type_start(head) : end])
        if found is None or end < 0:  # a slice to -1 may be one
            return False
        self._last_head, self._last_head_end, self._last_type = head[: end + 1], end + 5, found
        return True
