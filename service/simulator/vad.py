"""The input audio buffer, and the detection of speech in it by loudness.

Time here is the position in all audio ever appended, never a clock, so the same bytes give the same events however they
are cut. Source: the guide "Voice activity detection (VAD)".

Which bytes are committed:
- without turn detection: everything appended since the last commit or clear;
- with it: from ``prefix_padding_ms`` before the first loud frame to the frame in which the silence became long enough.
  Outside speech only that padding (and the frames that may yet turn out to be speech) is kept, so that a microphone
  left open costs no memory; a manual commit outside speech gets just that.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from service.simulator.audio import PCM16, AudioFormat

_FRAME_MS = 20
_FRAMES_TO_START = 3  # 60 ms above the threshold: a click is not speech
_FULL_THRESHOLD_LEVEL = 660  # a threshold of 0.5 is a mean level of 330 of 32767, about -40 dB


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """How speech is told from silence."""

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 200


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody began to speak; the time includes the padding."""

    audio_start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """Somebody stopped; the time includes the silence that was waited for."""

    audio_end_ms: int
    audio: bytes  # what is committed


class InputBuffer:
    """Audio that was appended and is not committed yet."""

    def __init__(self) -> None:
        self.format: AudioFormat = PCM16
        self._detection: TurnDetection | None = None
        self._audio = bytearray()
        self._dropped = 0  # bytes of the stream that lie before the buffer
        self._scanned = 0  # bytes of the buffer that were listened to
        self._loud_frames = 0
        self._quiet_ms = 0
        self._speaking = False

    @property
    def milliseconds(self) -> float:
        """How long the buffer plays."""
        return self.format.milliseconds_of(len(self._audio))

    def configure(self, audio_format: AudioFormat, detection: TurnDetection | None) -> None:
        """Take over the session's settings; what was appended before is neither lost nor listened to again."""
        if audio_format is not self.format:
            self._audio.clear()
            self._dropped = 0
        if (detection is None) != (self._detection is None):
            self._listen_anew(len(self._audio))
        self.format, self._detection = audio_format, detection

    def append(self, audio: bytes) -> Iterator[SpeechStarted | SpeechStopped]:
        """Take audio in; yields what was heard. It must be iterated to its end."""
        self._audio += audio
        if self._detection is None:
            return
        size = self.format.bytes_in(_FRAME_MS)
        while self._detection is not None and len(self._audio) - self._scanned >= size:
            frame = bytes(self._audio[self._scanned : self._scanned + size])
            self._scanned += size
            heard = self._hear(frame, self._detection)
            if heard is not None:
                yield heard

    def take(self) -> bytes:
        """Hand the buffer over to a commit."""
        audio = bytes(self._audio)
        self._forget(len(audio))
        self._listen_anew(0)
        return audio

    def clear(self) -> None:
        """Throw the buffer away."""
        self.take()

    def _hear(self, frame: bytes, detection: TurnDetection) -> SpeechStarted | SpeechStopped | None:
        loud = self.format.loudness(frame) >= detection.threshold * _FULL_THRESHOLD_LEVEL
        if self._speaking:
            self._quiet_ms = 0 if loud else self._quiet_ms + _FRAME_MS
            return self._stop() if self._quiet_ms >= max(detection.silence_duration_ms, _FRAME_MS) else None
        self._loud_frames = self._loud_frames + 1 if loud else 0
        if self._loud_frames >= _FRAMES_TO_START:
            return self._start(detection)
        kept = self.format.bytes_in(detection.prefix_padding_ms + _FRAMES_TO_START * _FRAME_MS)
        self._forget(max(0, self._scanned - kept))
        return None

    def _start(self, detection: TurnDetection) -> SpeechStarted:
        self._speaking, self._quiet_ms = True, 0
        lead = self.format.bytes_in(self._loud_frames * _FRAME_MS + detection.prefix_padding_ms)
        self._forget(max(0, self._scanned - lead))
        return SpeechStarted(int(self.format.milliseconds_of(self._dropped)))

    def _stop(self) -> SpeechStopped:
        audio = bytes(self._audio[: self._scanned])
        self._forget(self._scanned)
        self._listen_anew(0)
        return SpeechStopped(int(self.format.milliseconds_of(self._dropped)), audio)

    def _forget(self, size: int) -> None:
        del self._audio[:size]
        self._dropped += size
        self._scanned = max(0, self._scanned - size)

    def _listen_anew(self, scanned: int) -> None:
        self._scanned = scanned
        self._speaking, self._loud_frames, self._quiet_ms = False, 0, 0
