"""The input audio buffer with voice activity detection (VAD) by loudness.

Times are positions in the appended audio, never clock times, so that the same bytes produce the same events however they
are split into appends. Source: the guide "Voice activity detection (VAD)".

The committed audio is:
- without turn detection: everything appended since the last commit or clear;
- with turn detection: from ``prefix_padding_ms`` before the first loud frame to the end of ``silence_duration_ms``.
  Outside speech only the padding and the frames that may start speech are kept, so that an open microphone does not
  increase memory. A manual commit outside speech commits only those.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from service.simulator.audio import PCM16, AudioFormat

_FRAME_MS = 20
_FRAMES_TO_START = 3  # speech starts after 60 ms above the threshold, so that a click does not start it
_FULL_THRESHOLD_LEVEL = 660  # threshold 0.5 is a mean amplitude of 330 of 32767, about -40 dB


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """The settings of voice activity detection."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200
    idle_timeout_ms: int | None = None


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The start of speech; the time includes the prefix padding."""

    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """The end of speech; the time includes ``silence_duration_ms``."""

    audio_end_ms: int
    audio: bytes  # to commit


@dataclass(frozen=True, slots=True)
class IdleTimeout:
    """No speech for ``idle_timeout_ms`` after an answer; the times are those of the silence."""

    audio_start_ms: int
    audio_end_ms: int
    audio: bytes  # to commit


SpeechEvent: TypeAlias = SpeechStarted | SpeechStopped | IdleTimeout


class InputAudioBuffer:
    """Audio that is appended and not yet committed."""

    def __init__(self, lag_ms: float = 0.0) -> None:
        self._lag_ms = lag_ms  # detection is this far behind the audio
        self.format: AudioFormat = PCM16
        self._detection: TurnDetection | None = None
        self._audio = bytearray()
        self._discarded_bytes = 0  # audio before the buffer; the base of all times
        self._analysed_bytes = 0  # the part of the buffer that detection has processed
        self._loud_frames = 0
        self._quiet_ms = 0
        self._in_speech = False
        self._idle: tuple[int, int] | None = None  # where the silence begins and ends in which speech is expected

    @property
    def milliseconds(self) -> float:
        """The duration of the buffered audio."""
        return self.format.duration_ms(len(self._audio))

    def configure(self, audio_format: AudioFormat, detection: TurnDetection | None) -> None:
        """Set format and turn detection. Buffered audio is kept unless the format changes, and is not analysed again."""
        if audio_format is not self.format:
            self._audio.clear()
            self._discarded_bytes = 0
        if (detection is None) != (self._detection is None):
            self._reset_detection(analysed_bytes=len(self._audio))
        self.format, self._detection = audio_format, detection

    def append(self, audio: bytes) -> Iterator[SpeechEvent]:
        """Append audio and yield the speech events in it. The caller must exhaust the iterator."""
        self._audio += audio
        if self._detection is None:
            return
        size = self.format.bytes_for(_FRAME_MS)
        lag = self.format.bytes_for(self._lag_ms)
        while self._detection is not None and len(self._audio) - self._analysed_bytes >= size + lag:
            frame = bytes(self._audio[self._analysed_bytes : self._analysed_bytes + size])
            self._analysed_bytes += size
            speech_event = self._analyse(frame, self._detection)
            if speech_event is not None:
                yield speech_event

    def expect_speech(self, after_ms: float) -> None:
        """Start the idle timeout, if there is one, behind this much more audio: while an answer is played out."""
        if self._detection is not None and self._detection.idle_timeout_ms is not None:
            start = self._discarded_bytes + len(self._audio) + self.format.bytes_for(after_ms)
            self._idle = (start, start + self.format.bytes_for(self._detection.idle_timeout_ms))

    def commit(self) -> bytes:
        """Return the buffered audio and empty the buffer."""
        self._idle = None
        audio = bytes(self._audio)
        self._discard(len(audio))
        self._reset_detection(analysed_bytes=0)
        return audio

    def clear(self) -> None:
        """Empty the buffer."""
        self.commit()

    def _analyse(self, frame: bytes, detection: TurnDetection) -> SpeechEvent | None:
        loud = self.format.loudness(frame) >= detection.threshold * _FULL_THRESHOLD_LEVEL
        if self._in_speech:
            self._quiet_ms = 0 if loud else self._quiet_ms + _FRAME_MS
            return self._stop_speech() if self._quiet_ms >= max(detection.silence_duration_ms, _FRAME_MS) else None
        self._loud_frames = self._loud_frames + 1 if loud else 0
        if self._loud_frames >= _FRAMES_TO_START:
            return self._start_speech(detection)
        if self._idle is not None and not loud and self._discarded_bytes + self._analysed_bytes >= self._idle[1]:
            return self._stop_waiting(*self._idle)
        kept = self.format.bytes_for(detection.prefix_padding_ms + _FRAMES_TO_START * _FRAME_MS)
        self._discard(max(0, self._analysed_bytes - kept))
        return None

    def _start_speech(self, detection: TurnDetection) -> SpeechStarted:
        self._in_speech, self._quiet_ms, self._idle = True, 0, None
        lead = self.format.bytes_for(self._loud_frames * _FRAME_MS + detection.prefix_padding_ms)
        self._discard(max(0, self._analysed_bytes - lead))
        return SpeechStarted(int(self.format.duration_ms(self._discarded_bytes)))

    def _stop_waiting(self, start: int, end: int) -> IdleTimeout:
        self._idle = None
        audio = bytes(self._audio[: self._analysed_bytes])  # the end of the silence: the rest is no longer kept
        self._discard(self._analysed_bytes)
        return IdleTimeout(int(self.format.duration_ms(start)), int(self.format.duration_ms(end)), audio)

    def _stop_speech(self) -> SpeechStopped:
        audio = bytes(self._audio[: self._analysed_bytes])
        self._discard(self._analysed_bytes)
        self._reset_detection(analysed_bytes=0)
        return SpeechStopped(int(self.format.duration_ms(self._discarded_bytes)), audio)

    def _discard(self, size: int) -> None:
        del self._audio[:size]
        self._discarded_bytes += size
        self._analysed_bytes = max(0, self._analysed_bytes - size)

    def _reset_detection(self, *, analysed_bytes: int) -> None:
        self._analysed_bytes = analysed_bytes
        self._in_speech, self._loud_frames, self._quiet_ms = False, 0, 0
