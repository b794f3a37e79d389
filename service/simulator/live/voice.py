"""The parrot's voice: what the user says comes back, sample for sample, in a continuous stream of frames of 100 ms.

Input audio is the clock: 100 ms of input produce 100 ms of output, speech or silence, and without input there is no output
(seen on the wire in 2026-09). Times are positions in the input, so that the same bytes produce the same events. Speech is
found by loudness; when it has ended, the same audio is said. New speech interrupts the parrot, which then is silent.

Transcripts are fixed words on a grid of 200 ms: of the user one second later than the speech, of the parrot while it speaks.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from service.simulator.audio import AudioFormat, tone
from service.simulator.vad import InputAudioBuffer, SpeechStarted, SpeechStopped, TurnDetection

FRAME_MS = 100
GRID_MS = 200
_SILENCE_MS = 500  # of silence end the user's speech
_TRANSCRIPT_DELAY_MS = 1_000
_MAX_SPEECH_MS = 60_000  # bounds the memory of a session with constant noise
_WORDS = ("Polly", "hears", "every", "word", "and", "says", "the", "same", "again")


@dataclass(frozen=True, slots=True)
class Speech:
    """Something to say: the audio, and its words, of which one is said every 200 ms."""

    audio: bytes
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """One delta of a transcript: it carries its own leading space."""

    text: str
    start_ms: int

    @property
    def delta(self) -> str:
        """The text of the event."""
        return f" {self.text}"

    @property
    def end_ms(self) -> int:
        """The end of its cell in the grid."""
        return self.start_ms + GRID_MS


@dataclass(frozen=True, slots=True)
class Frame:
    """What 100 ms of input produce."""

    start_ms: int
    audio: bytes
    heard: tuple[Word, ...]
    said: tuple[Word, ...]
    ended: Speech | None  # the user's speech, if it ended in this frame


@dataclass(slots=True)
class ParrotVoice:
    """Ears and voice of one session."""

    audio_format: AudioFormat
    muted: bool = False  # then the model hears silence
    _pending: bytearray = field(default_factory=bytearray)  # input that is not yet a whole frame
    _hearing: InputAudioBuffer = field(default_factory=InputAudioBuffer)
    _position_ms: int = 0
    _in_speech: bool = False
    _heard: list[Word] = field(default_factory=list)  # of the current speech
    _awaiting_transcript: deque[Word] = field(default_factory=deque)  # heard, and not yet transcribed
    _vocabulary: Iterator[str] = field(default_factory=lambda: itertools.cycle(_WORDS))
    _to_say: deque[Speech] = field(default_factory=deque)
    _said_bytes: int = 0
    _fixture_playing: bool = False
    _words_left: deque[str] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self._hearing.configure(self.audio_format, TurnDetection(silence_duration_ms=_SILENCE_MS))

    @property
    def is_playing_fixture(self) -> bool:
        """Whether a fixture is said."""
        return self._fixture_playing and bool(self._to_say)

    def take_played(self) -> bool:
        """Return whether a fixture has been said since the last call."""
        played = self._fixture_playing and not self._to_say
        self._fixture_playing = self._fixture_playing and not played
        return played

    @property
    def next_cell_ms(self) -> int:
        """The next position on the grid."""
        return -(-self._position_ms // GRID_MS) * GRID_MS

    def hear(self, audio: bytes) -> Iterator[Frame]:
        """Process input audio; yield a frame for each 100 ms. The caller must exhaust the iterator."""
        self._pending += audio
        size = self.audio_format.bytes_for(FRAME_MS)
        while len(self._pending) >= size:
            frame = bytes(self._pending[:size])
            del self._pending[:size]
            yield self._process(frame)

    def play(self, fixture: bytes) -> None:
        """Say a fixture instead of what is said now, and hear nothing until it has been said."""
        self._interrupt()
        self._pending.clear()
        self._hearing.clear()
        self._in_speech = False
        self._fixture_playing = True
        self.say(Speech(fixture, ()))

    def flush(self) -> bytes:
        """Return the last, short piece of output, for the input that is not a whole frame."""
        size = len(self._pending)
        self._pending.clear()
        return self._next_audio(size) if size else b""

    def say(self, speech: Speech) -> None:
        """Say something after what is said now."""
        self._to_say.append(speech)
        self._words_left.extend(speech.words)

    def hum(self, text: str) -> None:
        """Say a text that is not the user's: a tone, 200 ms for each word."""
        words = tuple(text.split()) or _WORDS[:1]
        sound = tone(self.audio_format)
        size = self.audio_format.bytes_for(GRID_MS) * len(words)
        self.say(Speech((sound * (size // len(sound) + 1))[:size], words))

    def _process(self, frame: bytes) -> Frame:
        start_ms = self._position_ms
        ended, deaf = None, self.muted or self.is_playing_fixture
        for speech_event in self._hearing.append(self.audio_format.silence(len(frame)) if deaf else frame):
            if isinstance(speech_event, SpeechStarted):
                self._start_hearing()
                ended = None  # interrupted before it is said
            elif isinstance(speech_event, SpeechStopped):
                ended = self._end_hearing(speech_event)
        if self._in_speech and self._hearing.milliseconds > _MAX_SPEECH_MS:
            audio = self._hearing.commit()
            ended = self._end_hearing(SpeechStopped(start_ms + FRAME_MS + _SILENCE_MS, audio))
        if self._in_speech and start_ms % GRID_MS == 0:
            self._hear_word(start_ms)
        said = self._next_words(start_ms)
        audio = self._next_audio(len(frame))
        self._position_ms = start_ms + FRAME_MS
        return Frame(start_ms, audio, self._transcribed(), said, ended)

    def _start_hearing(self) -> None:
        self._in_speech = True
        self._heard.clear()
        self._interrupt()

    def _interrupt(self) -> None:
        self._to_say.clear()
        self._words_left.clear()
        self._said_bytes = 0

    def _end_hearing(self, stopped: SpeechStopped) -> Speech:
        self._in_speech = False
        end_ms = stopped.audio_end_ms - _SILENCE_MS
        while len(self._heard) > 1 and self._heard[-1].start_ms >= end_ms:  # words of the silence that ended the speech
            word = self._heard.pop()
            if self._awaiting_transcript and self._awaiting_transcript[-1] is word:
                self._awaiting_transcript.pop()
        if not self._heard:
            self._hear_word(max(0, end_ms) // GRID_MS * GRID_MS)
        return Speech(stopped.audio, tuple(word.text for word in self._heard))

    def _hear_word(self, start_ms: int) -> None:
        word = Word(next(self._vocabulary), start_ms)
        self._heard.append(word)
        self._awaiting_transcript.append(word)

    def _transcribed(self) -> tuple[Word, ...]:
        due = []
        words, latest_ms = self._awaiting_transcript, self._position_ms - _TRANSCRIPT_DELAY_MS
        while words and words[0].start_ms <= latest_ms:
            due.append(words.popleft())
        return tuple(due)

    def _next_words(self, start_ms: int) -> tuple[Word, ...]:
        if not self._words_left or start_ms % GRID_MS:
            return ()
        return (Word(self._words_left.popleft(), start_ms),)

    def _next_audio(self, size: int) -> bytes:
        if not self._to_say:
            return self.audio_format.silence(size)
        speech = self._to_say[0].audio
        piece = speech[self._said_bytes : self._said_bytes + size]
        self._said_bytes += size
        if self._said_bytes >= len(speech):
            self._said_bytes = 0
            self._to_say.popleft()
        return piece + self.audio_format.silence(size - len(piece))
