"""WebSocket frames for the load generator, built and parsed with as little work as Python allows.

A contender may fragment, join or mask frames again, so that they are parsed as RFC 6455 defines them, without assumptions
about the boundaries of reads. A frame above LARGE_BYTES is passed on in pieces: joining 15 MiB would block this process,
and with it the clock of every other session.
"""

from typing import Final

from websockets.speedups import apply_mask

LARGE_BYTES: Final = 65_536
CONTINUATION: Final = 0x0
TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_FIN: Final = 0x80
_MASKED: Final = 0x80
_TWO_BYTES: Final = 126
_EIGHT_BYTES: Final = 127


def frame_head(opcode: int, length: int, key: bytes = b"", *, is_last: bool = True) -> bytes:
    """The header of a frame, with the masking key if there is one; not `is_last`: a fragment that others follow."""
    first, masked = (_FIN if is_last else 0) | opcode, _MASKED if key else 0
    if length < _TWO_BYTES:
        return bytes((first, masked | length)) + key
    if length <= 0xFFFF:  # noqa: PLR2004 - the largest length in two bytes
        return bytes((first, masked | _TWO_BYTES)) + length.to_bytes(2, "big") + key
    return bytes((first, masked | _EIGHT_BYTES)) + length.to_bytes(8, "big") + key


def mask(data: bytes, key: bytes, at: int = 0) -> bytes:
    """Mask or unmask data whose first byte is at position `at` of the payload."""
    offset = at % 4
    return apply_mask(data, key[offset:] + key[:offset]) if key else data


def build_frame(opcode: int, payload: bytes, key: bytes = b"") -> bytes:
    """An unfragmented frame."""
    return frame_head(opcode, len(payload), key) + mask(payload, key)


class FrameReader:
    """Parses a stream of bytes into messages; subclasses handle them."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._need = 2  # bytes needed before another frame can be parsed
        self._parts: list[bytes] = []  # the frames so far of a message in several small frames
        self._large_left = 0
        self._large_key = b""
        self._large_at = 0
        self._large_fin = False

    def message(self, payload: bytes) -> None:
        """A complete message arrived."""
        raise NotImplementedError

    def piece(self, payload: bytes, *, is_last: bool) -> None:
        """A piece of a large message arrived."""
        raise NotImplementedError

    def control(self, opcode: int, payload: bytes) -> None:
        """A control frame arrived."""
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        """Parse the next bytes of the stream."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end = 0, len(data)
        while at < end:
            if self._large_left:
                at = self._feed_large(data, at)
                continue
            consumed = self._feed_frame(data, at, end)
            if not consumed:
                break
            at += consumed
        if at < end:
            self._rest += data[at:]

    def _feed_frame(self, data: bytes, at: int, end: int) -> int:
        """Parse one frame; returns its length, 0 if it is incomplete."""
        self._need = 2
        if end - at < 2:  # noqa: PLR2004 - the shortest header
            return 0
        length, masked, head = data[at + 1] & 0x7F, data[at + 1] & _MASKED, 2
        if length >= _TWO_BYTES:
            head = 4 if length == _TWO_BYTES else 10
            if end - at < head:
                self._need = head
                return 0
            length = int.from_bytes(data[at + 2 : at + head], "big")
        key = b""
        if masked:
            key = data[at + head : at + head + 4]
            head += 4
        if end - at < head:
            self._need = head
            return 0
        first = data[at]
        if length > LARGE_BYTES:
            self._large_left, self._large_key, self._large_at = length, key, 0
            self._large_fin = bool(first & _FIN)
            return head
        if end - at < head + length:
            self._need = head + length
            return 0
        payload = data[at + head : at + head + length]
        self._handle_frame(first, apply_mask(payload, key) if key else payload)
        return head + length

    def _handle_frame(self, first: int, payload: bytes) -> None:
        if first & 0x08:
            self.control(first & 0x0F, payload)
        elif first & _FIN and not self._parts:
            self.message(payload)
        else:
            self._parts.append(payload)
            if first & _FIN:
                parts, self._parts = self._parts, []
                self.message(b"".join(parts))

    def _feed_large(self, data: bytes, at: int) -> int:
        chunk = data[at : at + self._large_left] if at or len(data) > self._large_left else data
        self._large_left -= len(chunk)
        plain = mask(chunk, self._large_key, self._large_at)
        self._large_at += len(chunk)
        self.piece(plain, is_last=not self._large_left and self._large_fin)
        return at + len(chunk)
