"""The messages of a session and their verification: session, number and time in each, and a running CRC per direction.

A message is a real event whose base64 begins with a mark and a stamp of digits, which are valid base64. Only the stamp
differs between messages, so that building one costs less than sending it. Both endpoints keep a running CRC of what they
sent or received (the chain): after a lost, repeated, changed or reordered message the two never agree again.
"""

import base64
import json
import random
from array import array
from dataclasses import dataclass
from functools import cache
from typing import Final
from zlib import crc32

from bench.wire import TEXT, frame_head, mask

MARK: Final = b"RTRB"
STAMP_BYTES: Final = 32  # five digits of session, eight of number, nineteen of nanoseconds
_SESSION_AND_NUMBER: Final = 13
_HEAD_BYTES: Final = 512  # the mark is within these

UP_VALUE_BYTES: Final = 2_644  # 41 ms of speech as base64; the message is 2.7 kB
DOWN_VALUE_BYTES: Final = 6_280
LARGE_VALUE_BYTES: Final = 15 * 1024 * 1024 - 512  # the provider's limit is 15 MiB for the message
_SEED: Final = 11


@dataclass(frozen=True, slots=True)
class Template:
    """An event with a place for the stamp: `before`, stamp, `after`; `value_bytes` is the length of its base64."""

    before: bytes
    after: bytes
    value_bytes: int

    @property
    def length(self) -> int:
        """The length of the whole message."""
        return len(self.before) + STAMP_BYTES + len(self.after)


def speech(length: int) -> str:
    """Noise as base64, always the same."""
    return base64.b64encode(random.Random(_SEED).randbytes(length * 3 // 4)).decode()[:length]  # noqa: S311 - noise, no secret


def template(event: dict[str, object], field: str, value_bytes: int) -> Template:
    """An event whose last field, `field`, holds the base64."""
    text = json.dumps({**event, field: ""}, separators=(",", ":"))
    before = text[:-2].encode() + MARK
    value = speech(value_bytes - len(MARK) - STAMP_BYTES)
    return Template(before, value.encode() + b'"}', value_bytes)


_DELTA: Final[dict[str, object]] = {
    "type": "response.output_audio.delta",
    "event_id": "event_CaYr3k1TqvN0f8Zs5JmWb",
    "response_id": "resp_CaYr2xQ7dLh9Ue4PoAiKc",
    "item_id": "item_CaYr2bV6wGn1Rt8MyEzSj",
    "output_index": 0,
    "content_index": 0,
}
UP: Final = template({"type": "input_audio_buffer.append"}, "audio", UP_VALUE_BYTES)
DOWN: Final = template(_DELTA, "delta", DOWN_VALUE_BYTES)


@cache
def large_templates() -> tuple[Template, Template]:
    """One message of 15 MiB per direction; created on demand because of their size."""
    up = template({"type": "input_audio_buffer.append"}, "audio", LARGE_VALUE_BYTES)
    return up, template(_DELTA, "delta", LARGE_VALUE_BYTES)


class Outgoing:
    """One direction at its sender: builds frames and updates the chain."""

    def __init__(self, kind: Template, session: int, *, key: bytes, forwards_verbatim: bool) -> None:
        self.session = session
        self.sent = 0
        self.chain = 0
        self._key = key
        self._forwards_verbatim = forwards_verbatim
        self.use(kind)

    def use(self, kind: Template) -> None:
        """Send messages of this kind from now on."""
        at = len(kind.before)
        # Without the quotation mark and brace at the end of a message, which a contender may format otherwise.
        self._hashed_before = kind.before if self._forwards_verbatim else MARK
        self._hashed_after = kind.after if self._forwards_verbatim else kind.after[:-2]
        self._head = frame_head(TEXT, kind.length, self._key) + mask(kind.before, self._key)
        self._tail = mask(kind.after, self._key, at + STAMP_BYTES)
        self._stamp_at = at

    def next(self, now: int) -> bytes:
        """The next frame, stamped with this time in nanoseconds."""
        stamp = b"%05d%08d%019d" % (self.session, self.sent, now)
        self.sent += 1
        self.chain = crc32(self._hashed_after, crc32(stamp, crc32(self._hashed_before, self.chain)))
        return b"".join((self._head, mask(stamp, self._key, self._stamp_at), self._tail))


class Incoming:
    """One direction at its receiver: checks number and order, updates the chain and records the latency of each message."""

    def __init__(self, kind: Template, latencies: "array[int]", *, forwards_verbatim: bool) -> None:
        self.session = -1
        self.received = 0
        self._expected = 0
        self.disordered = 0
        self.foreign = 0  # messages that the other endpoint did not send, such as those that a gateway adds
        self.chain = 0
        self.latencies = latencies
        self._value_bytes = kind.value_bytes
        self._forwards_verbatim = forwards_verbatim
        self._large_head = b""  # the first bytes of a large message, which contain its stamp

    def receive(self, payload: bytes, now: int) -> bool:
        """Check a message; returns False if the other endpoint did not send it."""
        at = payload.find(MARK, 0, _HEAD_BYTES)
        if at < 0:
            self.foreign += 1
            return False
        self._check(payload, at, now)
        hashed = payload if self._forwards_verbatim else payload[at : at + self._value_bytes]
        self.chain = crc32(hashed, self.chain)
        return True

    def receive_piece(self, piece: bytes, now: int, *, is_last: bool) -> None:
        """Check a piece of a large message; its last piece sets the latency. The contender must forward verbatim."""
        if len(self._large_head) < _HEAD_BYTES:  # the first pieces may be short
            self._large_head += piece[:_HEAD_BYTES]
        self.chain = crc32(piece, self.chain)
        if is_last:
            head, self._large_head = self._large_head, b""
            self._check(head, head.find(MARK), now)

    def _check(self, payload: bytes, at: int, now: int) -> None:
        start = at + len(MARK)
        stamp_time = start + _SESSION_AND_NUMBER
        if payload[start:stamp_time] == b"%05d%08d" % (self.session, self._expected):
            self._expected += 1
        else:
            self._record_out_of_sequence(int(payload[start : start + 5]), int(payload[start + 5 : stamp_time]))
        self.received += 1
        self.latencies.append(now - int(payload[stamp_time : start + STAMP_BYTES]))

    def _record_out_of_sequence(self, session: int, number: int) -> None:
        if self.session < 0:
            self.session = session
        if session != self.session or number < self._expected:
            self.disordered += 1
        else:  # skipped messages count as lost, unless they arrive later
            self._expected = number + 1
