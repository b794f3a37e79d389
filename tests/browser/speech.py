"""Writes the recorded voice as a WAV file that Chromium's fake microphone plays: `python -m tests.browser.speech FILE`."""

import sys
import wave
from pathlib import Path

from tools.voice import BYTES_PER_SECOND, RATE, load_phrase


def main(path: Path) -> None:
    """Two seconds of silence, in which the call starts; the phrase; silence for the rest of the test."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(bytes(2 * BYTES_PER_SECOND) + load_phrase("Front_Center") + bytes(60 * BYTES_PER_SECOND))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
