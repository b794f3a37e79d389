"""A scanner for a peer that might hide the type of an event from the relay. Pure."""

import re
from typing import Final

from service.realtime.audio_run import AudioRun
from service.realtime.events import may_repeat_type
from service.realtime.frames import unmask
from service.realtime.scanner import Scanner
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES

_TYPE_AND_STRING: Final = re.compile(rb'\{\s*"type"\s*:\s*"([a-z_.]+)"\s*,\s*"(?!type")[a-z_]+"\s*:\s*"')

MAX_CLIENT_EVENT_BYTES: Final = 2 << 20
"""Maximum bytes of an event of a client that is read whole. The largest of GPT-Live, thirty seconds of audio, has 1.9 MB."""


class StrictScanner(Scanner):
    """Parses the bytes of a client: yields nothing of an event before its last byte, and searches each for a second type.

    A parser at the provider may use the last of several types, and `Scanner` the first. It costs the unmasking of each event.
    """

    __slots__ = ()

    def __init__(self, *, max_message_bytes: int, parsed_types: frozenset[str]) -> None:
        super().__init__(
            masked=True,
            max_message_bytes=max_message_bytes,
            parsed_types=parsed_types,
            is_strict=True,
            max_event_bytes=MAX_CLIENT_EVENT_BYTES,
        )

    def new_audio_run(self, max_bytes: int = MAX_BUFFERED_FRAME_BYTES) -> AudioRun:
        """Return one that searches each event."""
        return _StrictAudioRun(masked=True, max_message_bytes=min(max_bytes, self._max_message_bytes))

    def _masked_type(self, data: bytes, start: int, end: int) -> str | None:
        found = super()._masked_type(data, start, end)
        if found is None:
            return None
        key, payload = data[start + 4 : start + 8], data[start + 8 : end]
        if is_type_and_one_string(payload, key):
            return found
        payload = unmask(payload, key)
        return None if may_repeat_type(payload, payload.index(found.encode()) + len(found) + 1) else found


class _StrictAudioRun(AudioRun):
    __slots__ = ()

    def goes_on_with(self, data: bytes) -> bool:
        if not super().goes_on_with(data):
            return False
        if is_type_and_one_string(data[8:], data[4:8]):
            return True
        self.events -= 1
        return False


def is_type_and_one_string(masked: bytes, key: bytes, event_type: bytes | None = None) -> bool:
    """Whether a payload is an object of a type and one other string without escapes, as events of audio are.

    The second string then ends with the object, and nothing in it is a quotation mark.
    """
    payload = unmask(masked, key)
    found = _TYPE_AND_STRING.match(payload)
    if found is None or (event_type is not None and found.group(1) != event_type):
        return False
    start, end = found.end(), len(payload) - 2
    return payload.find(b'"', start) == end and payload.endswith(b"}") and payload.find(b"\\", start) < 0
