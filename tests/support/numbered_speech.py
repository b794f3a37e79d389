"""Audio whose speech can be accounted for: a frame of speech holds its number, silence holds zeros.

It is PCM at 24 kHz in frames of 20 ms.
"""

import struct
from array import array
from itertools import groupby
from typing import Final

FRAME_MS: Final = 20
FRAME_BYTES: Final = 960


def speech(numbers: range) -> bytes:
    """The audio of numbered frames, which begin at 1."""
    return b"".join(struct.pack("<I", number) * (FRAME_BYTES // 4) for number in numbers)


def silence(frames: int) -> bytes:
    """Frames without a sound."""
    return bytes(FRAME_BYTES * frames)


def numbers_of(audio: bytes) -> list[int]:
    """The numbers of the speech in audio that may begin and end within a frame; a number counts if it is heard once."""
    words = array("I", audio[: len(audio) // 4 * 4])
    numbers = [number for number, _ in groupby(words) if number]
    return [number for number, _ in groupby(numbers)]
