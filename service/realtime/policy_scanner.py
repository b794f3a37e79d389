"""The scanner of a client whose events are reviewed: nothing but audio passes unread. Pure."""

from functools import cache
from typing import Final

from service.realtime.events import CLIENT_EVENT_TYPES
from service.realtime.frames import Opcode
from service.realtime.scanner_strict import StrictScanner, is_type_and_one_string
from service.realtime.scanner_types import TypeRules

_AUDIO: Final = "input_audio_buffer.append"
_READ_TYPES: Final = CLIENT_EVENT_TYPES - {_AUDIO}
_AUDIO_BYTES: Final = _AUDIO.encode()
_NO_MASK: Final = b"\0\0\0\0"


class ReviewedScanner(StrictScanner):
    """Yields each message of a client as `Message`, but for audio: an append of a type and one string, in plain letters."""

    __slots__ = ()

    def __init__(self, *, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes=max_message_bytes, parsed_types=_READ_TYPES)
        self._rules_of = _rules()
        self._rules = self._rules_of[Opcode.TEXT]

    def _masked_type(self, data: bytes, start: int, end: int) -> str | None:
        key, payload = data[start + 4 : start + 8], data[start + 8 : end]
        return _AUDIO if is_type_and_one_string(payload, key, _AUDIO_BYTES) else None


class _ReviewedRules(TypeRules):
    """Every message is read whole, whatever its type."""

    __slots__ = ()

    def must_parse(self, found: str | None, payload: bytes) -> bool:
        return found != _AUDIO or not is_type_and_one_string(payload, _NO_MASK, _AUDIO_BYTES)

    def must_read_whole(self, head: bytes) -> bool:  # noqa: ARG002 - whatever the head shows
        return True

    def may_pass_unread(self, head: bytes) -> bool:  # noqa: ARG002
        return False

    def may_forward(self, head: bytes) -> bool:  # noqa: ARG002
        return False


@cache
def _rules() -> dict[int, TypeRules]:
    return {
        opcode: _ReviewedRules(_READ_TYPES, is_binary=opcode is Opcode.BINARY, is_strict=True, masked=True)
        for opcode in (Opcode.TEXT, Opcode.BINARY)
    }
