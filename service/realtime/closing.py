"""Close codes, reasons and payloads of close frames (RFC 6455 sections 5.5.1 and 7.4). Pure."""

from enum import IntEnum
from typing import Final

MAX_REASON_BYTES: Final = 123
"""125 bytes of a control frame less two for the code."""


class CloseCode(IntEnum):
    """Close codes that the relay itself sends or maps (RFC 6455 section 7.4)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    INVALID_PAYLOAD = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011


def is_sendable_close_code(code: int) -> bool:
    """Whether a close frame may carry this code (section 7.4, and 1012 to 1014 of the IANA registry)."""
    return 1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 3000 <= code <= 4999  # noqa: PLR2004, RUF021 - the RFC's ranges


def close_code_to_forward(code: int | None) -> int:
    """Return the code to forward for a received one: 1000 for none, 1011 for one that must not be sent.

    1014 is registered, but some client libraries fail on it, so it becomes 1011 too.
    """
    if code is None or code == CloseCode.NO_STATUS:
        return CloseCode.NORMAL
    if code == 1014 or not is_sendable_close_code(code):  # noqa: PLR2004 - see above
        return CloseCode.INTERNAL_ERROR
    return code


def close_payload(code: int | None, reason: str = "") -> bytes:
    """Return the payload of a close frame; the reason is truncated to 123 bytes of valid UTF-8."""
    if code is None:
        return b""
    truncated = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + truncated.encode()


def parse_close(payload: bytes) -> tuple[int | None, str]:
    """Return code and reason of a close payload that `check_close` accepts; the code is None if there is none."""
    if not payload:
        return None, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")
