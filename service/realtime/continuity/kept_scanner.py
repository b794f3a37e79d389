"""The scanner of a client whose session may go on with another upstream connection: all but audio is read whole. Pure."""

from functools import cache
from typing import Final

from service.realtime.continuity.kept import APPEND
from service.realtime.events import CLIENT_EVENT_TYPES, HEAD_BYTES
from service.realtime.frames import Opcode
from service.realtime.intricacy import is_intricate
from service.realtime.scanner import Scanner
from service.realtime.scanner_types import TypeRules

_READ_TYPES: Final = CLIENT_EVENT_TYPES - {APPEND}


class KeptScanner(Scanner):
    """Yields each message of a client as `Message`, but for audio, whose frames come as `Chunk`s that hold nothing else.

    Nothing of a message is yielded before its last byte, unless it exceeds `MAX_EVENT_BYTES`: it then passes unread.
    """

    __slots__ = ()

    def __init__(self, *, max_message_bytes: int) -> None:
        super().__init__(masked=True, max_message_bytes=max_message_bytes, parsed_types=_READ_TYPES)
        self._rules_of = _rules()
        self._rules = self._rules_of[Opcode.TEXT]


class _KeptRules(TypeRules):
    """Every message is read whole, whatever its type, and yielded as `Message` unless it is audio."""

    __slots__ = ()

    def type_of(self, payload: bytes) -> str | None:
        """Return the type of a message; of an intricate one without parsing it, which would hold up other sessions."""
        return self.type_in_head(payload[:HEAD_BYTES]) if is_intricate(payload) else super().type_of(payload)

    def must_parse(self, found: str | None, payload: bytes) -> bool:  # noqa: ARG002 - of the class
        return found != APPEND

    def must_read_whole(self, head: bytes) -> bool:  # noqa: ARG002 - whatever the head shows
        return True

    def may_pass_unread(self, head: bytes) -> bool:  # noqa: ARG002
        return True

    def may_forward(self, head: bytes) -> bool:  # noqa: ARG002
        return False


@cache
def _rules() -> dict[int, TypeRules]:
    return {
        opcode: _KeptRules(_READ_TYPES, is_binary=opcode is Opcode.BINARY, is_strict=False, masked=False)
        for opcode in (Opcode.TEXT, Opcode.BINARY)
    }
