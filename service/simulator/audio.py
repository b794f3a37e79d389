"""Audio formats and the little that the simulator does with samples: lengths, loudness, a tone.

Three formats, as the API reference "Realtime session" has them: 16-bit little-endian PCM at 24 kHz, and G.711 in its
two laws at 8 kHz, all mono. Audio is never converted: what was said is what is parroted, byte for byte.
"""

import functools
import math
from array import array
from dataclasses import dataclass

_PCM_RATE = 24_000
_G711_RATE = 8_000
_TONE_HERTZ = 440
_TONE_LEVEL = 6_000  # of 32767: audible, not startling
_TONE_SECONDS = 0.5
_LOUDNESS_STRIDE = 4  # a quarter of the samples tells loud from quiet as well as all of them


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One encoding: its name on the wire, its rate, its width."""

    name: str
    rate: int
    sample_bytes: int

    def bytes_in(self, milliseconds: float) -> int:
        """How many bytes play for so long, in whole samples."""
        return int(self.rate * milliseconds / 1000) * self.sample_bytes

    def milliseconds_of(self, size: int) -> float:
        """How long so many bytes play."""
        return size * 1000 / (self.rate * self.sample_bytes)

    def loudness(self, audio: bytes) -> float:
        """The mean distance of the samples from silence, on the scale of 16-bit PCM."""
        if self is PCM16:
            samples = array("h", audio)[::_LOUDNESS_STRIDE]
            return sum(map(abs, samples)) / max(len(samples), 1)
        levels = _ulaw_levels() if self is ULAW else _alaw_levels()
        return sum(levels[byte] for byte in audio) / max(len(audio), 1)


PCM16 = AudioFormat("audio/pcm", _PCM_RATE, 2)
ULAW = AudioFormat("audio/pcmu", _G711_RATE, 1)
ALAW = AudioFormat("audio/pcma", _G711_RATE, 1)
FORMATS = {known.name: known for known in (PCM16, ULAW, ALAW)}


@functools.cache
def tone(audio_format: AudioFormat) -> bytes:
    """Make half a second of a tone, for an assistant that has no voice to parrot."""
    count = int(audio_format.rate * _TONE_SECONDS)
    if audio_format is PCM16:
        step = 2 * math.pi * _TONE_HERTZ / audio_format.rate
        return array("h", (int(_TONE_LEVEL * math.sin(step * at)) for at in range(count))).tobytes()
    loud, quiet = (0x90, 0x10) if audio_format is ULAW else (0xB5, 0x35)  # a square wave: both signs of one level
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
