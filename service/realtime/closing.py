"""The CLOSE frame of RFC 6455: codes, reasons, payloads. Pure."""

from enum import IntEnum
from typing import Final

MAX_REASON_BYTES: Final = 123


class CloseCode(IntEnum):
    """The codes that the relay itself sends or maps (RFC 6455 section 7.4)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_STATUS = 1005
    INVALID_PAYLOAD = 1007
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011


def is_sendable_close_code(code: int) -> bool:
    """Whether a code may stand in a CLOSE frame (section 7.4, and the registry: 1012 to 1014 were added later)."""
    return 1000 <= code <= 1014 and code not in (1004, 1005, 1006) or 3000 <= code <= 4999  # noqa: PLR2004, RUF021 - the RFC's ranges


def close_code_to_forward(code: int | None) -> int:
    """The code to send on for one that was received: none at all becomes 1000, one that may not be sent 1011.

    1014 is registered, but some client libraries fail on it, so it becomes 1011 too.
    """
    if code is None or code == CloseCode.NO_STATUS:
        return CloseCode.NORMAL
    if code == 1014 or not is_sendable_close_code(code):  # noqa: PLR2004 - see above
        return CloseCode.INTERNAL_ERROR
    return code


def close_payload(code: int | None, reason: str = "") -> bytes:
    """The payload of a CLOSE frame; the reason is cut to 123 bytes of valid UTF-8."""
    if code is None:
        return b""
    cut = reason.encode("utf-8", "replace")[:MAX_REASON_BYTES].decode("utf-8", "ignore")
    return code.to_bytes(2, "big") + cut.encode()


def parse_close(payload: bytes) -> tuple[int | None, str]:
    """Code and reason of a CLOSE payload that the scanner let through; no code is None."""
    if not payload:
        return None, ""
    return int.from_bytes(payload[:2], "big"), payload[2:].decode("utf-8", "replace")
