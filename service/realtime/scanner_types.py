"""Helpers of the scanner: what it does with a message of each event type. Pure, without state."""

from functools import cache
from typing import Final

from service.realtime import live
from service.realtime.closing import CloseCode
from service.realtime.events import CLIENT_EVENT_TYPES, SERVER_EVENT_TYPES, event_type, may_be_object, type_in_head
from service.realtime.frames import Header, Opcode, ProtocolError, read_header, unmask
from service.realtime.intricacy import is_intricate
from service.realtime.policy import SESSION_EVENT_TYPES

UNREADABLE_EVENT: Final = (
    "a message over {} MiB, or in thousands of fragments, is an error, or shows no type in its first 512 bytes: the relay "
    "does not forward it unread, because it may contain the key"
)
"""Detail of the violation by a message of a requested or unknown type that is too large to be read whole."""

LARGE_CLIENT_EVENT: Final = (
    "a message over {} MiB, or in thousands of fragments, is an event that the relay has to read, such as session.start, or "
    "its first 512 bytes show no type"
)
"""Detail of the violation by such a message of a client."""

INTRICATE_EVENT: Final = "an event has more values, or longer numbers, than the relay reads: send fewer in one event"
"""Detail of the violation by such an event of a client."""

UNFINISHED_EVENT: Final = (
    "too many large events of all sessions were unfinished at the same time, and this one for the longest of its client"
)
"""Detail of the end of a session for the events that all sessions keep until they are complete."""

FRAGMENT_COST: Final = 512
"""Bytes that each held frame counts in addition to its own: for its object, and for the time that it takes to join thousands
of fragments at the end of their message, which would delay other sessions."""

_READ_OR_REFUSED: Final = frozenset({"error", live.SESSION_START, live.SESSION_UPDATE})
"""The requested types that never pass unread: the first may contain the key, the others request models."""

_KNOWN_TYPES: Final = CLIENT_EVENT_TYPES | SERVER_EVENT_TYPES | live.CLIENT_EVENT_TYPES | live.SERVER_EVENT_TYPES


@cache
def forwarded_types(parsed_types: frozenset[str]) -> dict[bytes, str]:
    """Return the known event types outside `parsed_types`, by their bytes in a message."""
    return {name.encode(): name for name in _KNOWN_TYPES - parsed_types}


@cache
def requested_types(parsed_types: frozenset[str]) -> dict[bytes, str]:
    """Return `parsed_types` by their bytes in a message."""
    return {name.encode(): name for name in parsed_types}


def type_start(head: bytes) -> int:
    """Return the offset of the type if it is the first value; else an offset behind the head, where no type is."""
    # Servers and JavaScript write no space after the colon, Python writes one.
    return 9 if head.startswith(b'{"type":"') else 10 if head.startswith(b'{"type": "') else len(head)


def too_big(size: int, limit: int) -> ProtocolError:
    """The violation by a message of at least `size` bytes."""
    return ProtocolError(
        CloseCode.MESSAGE_TOO_BIG, f"the message has at least {size:,} bytes; the limit is {limit:,} bytes"
    )


def too_large_to_read(max_event_bytes: int, *, masked: bool) -> ProtocolError:
    """The violation by a message that is too large to be read whole; `masked`: it is a client's."""
    if masked:
        return ProtocolError(CloseCode.MESSAGE_TOO_BIG, LARGE_CLIENT_EVENT.format(max_event_bytes >> 20))
    return ProtocolError(CloseCode.POLICY_VIOLATION, UNREADABLE_EVENT.format(max_event_bytes >> 20))


def payload_of(frames: list[bytes], *, masked: bool) -> bytes:
    """Return the payload of a message from its complete frames, unmasked."""
    headers = [read_header(frame, 0, masked=masked) for frame in frames]
    return b"".join(
        unmask(frame[header.size :], header.key)
        for frame, header in zip(frames, headers, strict=True)
        if isinstance(header, Header)  # always, because the frames are complete
    )


class TypeRules:
    """Which text, or binary, messages a scanner reads whole and yields as `Message`.

    A binary message is an event if it holds a JSON object. Clients may read it as one. Where the events that show a session
    are requested, so are those of types that the relay does not know: they may show it as well.
    """

    __slots__ = ("_is_binary", "_is_bounded", "_is_strict", "_kept_types", "_shows_session", "parsed_types")

    def __init__(
        self,
        parsed_types: frozenset[str],
        *,
        is_binary: bool,
        is_strict: bool,
        masked: bool,
        kept_types: frozenset[str] = frozenset(),
    ) -> None:
        self.parsed_types = parsed_types | kept_types
        self._kept_types = kept_types - parsed_types
        self._is_binary = is_binary
        self._is_bounded = masked and bool(parsed_types)
        self._is_strict = is_strict
        self._shows_session = parsed_types >= SESSION_EVENT_TYPES

    def may_be_event(self, head: bytes) -> bool:
        """Whether a message that begins with these bytes may be an event."""
        return self._is_strict or not self._is_binary or may_be_object(head)  # strictly, it may be UTF-16

    def type_of(self, payload: bytes) -> str | None:
        """Return the type of a whole message, None if it is unknown; raises ProtocolError for a client's intricate one."""
        if self._is_bounded and is_intricate(payload):
            raise ProtocolError(CloseCode.MESSAGE_TOO_BIG, INTRICATE_EVENT)
        return event_type(payload) if self.may_be_event(payload) else None

    def type_in_head(self, head: bytes) -> str | None:
        """Return the type that the first bytes of a message show."""
        return type_in_head(head) if self.may_be_event(head) else None

    def must_parse(self, found: str | None, payload: bytes) -> bool:
        """Whether a whole message of this type is to be yielded as `Message`."""
        if found is not None:
            return self._is_requested(found)
        return bool(self.parsed_types) and self.may_be_event(payload)

    def must_read_whole(self, head: bytes) -> bool:
        """Whether no part of an incomplete message that begins with these bytes may be yielded."""
        found = None if self._is_strict else type_in_head(head)  # a later type would count
        if found is not None:
            return self._is_requested(found)
        return bool(self.parsed_types) and (self._is_strict or may_be_object(head))  # an error is an object

    def may_pass_unread(self, head: bytes) -> bool:
        """Whether an event of a requested type that is too large to be read may pass, unless `is_strict`.

        Not where the events of a session are requested, unless it is only kept: the relay then hides a part of them.
        """
        found = type_in_head(head)
        if self._shows_session and found not in self._kept_types:
            return False
        return not self._is_strict and found in self.parsed_types - _READ_OR_REFUSED

    def _is_requested(self, found: str) -> bool:
        return found in self.parsed_types or (self._shows_session and found not in _KNOWN_TYPES)

    def may_forward(self, head: bytes) -> bool:
        """Whether the first fragments may be yielded before the others: a later fragment can hold another type."""
        if not self.may_be_event(head):
            return True
        return not self.parsed_types and type_in_head(head) is not None


@cache
def type_rules(
    parsed_types: frozenset[str], kept_types: frozenset[str] = frozenset(), *, is_strict: bool, masked: bool
) -> dict[int, TypeRules]:
    """Return the rules by the opcode of a message. `is_strict`: nothing of an event is yielded before its last byte.

    `kept_types` are requested as well, but only to be kept: an event that is too large for that passes unread.
    """
    return {
        opcode: TypeRules(
            parsed_types,
            kept_types=kept_types,
            is_binary=opcode is Opcode.BINARY,
            is_strict=is_strict,
            masked=masked,
        )
        for opcode in (Opcode.TEXT, Opcode.BINARY)
    }
