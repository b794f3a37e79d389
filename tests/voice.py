"""A recorded human voice: the speech files of Debian's alsa-utils, as 24 kHz mono PCM16.

The package is downloaded and unpacked, not installed, so no root is needed. Nothing of it is kept in the repository.
"""

import subprocess
import sys
import tempfile
import wave
from array import array
from pathlib import Path
from typing import Final

RATE: Final = 24_000
BYTES_PER_SECOND: Final = RATE * 2
PHRASES: Final = ("Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Side_Left", "Side_Right")
_CACHE: Final = Path(tempfile.gettempdir()) / "realtime-relay-voice"


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
    unpacked = _CACHE / "usr/share/sounds/alsa"
    for folder in (installed, unpacked):
        if (folder / f"{PHRASES[0]}.wav").is_file():
            return folder
    _CACHE.mkdir(parents=True, exist_ok=True)
    try:
        _run("apt-get", "download", "-q", "alsa-utils")
        packages = sorted(_CACHE.glob("alsa-utils_*.deb"))
        _run("dpkg-deb", "-x", packages[-1].name, ".")
    except (OSError, IndexError, subprocess.SubprocessError) as exc:
        raise NoVoice(f"alsa-utils cannot be downloaded with apt-get ({type(exc).__name__})") from None
    return unpacked


def _run(*command: str) -> None:
    subprocess.run(command, cwd=_CACHE, check=True, capture_output=True, timeout=60)
