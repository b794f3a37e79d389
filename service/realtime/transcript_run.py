"""Recognises the transcripts of GPT-Live, a third of upstream's events, between events of audio. Pure.

They are kept as they were read and evaluated together, at the next tick: the code is then in the processor's caches.
"""

import re
from struct import Struct
from typing import Final

from service.realtime import live
from service.realtime.live_events import Transcript, find_transcript, transcript_of

TRANSCRIPT_TYPES: Final = frozenset({live.INPUT_TRANSCRIPT.encode(), live.OUTPUT_TRANSCRIPT.encode()})
MAX_TRANSCRIPT_BYTES: Final = 1024
MAX_TRANSCRIPTS: Final = 32
"""How many are kept at most. Five arrive in a second, and each second they are taken."""

_unpack_header = Struct(">H").unpack_from
_unpack_start = Struct(">I").unpack_from
_MIN_BYTES: Final = 64  # less than the shortest transcript
_SHORT_FRAME_BYTES: Final = 128  # a shorter frame has a length of seven bits, and a header of two bytes
_LONG_FRAME_BYTES: Final = 130  # a frame of this size, or a larger one, has a length in two further bytes
# What the start of a frame is as a number, minus the size of the frame.
_SHORT_START: Final = 0x8100 - 2
_LONG_START: Final = 0x817E0000 - 4


class TranscriptRun:
    """Whole transcripts of upstream, each a read of its own, at a message boundary.

    `goes_on_with` recognises only what `Scanner.feed` would return as one message, of the type of a transcript.
    """

    __slots__ = ("_max_bytes", "found")

    def __init__(self, *, max_message_bytes: int) -> None:
        self._max_bytes = min(max_message_bytes, MAX_TRANSCRIPT_BYTES)
        self.found: list[re.Match[bytes]] = []
        """What is not taken yet."""

    def goes_on_with(self, data: bytes) -> bool:
        """Keep `data` if it is exactly one transcript and nothing else; returns whether it is."""
        size = len(data)
        if size > self._max_bytes:
            return False
        if size >= _LONG_FRAME_BYTES:
            if _unpack_start(data)[0] != _LONG_START + size:
                return False
            found = find_transcript(data, 4)
        elif _MIN_BYTES <= size < _SHORT_FRAME_BYTES and _unpack_header(data)[0] == _SHORT_START + size:
            found = find_transcript(data, 2)
        else:
            return False
        if found is None or len(self.found) >= MAX_TRANSCRIPTS:
            return False
        self.found.append(found)
        return True

    def take(self) -> tuple[list[Transcript], int]:
        """Return the transcripts that were kept since the last call, and their bytes."""
        found, self.found = self.found, []
        return [transcript_of(one) for one in found], sum([one.endpos for one in found])
