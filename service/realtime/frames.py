"""A single WebSocket frame (RFC 6455 section 5): opcodes, headers, masking, close payloads. Pure.

`scanner.py` parses a stream of frames.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar, Final, NamedTuple

from service.realtime.closing import CloseCode, is_sendable_close_code

MAX_CONTROL_BYTES: Final = 125
"""The longest payload of a control frame, and the longest whose length is in the second byte of the frame (section 5.2)."""
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
    """The peer broke the protocol or a limit. `code` is the close code for it, `detail` a static text."""

    def __init__(self, code: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Header(NamedTuple):
    """The header of a frame."""

    opcode: int
    fin: bool
    size: int  # of the header, in bytes
    length: int  # of the payload, in bytes
    key: bytes  # the masking key, empty if unmasked


def read_header(data: bytes, offset: int, *, masked: bool) -> Header | int:
    """Return the header at `offset`, or the number of its bytes that must be available before the next call.

    `masked`: the frame must be masked, else it must not be. Raises ProtocolError as soon as the offending byte is
    available. The masking key may be incomplete in the result, because nothing in it can be wrong.
    """
    available = len(data) - offset
    first = data[offset]
    opcode, fin = first & 0x0F, first >= 0x80  # noqa: PLR2004 - the highest bit
    if first & 0x70:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "reserved bit set without a negotiated extension")
    if opcode > Opcode.PONG or Opcode.BINARY < opcode < Opcode.CLOSE:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "reserved opcode")
    if opcode >= Opcode.CLOSE and not fin:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "fragmented control frame")
    if available < 2:  # noqa: PLR2004 - the two bytes that every header has
        return 2
    second = data[offset + 1]
    if (second >= 0x80) is not masked:  # noqa: PLR2004 - the highest bit
        raise ProtocolError(
            CloseCode.PROTOCOL_ERROR, "unmasked frame from a client" if masked else "masked frame from a server"
        )
    length, size = second & 0x7F, 2
    if opcode >= Opcode.CLOSE and length > MAX_CONTROL_BYTES:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "control frame payload exceeds 125 bytes")
    if length > MAX_CONTROL_BYTES:
        width, minimum = (2, MAX_CONTROL_BYTES + 1) if length == 126 else (8, MAX_TWO_BYTES + 1)  # noqa: PLR2004 - section 5.2
        size += width
        if available < size:
            return size
        length = int.from_bytes(data[offset + 2 : offset + size], "big")
        if length < minimum:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "frame length is not minimally encoded")
    if not masked:
        return Header(opcode, fin, size, length, b"")
    return Header(opcode, fin, size + 4, length, data[offset + size : offset + size + 4])


def check_fragmentation(opcode: int, *, message_open: bool) -> None:
    """Raise ProtocolError if a data frame begins a message inside another, or continues none (section 5.4)."""
    if opcode <= Opcode.BINARY and message_open is not (opcode == Opcode.CONTINUATION):
        raise ProtocolError(
            CloseCode.PROTOCOL_ERROR,
            "new message inside a fragmented message" if message_open else "continuation frame without a message",
        )


def check_close(payload: bytes) -> None:
    """Raise ProtocolError for a close payload that section 5.5.1 or 7.4 forbids."""
    if not payload:
        return
    if len(payload) == 1:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "close frame with a truncated code")
    if not is_sendable_close_code(int.from_bytes(payload[:2], "big")):
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "close frame with a forbidden code")
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise ProtocolError(CloseCode.INVALID_PAYLOAD, "close reason is not UTF-8") from None


def _mask_with_integers(key: bytes, data: bytearray) -> None:
    size = len(data)
    pad = (key * (size // 4 + 1))[:size]
    data[:] = (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


class Masking:
    """What XORs data with a key of four bytes. `wire.seam` replaces it by a compiled function, tens of times as fast."""

    in_place: ClassVar[Callable[[bytes, bytearray], object]] = _mask_with_integers


def unmask(payload: bytes, key: bytes) -> bytes:
    """XOR the payload with a four-byte masking key (section 5.3), which also masks. An empty key changes nothing."""
    if not key or not payload:
        return payload
    data = bytearray(payload)
    Masking.in_place(key, data)
    return bytes(data)


def build_frame(opcode: Opcode, payload: bytes, key: bytes = b"") -> bytes:
    """Return one unfragmented frame. `key` is a random four-byte masking key from a client, empty from a server."""
    first, mask_bit, length = 0x80 | opcode, 0x80 if key else 0, len(payload)
    if length <= MAX_CONTROL_BYTES:
        head = bytes((first, mask_bit | length))
    elif length <= MAX_TWO_BYTES:
        head = bytes((first, mask_bit | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, mask_bit | 127)) + length.to_bytes(8, "big")
    return head + key + unmask(payload, key)
