"""Recorded speech: the sound files of Debian's alsa-utils, as 24 kHz mono PCM16. The repository contains none of it."""

import sys
import wave
from array import array
from pathlib import Path
from typing import Final

from tools.debian import PackageUnavailable, unpack

RATE: Final = 24_000
BYTES_PER_SECOND: Final = RATE * 2
PHRASES: Final = ("Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Side_Left", "Side_Right")


class VoiceUnavailable(Exception):
    """The recordings are neither installed nor downloadable; the message names the cause."""


def load_phrase(name: str) -> bytes:
    """One phrase as 24 kHz mono PCM16; raises VoiceUnavailable."""
    path = _folder() / f"{name}.wav"
    try:
        with wave.open(str(path)) as file:
            if (file.getsampwidth(), file.getframerate()) != (2, 2 * RATE):
                raise VoiceUnavailable(f"{path.name} is not 48 kHz PCM16")
            samples, channels = array("h", file.readframes(file.getnframes())), file.getnchannels()
    except (OSError, wave.Error) as exc:
        raise VoiceUnavailable(f"{path.name} cannot be read: {exc}") from None
    if sys.byteorder == "big":
        samples.byteswap()
    mono = samples[::channels]
    # 48 to 24 kHz: the mean of each pair of samples, which also attenuates frequencies above 12 kHz.
    halved = array("h", ((a + b) // 2 for a, b in zip(mono[::2], mono[1::2], strict=False)))
    if sys.byteorder == "big":
        halved.byteswap()
    return halved.tobytes()


def _folder() -> Path:
    installed = Path("/usr/share/sounds/alsa")
    if (installed / f"{PHRASES[0]}.wav").is_file():
        return installed
    try:
        return unpack("alsa-utils", "usr/share/sounds/alsa")
    except PackageUnavailable as exc:
        raise VoiceUnavailable(str(exc)) from None
