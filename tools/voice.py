"""A recorded human voice: the speech files of Debian's alsa-utils, as 24 kHz mono PCM16.

Nothing of it is kept in the repository.
"""

import sys
import wave
from array import array
from pathlib import Path
from typing import Final

from tools.debian import NotToBeHad, unpacked

RATE: Final = 24_000
BYTES_PER_SECOND: Final = RATE * 2
PHRASES: Final = ("Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Side_Left", "Side_Right")


class NoVoice(Exception):
    """The recordings cannot be had here; the message says why."""


def load_phrase(name: str) -> bytes:
    """One phrase as 24 kHz mono PCM16; raises NoVoice."""
    path = _folder() / f"{name}.wav"
    try:
        with wave.open(str(path)) as file:
            if (file.getsampwidth(), file.getframerate()) != (2, 2 * RATE):
                raise NoVoice(f"{path.name} is not 48 kHz PCM16")
            samples, channels = array("h", file.readframes(file.getnframes())), file.getnchannels()
    except (OSError, wave.Error) as exc:
        raise NoVoice(f"{path.name} cannot be read: {exc}") from None
    if sys.byteorder == "big":
        samples.byteswap()
    mono = samples[::channels]
    # 48 to 24 kHz: each pair of samples becomes its mean, which also dampens what 24 kHz cannot carry.
    halved = array("h", ((a + b) // 2 for a, b in zip(mono[::2], mono[1::2], strict=False)))
    if sys.byteorder == "big":
        halved.byteswap()
    return halved.tobytes()


def _folder() -> Path:
    """Where the recordings are: installed, unpacked before, or downloaded now."""
    installed = Path("/usr/share/sounds/alsa")
    if (installed / f"{PHRASES[0]}.wav").is_file():
        return installed
    try:
        return unpacked("alsa-utils", "usr/share/sounds/alsa")
    except NotToBeHad as exc:
        raise NoVoice(str(exc)) from None
