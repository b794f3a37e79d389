"""Recognises an event of audio that is like the one before it, which nearly all events are. Pure.

A session's code and data are seldom in the processor's caches: with two hundred sessions each message finds them cold. What
a message costs is then the number of bytecodes, objects and calls that it needs, and here it needs as few as possible.
"""

from struct import Struct
from typing import Final

from service.realtime import live
from service.realtime.frames import MAX_TWO_BYTES, unmask
from service.realtime.transcript_run import TranscriptRun

AUDIO_TYPES: Final = frozenset(
    {
        "input_audio_buffer.append",
        "session.input_audio_buffer.append",
        "response.output_audio.delta",
        live.INPUT_AUDIO,
        live.OUTPUT_AUDIO,
    }
)
"""The types of audio. Of such an event that follows another one only number and size count."""

_unpack_start = Struct(">I").unpack_from
_from_bytes = int.from_bytes
_MIN_PAYLOAD_BYTES: Final = 126  # of a frame with a two-byte length
_HEAD_BYTES: Final = 64  # more than the longest of `AUDIO_TYPES` ends within
_KEY: Final = 0xFFFFFFFF


class AudioRun:
    """Events of one type of audio, one after another, each in a read of its own.

    `starts_with` begins a run with an event that `Scanner.whole_event_type` has recognised. `goes_on_with` is then what that
    method would return for a later read, without it, as long as the scanner consumes whole events only. `stop` ends the run.
    """

    __slots__ = (
        "_event_bytes",
        "_head_end",
        "_is_masked",
        "_max_bytes",
        "_number",
        "_other_bytes",
        "_repeater",
        "_start",
        "event_type",
        "events",
        "transcripts",
    )

    def __init__(self, *, masked: bool, max_message_bytes: int, transcripts: TranscriptRun | None = None) -> None:
        self._is_masked = masked
        self._max_bytes = (8 if masked else 4) + min(max_message_bytes, MAX_TWO_BYTES)
        self._event_bytes = -1  # the size of the last event; -1 outside a run
        self._start = b""  # how it starts: the header, and the type if it is not masked
        self._head_end = 0  # where its type ends
        self._number = self._repeater = 0
        self._other_bytes = 0  # by how much the events that are not taken yet are longer than as many of that size
        self.event_type = ""
        self.events = 0
        """The number of events that are not taken yet."""
        self.transcripts = transcripts
        """What recognises transcripts between them, if upstream sends any."""

    def starts_with(self, data: bytes, event_type: str) -> None:
        """Begin a run after this event, which is not counted."""
        if len(data) > self._max_bytes:
            return
        if self._is_masked:
            # Key and type as one number. Times the repeater, the key is the mask of both, and itself where it is.
            head = unmask(data[8 : 8 + _HEAD_BYTES], data[4:8])
            end = 8 + (head.index(b'"', 10) + 4 & ~3)  # whole masks
            self._number = _from_bytes(head[: end - 8], "little") << 32
            self._repeater = _from_bytes(b"\1\0\0\0" * (end // 4 - 1), "little")
            self._start = data[:4]
        else:
            end = data.index(b'"', 14) + 1
            self._start = data[:end]
        self._head_end = end
        self._set_size(len(data))
        self.event_type = event_type

    def goes_on_with(self, data: bytes) -> bool:
        """Count `data` if it is exactly one event of the run; returns whether it is. Otherwise nothing is changed."""
        if len(data) != self._event_bytes:
            if self._event_bytes < 0:
                return False
            transcripts = self.transcripts
            if transcripts is not None and transcripts.goes_on_with(data):
                return True
            if not self._is_as_long_as_it_says(data):
                return False
        if not data.startswith(self._start):
            return False
        if self._is_masked:
            head = _from_bytes(data[4 : self._head_end], "little")
            if head ^ (head & _KEY) * self._repeater != self._number:
                return False
        else:
            # See `events.may_repeat_type`, whose first test this is.
            members = data[self._head_end : data.rfind(b'"', self._head_end, -2) + 1]
            if b'"type"' in members or b"\\" in members:
                return False
        self.events += 1
        return True

    def _is_as_long_as_it_says(self, data: bytes) -> bool:
        """Whether `data` is one frame of another size; the run then goes on with that size."""
        size, header_bytes = len(data), 8 if self._is_masked else 4
        if not data.startswith(self._start[4:], 4):  # another event between two events of audio
            return False
        if not header_bytes + _MIN_PAYLOAD_BYTES <= size <= self._max_bytes:
            return False
        if _unpack_start(data)[0] != (0x81FE0000 if self._is_masked else 0x817E0000) + size - header_bytes:
            return False
        self._set_size(size)
        self._start = data[:4] + self._start[4:]
        return True

    def _set_size(self, size: int) -> None:
        self._other_bytes += self.events * (self._event_bytes - size)
        self._event_bytes = size

    @property
    def size_mark(self) -> object:
        """An object that is replaced by another when a run starts, or goes on with another size."""
        return self._start

    def take(self) -> tuple[int, int]:
        """Return the number and the bytes of the events that were counted since the last call."""
        events = self.events
        size = events * self._event_bytes + self._other_bytes
        self.events = self._other_bytes = 0
        return events, size

    def stop(self) -> None:
        """End the run: no event goes on with it until another one starts. What was counted can still be taken."""
        self._set_size(-1)
