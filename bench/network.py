"""Reads as a network makes them: messages in pieces with pauses, in TLS records, and several at once; and those of GPT-Live.

On loopback each write of the generator is one read of the contender, so that every read would be a whole message.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.endpoints import Endpoint

_PAUSE_SECONDS: Final = 0.001  # longer than a contender needs for a piece, so that each piece is a read of its own
_SEED: Final = 12


@dataclass(frozen=True, slots=True)
class Shape:
    """How both ends write: `messages` at once, cut into pieces of `sizes` bytes (from, to), a pause between two pieces."""

    text: str
    messages: int = 1
    sizes: tuple[int, int] | None = None
    upstreams: tuple[str, ...] = ("plain", "tls")
    api: str = "realtime"

    @property
    def is_paced(self) -> bool:
        """Whether a write differs from a message."""
        return self.messages > 1 or self.sizes is not None


WHOLE: Final = Shape("one message in each write")
SHAPES: Final = {
    "segments": Shape("each message in pieces of 1,448 bytes, a millisecond apart", sizes=(1448, 1448)),
    "records": Shape(
        "five messages in pieces of 1.4 to 16 kB, a millisecond apart, each a TLS record",
        messages=5,
        sizes=(1400, 16_384),
        upstreams=("tls",),
    ),
    "bursts": Shape("five messages in one write", messages=5, upstreams=("plain",)),
    "live": Shape(
        "GPT-Live: each 100 ms a message of 6,400 characters of audio in both directions; from upstream 5 transcripts each\n"
        "  second and the usage each 15 s; one message in each write",
        api="live",
    ),
}
"""Beside `WHOLE`. Shapes of an API have the same number of messages per second."""


class PacedWriter:
    """Writes for many endpoints in one shape. What has been started is finished, also after the sending has stopped."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        rng = random.Random(_SEED)  # noqa: S311 - sizes of pieces, no secret
        low, high = shape.sizes or (0, 0)
        self._sizes: Iterator[int] = itertools.repeat(low) if low == high else iter(lambda: rng.randint(low, high), 0)
        self._waiting: dict[Endpoint, deque[bytes]] = {}
        self._loop = asyncio.get_running_loop()

    def send(self, end: Endpoint) -> None:
        """Send the next messages of an endpoint."""
        data = b"".join(end.next_frame() for _ in range(self._shape.messages))
        pieces = deque(self._cut(data)) if self._shape.sizes else deque((data,))
        if end in self._waiting:  # this process is late
            self._waiting[end] += pieces
            return
        end.write(pieces.popleft())
        if pieces:
            end.is_within_frame = True
            if not self._waiting:
                self._loop.call_later(_PAUSE_SECONDS, self._write_pieces)
            self._waiting[end] = pieces

    def _cut(self, data: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(data):
            size = next(self._sizes)
            yield data[at : at + size]
            at += size

    def _write_pieces(self) -> None:
        for end, pieces in list(self._waiting.items()):
            end.write(pieces.popleft())
            if not pieces:
                end.is_within_frame = False
                del self._waiting[end]
        if self._waiting:
            self._loop.call_later(_PAUSE_SECONDS, self._write_pieces)
