"""The input buffer of the reference API, and its turn detection."""

import base64
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

from tests.support.numbered_speech import FRAME_BYTES, FRAME_MS

_LOUD_FRAMES: Final = 3


@lru_cache(maxsize=1024)
def decoded(encoded: str) -> bytes:
    """Audio from base64. The same is decoded again and again: at each upstream of each run of a conversation."""
    return base64.b64decode(encoded)


class InputBuffer:
    """Finds turns in the audio of a client. `lag_frames`: how much later audio must come before a turn is reported."""

    def __init__(self, new_item_id: Callable[[], str], lag_frames: int) -> None:
        self._new_item_id = new_item_id
        self._lag = lag_frames
        self._late: list[tuple[int, dict[str, Any]]] = []  # what the lag holds back: position, event or a commit
        self._audio = bytearray()
        self._start = 0  # the position of the buffer, in bytes
        self._analysed = 0
        self._loud = self._quiet = 0
        self._speech_item = ""

    @property
    def size(self) -> int:
        """The bytes that are not committed."""
        return len(self._audio)

    def take(self) -> bytes:
        """Empty the buffer, and return its audio."""
        audio = bytes(self._audio)
        self._discard(len(audio))
        self._analysed = 0
        return audio

    def restart_detection(self) -> None:
        """Turn detection was turned on or off."""
        self._loud = self._quiet = 0
        self._analysed = len(self._audio)

    def forget_speech(self) -> None:
        """The buffer was emptied within speech: what follows is another turn."""
        item_id, self._speech_item = self._speech_item, ""
        self._late = [(at, event) for at, event in self._late if not item_id or event.get("item_id") != item_id]
        self._loud = self._quiet = 0

    def append(self, encoded: str, detection: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        """Add audio. Yields what is due after each frame: an event, or a commit, whose `kind` is empty."""
        self._audio += decoded(encoded)
        while detection is not None and len(self._audio) - self._analysed >= FRAME_BYTES:
            frame = self._audio[self._analysed : self._analysed + FRAME_BYTES]
            self._analysed += FRAME_BYTES
            self._analyse(detection, is_loud=bool(frame.strip(b"\0")))
            while self._late and self._late[0][0] <= self._start + self._analysed:
                yield self._late.pop(0)[1]

    def _position(self, offset: int) -> int:
        return (self._start + offset) * FRAME_MS // FRAME_BYTES

    def _analyse(self, detection: dict[str, Any], *, is_loud: bool) -> None:
        padding = detection["prefix_padding_ms"] // FRAME_MS
        if self._speech_item:
            self._quiet = 0 if is_loud else self._quiet + 1
            if self._quiet * FRAME_MS >= detection["silence_duration_ms"]:
                self._stop()
            return
        self._loud = self._loud + 1 if is_loud else 0
        if self._loud >= _LOUD_FRAMES:
            self._discard(max(0, self._analysed - (self._loud + padding) * FRAME_BYTES))
            self._speech_item, self._quiet = self._new_item_id(), 0
            started = {"audio_start_ms": self._position(0), "item_id": self._speech_item}
            self._later({"kind": "input_audio_buffer.speech_started", **started})
        else:
            self._discard(max(0, self._analysed - (padding + _LOUD_FRAMES) * FRAME_BYTES))

    def _stop(self) -> None:
        item_id, audio = self._speech_item, bytes(self._audio[: self._analysed])
        end = self._position(self._analysed)
        self._discard(self._analysed)
        self._speech_item, self._loud = "", 0
        self._later({"kind": "input_audio_buffer.speech_stopped", "audio_end_ms": end, "item_id": item_id})
        self._later({"kind": "", "item_id": item_id, "audio": audio})

    def _discard(self, size: int) -> None:
        del self._audio[:size]
        self._start += size
        self._analysed -= size

    def _later(self, event: dict[str, Any]) -> None:
        self._late.append((self._start + self._analysed + self._lag * FRAME_BYTES, event))
