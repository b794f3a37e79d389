"""What a journal is fed with, and its entries: appends, other events, turns. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, NamedTuple

from service.realtime.continuity.audio_length import AudioFormat, append_audio

UNSENT: Final = inf
"""The position of an append that the current upstream has not been sent."""
OVERHEAD_BYTES: Final = 250
"""Of an entry in memory, beside its frames: small ones are many, and each acknowledgement searches them."""


NOTICE_SECONDS: Final = 0.9
"""How late `speech_started` may be, beyond the prefix padding: detection and a round trip."""
START_MARGIN_MS: Final = 100.0
"""By how much the position of an append may be wrong."""


class LoggedAudio(NamedTuple):
    """Events of an answer's audio that passed: their number, the bytes of their frames, and their item if it was read."""

    events: int
    size: int
    item_id: str


class LoggedAppends(NamedTuple):
    """Appends that passed: the first one behind `since`, the last one when they were logged."""

    frames: Sequence[bytes]
    since: float
    size: int


class Part(NamedTuple):
    """The audio between two times within an append."""

    raw: bytes
    first_ms: float
    last_ms: float


@dataclass(slots=True, eq=False)
class Append:
    """An `input_audio_buffer.append`. The audio before `offset_ms` in it belongs to a turn that was cut off."""

    order: int
    raw: bytes
    time: float
    length_ms: float
    start_ms: float = UNSENT
    offset_ms: float = 0.0

    @property
    def end_ms(self) -> float:
        """Where it ends in the audio that was sent."""
        return self.start_ms + self.length_ms

    def audio(self, form: AudioFormat) -> bytes:
        """Return its audio behind the offset."""
        return form.slice(append_audio(self.raw), self.offset_ms, self.offset_ms + self.length_ms)

    def part(self, start_ms: float, end_ms: float) -> Part:
        """Return its share of a turn."""
        first = self.offset_ms + max(0.0, start_ms - self.start_ms)
        return Part(self.raw, first, self.offset_ms + min(self.end_ms, end_ms) - self.start_ms)

    def rest(self, start_ms: float) -> "Append":
        """Return what is behind a position within it."""
        skipped = start_ms - self.start_ms
        return Append(self.order, self.raw, self.time, self.length_ms - skipped, start_ms, self.offset_ms + skipped)


@dataclass(slots=True, eq=False)
class Entry:
    """Another event of the client."""

    order: int
    kind: str
    raw: bytes
    time: float
    event_id: str = ""
    item_id: str = ""
    is_sent: bool = True  # to the current upstream

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return OVERHEAD_BYTES + len(self.raw)


@dataclass(slots=True)
class Turn:
    """The audio of a committed turn, until its item is transcribed.

    `is_beheaded`: the beginning of it was dropped, `is_over_limit`: all of it.
    """

    form: AudioFormat
    parts: list[Part] = field(default_factory=list)
    is_beheaded: bool = False
    is_over_limit: bool = False
    is_partly_transcribed: bool = False  # the client has been sent a part of its transcript

    @property
    def size(self) -> int:
        """The bytes of its frames."""
        return sum(len(part.raw) for part in self.parts)

    def audio(self) -> bytes:
        """Return the audio from its start to its end."""
        return b"".join(self.form.slice(append_audio(raw), first, last) for raw, first, last in self.parts)


@dataclass(slots=True)
class Speech:
    """Speech that upstream has noticed and not committed."""

    item_id: str
    start_ms: float | None
    end_ms: float | None = None


def span_of_turn(
    speech: Speech | None, appends: Sequence[Append], now: float, position_ms: float, silence_ms: float
) -> tuple[float, float, float]:
    """Where a turn that upstream committed by itself starts and ends, and where the audio of the next one starts.

    `position_ms`: the end of the audio that was sent. The rest starts in the middle of the silence that upstream waited for,
    so that an error of half of it neither loses nor doubles a word.
    """
    start = speech.start_ms if speech is not None and speech.start_ms is not None else 0.0
    stated = speech.end_ms if speech is not None else None
    first = appends[0].start_ms if appends else 0.0
    # An end that was trimmed already, or is not sent yet, is no position of this audio.
    if stated is not None and max(start, first) < stated <= position_ms + START_MARGIN_MS:
        return start, stated + 1.0, max(start, stated - silence_ms / 2)
    # Positions are unknown: what was sent a round trip ago.
    heard = [append.end_ms for append in appends if append.time <= now - NOTICE_SECONDS / 2]
    end = heard[-1] if heard else start
    return start, end, max(start, end - silence_ms / 2)
