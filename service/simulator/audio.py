"""The audio formats of the Realtime API and of GPT-Live: durations, loudness and a test tone.

Source: the API reference "Realtime session". The formats are 16-bit little-endian PCM at 24 kHz (GPT-Live: also 16 kHz), and
G.711 mu-law and A-law at 8 kHz, all mono. The simulator never converts audio: it sends the user's audio back byte for byte.
"""

import functools
import math
from array import array
from dataclasses import dataclass

_PCM_RATE = 24_000
_PCM_WIDEBAND_RATE = 16_000
_PCM_BYTES = 2
_G711_RATE = 8_000
_TONE_HERTZ = 440
_TONE_AMPLITUDE = 6_000  # of 32767
_TONE_SECONDS = 0.5
_LOUDNESS_STRIDE = 4  # one sample in four is enough to separate speech from silence


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One encoding: its `type` in the session object, samples per second, bytes per sample."""

    name: str
    rate: int
    sample_bytes: int

    def bytes_for(self, milliseconds: float) -> int:
        """Return the size of this much audio in bytes, rounded down to whole samples."""
        return int(self.rate * milliseconds / 1000) * self.sample_bytes

    def duration_ms(self, size: int) -> float:
        """Return the duration of `size` bytes in milliseconds."""
        return size * 1000 / (self.rate * self.sample_bytes)

    def silence(self, size: int) -> bytes:
        """Return `size` bytes of silence."""
        return {"audio/pcmu": b"\xff", "audio/pcma": b"\xd5"}.get(self.name, b"\0") * size

    def loudness(self, audio: bytes) -> float:
        """Return the mean absolute amplitude, on the scale of 16-bit PCM."""
        if self.sample_bytes == _PCM_BYTES:
            samples = array("h", audio)[::_LOUDNESS_STRIDE]
            return sum(map(abs, samples)) / max(len(samples), 1)
        levels = _ulaw_levels() if self is ULAW else _alaw_levels()
        return sum(levels[byte] for byte in audio) / max(len(audio), 1)


PCM16 = AudioFormat("audio/pcm", _PCM_RATE, _PCM_BYTES)
PCM16_WIDEBAND = AudioFormat("audio/pcm", _PCM_WIDEBAND_RATE, _PCM_BYTES)  # of GPT-Live only
ULAW = AudioFormat("audio/pcmu", _G711_RATE, 1)
ALAW = AudioFormat("audio/pcma", _G711_RATE, 1)
FORMATS = {known.name: known for known in (PCM16, ULAW, ALAW)}


@functools.cache
def tone(audio_format: AudioFormat) -> bytes:
    """Return half a second of a tone: the assistant's audio when there is no user audio to repeat."""
    count = int(audio_format.rate * _TONE_SECONDS)
    if audio_format.sample_bytes == _PCM_BYTES:
        step = 2 * math.pi * _TONE_HERTZ / audio_format.rate
        return array("h", (int(_TONE_AMPLITUDE * math.sin(step * at)) for at in range(count))).tobytes()
    loud, quiet = (0x90, 0x10) if audio_format is ULAW else (0xB5, 0x35)  # a square wave: one amplitude with both signs
    half = audio_format.rate // (2 * _TONE_HERTZ)
    return bytes(loud if (at // half) % 2 else quiet for at in range(count))


@functools.cache
def _ulaw_levels() -> tuple[int, ...]:
    return tuple(_ulaw_level(byte) for byte in range(256))


@functools.cache
def _alaw_levels() -> tuple[int, ...]:
    return tuple(_alaw_level(byte) for byte in range(256))


def _ulaw_level(byte: int) -> int:
    # ITU-T G.711: all bits inverted; three bits of exponent, four of mantissa, a bias of 33 (of 14 bits, hence << 2).
    exponent, mantissa = (~byte >> 4) & 0x07, ~byte & 0x0F
    return ((((mantissa << 1) + 33) << exponent) - 33) << 2


def _alaw_level(byte: int) -> int:
    # ITU-T G.711: even bits inverted; the lowest segment is linear (of 13 bits, hence << 3).
    exponent, mantissa = ((byte ^ 0x55) >> 4) & 0x07, (byte ^ 0x55) & 0x0F
    level = (mantissa << 1) + 1
    return (level if exponent == 0 else (level + 32) << (exponent - 1)) << 3
