"""A scanner for a peer that might hide the type of an event from the relay. Pure."""

import re
from typing import Final

from service.realtime.audio_run import AudioRun
from service.realtime.events import may_repeat_type
from service.realtime.frames import unmask
from service.realtime.scanner import Scanner

_HEAD_BYTES: Final = 96
_TYPE_AND_STRING: Final = re.compile(rb'\{\s*"type"\s*:\s*"([a-z_.]+)"\s*,\s*"(?!type")[a-z_]+"\s*:\s*"')
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_QUOTES_OF_TWO_STRINGS: Final = 8

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

    def new_audio_run(self) -> AudioRun:
        """Return one that recognises nothing: each event is searched."""
        return AudioRun(masked=True, max_message_bytes=0)

    def _masked_type(self, data: bytes, start: int, end: int) -> str | None:
        found = super()._masked_type(data, start, end)
        if found is None:
            return None
        key, payload = data[start + 4 : start + 8], data[start + 8 : end]
        if is_type_and_one_string(payload, key):
            return found
        payload = unmask(payload, key)
        return None if may_repeat_type(payload, payload.index(found.encode()) + len(found) + 1) else found


def is_type_and_one_string(masked: bytes, key: bytes, event_type: bytes | None = None) -> bool:
    """Whether a payload is an object of a type and one other string without escapes, as events of audio are.

    Its eight quotation marks then belong to two keys and two values. To count them needs no unmasking.
    """
    found = _TYPE_AND_STRING.match(unmask(masked[:_HEAD_BYTES], key))
    if found is None or (event_type is not None and found.group(1) != event_type):
        return False
    quotes = 0
    for position, mask in enumerate(key):
        part = masked[position::4]
        if part.find(_BACKSLASH ^ mask) >= 0:
            return False
        quotes += part.count(_QUOTE ^ mask)
    return quotes == _QUOTES_OF_TWO_STRINGS
