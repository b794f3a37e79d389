"""What a single RFC 6455 frame is: opcodes, masks, headers, frames of our own.

Pure. The scanner in `scanner.py` makes messages of frames; this file knows no more than one.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from service.realtime.closing import CloseCode, is_sendable_close_code

MAX_CONTROL_BYTES: Final = 125
"""The longest payload of a control frame, and the longest whose length is told by the second byte (section 5.2)."""
MAX_TWO_BYTES: Final = 0xFFFF


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class ProtocolError(Exception):
    """A peer broke the protocol or a limit: the close code that says so and a static sentence."""

    def __init__(self, code: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Header(NamedTuple):
    """A frame's header."""

    opcode: int
    fin: bool
    size: int  # of the header, in bytes
    length: int  # of the payload, in bytes
    key: bytes  # the mask, empty if unmasked


def read_header(data: bytes, at: int, *, masked: bool) -> Header | int:
    """The header that begins at `at`, or how many bytes of it have to be there before more can be told.

    Raises Broken as soon as the offending byte is there. The mask, of which nothing can be wrong, may be missing.
    """
    there = len(data) - at
    first = data[at]
    opcode, fin = first & 0x0F, first >= 0x80  # noqa: PLR2004 - the highest bit
    if first & 0x70:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "reserved bit set, no extension was agreed")
    if opcode > Opcode.PONG or Opcode.BINARY < opcode < Opcode.CLOSE:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "reserved opcode")
    if opcode >= Opcode.CLOSE and not fin:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
    if there < 2:  # noqa: PLR2004 - the two bytes that every header has
        return 2
    second = data[at + 1]
    if (second >= 0x80) is not masked:  # noqa: PLR2004 - the highest bit
        raise ProtocolError(
            CloseCode.PROTOCOL_ERROR, "unmasked frame from a client" if masked else "masked frame from a server"
        )
    length, size = second & 0x7F, 2
    if opcode >= Opcode.CLOSE and length > MAX_CONTROL_BYTES:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "control frame over 125 bytes")
    if length > MAX_CONTROL_BYTES:
        width, least = (2, MAX_CONTROL_BYTES + 1) if length == 126 else (8, MAX_TWO_BYTES + 1)  # noqa: PLR2004 - section 5.2
        size += width
        if there < size:
            return size
        length = int.from_bytes(data[at + 2 : at + size], "big")
        if length < least:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "frame length not in its shortest form")
    if not masked:
        return Header(opcode, fin, size, length, b"")
    return Header(opcode, fin, size + 4, length, data[at + size : at + size + 4])


def check_close(payload: bytes) -> None:
    """Raise Broken for the payload of a CLOSE that section 5.5.1 or 7.4 forbids."""
    if not payload:
        return
    if len(payload) == 1:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "close frame with half a code")
    if not is_sendable_close_code(int.from_bytes(payload[:2], "big")):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "close code that may not be sent")
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError(CloseCode.INVALID_PAYLOAD, "close reason is not UTF-8") from None


def unmask(payload: bytes, key: bytes) -> bytes:
    """XOR with the four-byte mask (section 5.3); masking is the same. An empty key leaves the payload as it is."""
    if not key or not payload:
        return payload
    size = len(payload)
    pad = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


def build_frame(opcode: Opcode, payload: bytes, key: bytes = b"") -> bytes:
    """One whole frame; `key` is a fresh random four-byte mask when a client sends, empty when a server does."""
    first, mask_bit, length = 0x80 | opcode, 0x80 if key else 0, len(payload)
    if length <= MAX_CONTROL_BYTES:
        head = bytes((first, mask_bit | length))
    elif length <= MAX_TWO_BYTES:
        head = bytes((first, mask_bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, mask_bit | 127)) + length.to_bytes(8, "big")
    return head + key + unmask(payload, key)
