"""Messages of mixed sizes, whole and fragmented, each of which carries its number and the chain of all messages before it.

The receiver compares number and chain of each message with its own, so that a lost, repeated, changed or reordered message is
found at the next one, and the two chains never agree again.
"""

import random
from array import array
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from typing import Final

from bench.messages import DOWN, MARK, UP, Incoming, Outgoing, speech
from bench.wire import CONTINUATION, LARGE_BYTES, PING, TEXT, build_frame, frame_head, mask

_FILLER_BYTES: Final = 1 << 20
_SMALL_SHARE: Final = 0.45
_LARGE_SHARE: Final = 0.01  # the rest are as large as speech
_SMALL: Final = (0, 400)
_LARGE: Final = (LARGE_BYTES, 5 * LARGE_BYTES)
_FRAGMENTED_SHARE: Final = 0.06
_LARGE_FRAGMENTED_SHARE: Final = 0.7
_NUMBER: Final = slice(5, 13)  # of the stamp: session, number, chain
_STAMP_BYTES: Final = 29
_HEAD_BYTES: Final = 512  # the mark is within these


@cache
def _filler() -> bytes:
    return speech(_FILLER_BYTES).encode()


def _next_chain(chain: int, payload: bytes) -> int:
    return int.from_bytes(blake2b(payload, digest_size=8, key=chain.to_bytes(8, "big")).digest(), "big")


class ChainedOutgoing(Outgoing):
    """One direction at its sender."""

    def __init__(self, session: int, *, key: bytes) -> None:
        super().__init__(UP if key else DOWN, session, key=key, forwards_verbatim=True)
        kind = UP if key else DOWN
        self._before, self._voice_bytes = kind.before, kind.value_bytes
        self._filler = _filler()
        self._rng = random.Random(session)  # noqa: S311 - sizes, no secret
        self.sent_bytes = 0
        self.fragmented = self.large = 0

    def next(self, now: int) -> bytes:  # noqa: ARG002 - no time in it: all sessions send as fast as they can
        """Return the frames of the next message."""
        size, rng = self._size(), self._rng
        at = int(rng.random() * (_FILLER_BYTES - size))
        stamp = b"%05d%08d%016x" % (self.session, self.sent, self.chain)
        payload = b"".join((self._before, stamp, self._filler[at : at + size], b'"}'))
        self.sent += 1
        self.sent_bytes += len(payload)
        self.chain = _next_chain(self.chain, payload)
        is_large = len(payload) > LARGE_BYTES
        self.large += is_large
        if rng.random() < (_LARGE_FRAGMENTED_SHARE if is_large else _FRAGMENTED_SHARE):
            self.fragmented += 1
            return self._fragments(payload)
        return frame_head(TEXT, len(payload), self._key) + mask(payload, self._key)

    def _size(self) -> int:
        share = self._rng.random()
        if share < _SMALL_SHARE:
            return self._rng.randint(*_SMALL)
        return self._rng.randint(*_LARGE) if share > 1 - _LARGE_SHARE else self._voice_bytes

    def _fragments(self, payload: bytes) -> bytes:
        """Fragments of at most LARGE_BYTES, some of them empty, with a ping between two of them."""
        rng, length = self._rng, len(payload)
        cuts = [rng.randint(0, length) for _ in range(rng.randint(1, 3))]
        cuts = sorted({0, *range(0, length, LARGE_BYTES), *cuts} | {length}) + [length] * rng.randint(0, 1)
        frames, last = [], len(cuts) - 2
        for number, (start, end) in enumerate(pairwise(cuts)):
            opcode = CONTINUATION if number else TEXT
            frames += [
                frame_head(opcode, end - start, self._key, is_last=number == last),
                mask(payload[start:end], self._key),
            ]
        frames.insert(2 * rng.randint(0, last + 1), build_frame(PING, b"%d" % self.sent, self._key))
        return b"".join(frames)


class ChainedIncoming(Incoming):
    """One direction at its receiver."""

    def __init__(self, session: int, *, is_masked: bool) -> None:
        super().__init__(UP if is_masked else DOWN, array("q"), forwards_verbatim=True)
        self.session = session
        self.first_difference = ""
        self._pieces: list[bytes] = []

    def receive(self, payload: bytes, now: int) -> bool:  # noqa: ARG002 - no time in it
        """Check a message; returns False if the other endpoint did not send it."""
        at = payload.find(MARK, 0, _HEAD_BYTES)
        if at < 0:
            self.foreign += 1
            return False
        start = at + len(MARK)
        stamp = payload[start : start + _STAMP_BYTES]
        expected = b"%05d%08d%016x" % (self.session, self._expected, self.chain)
        if stamp == expected:
            self._expected += 1
        else:
            self.first_difference = self.first_difference or f"{stamp!r} where {expected!r} was due"
            self._record_out_of_sequence(int(stamp[: _NUMBER.start]), int(stamp[_NUMBER]))
        self.received += 1
        self.chain = _next_chain(self.chain, payload)
        return True

    def receive_piece(self, piece: bytes, now: int, *, is_last: bool) -> None:
        """Keep a piece of a large message; its last piece completes it."""
        self._pieces.append(piece)
        if is_last:
            payload, self._pieces = b"".join(self._pieces), []
            self.receive(payload, now)
