"""The chains of the long run find every kind of difference, and its messages have every kind of frame."""

from collections.abc import Callable
from typing import Final

import pytest

from bench.chains import ChainedIncoming, ChainedOutgoing
from bench.wire import LARGE_BYTES, PING, FrameReader

KEY: Final = b"abcZ"
COUNT: Final = 400


class Receiver(FrameReader):
    """Collects the messages of a stream and checks them."""

    def __init__(self, *, is_masked: bool = True) -> None:
        super().__init__()
        self.incoming = ChainedIncoming(7, is_masked=is_masked)
        self.messages: list[bytes] = []
        self.opcodes: list[int] = []
        self.pieces = 0

    def message(self, payload: bytes) -> None:
        """Check it."""
        self.messages.append(payload)
        assert self.incoming.receive(payload, 0)

    def piece(self, payload: bytes, *, is_last: bool) -> None:
        """Check a large one at its last piece."""
        self.pieces += 1
        self.incoming.receive_piece(payload, 0, is_last=is_last)

    def control(self, opcode: int, payload: bytes) -> None:
        """Count it."""
        self.opcodes.append(opcode)


@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("piece", [1 << 30, 1448])
def test_chains_of_both_ends_are_equal(key: bytes, piece: int) -> None:
    """However the stream is cut. All kinds of messages occur."""
    outgoing, receiver = ChainedOutgoing(7, key=key), Receiver(is_masked=bool(key))
    for _ in range(COUNT):
        frames = outgoing.next(0)
        for at in range(0, len(frames), piece):
            receiver.feed(frames[at : at + piece])

    assert (COUNT, outgoing.chain) == (receiver.incoming.received, receiver.incoming.chain)
    assert "" == receiver.incoming.first_difference
    assert receiver.pieces > 0
    assert PING in receiver.opcodes
    assert max(map(len, receiver.messages)) > LARGE_BYTES  # in fragments
    assert min(map(len, receiver.messages)) < 300


@pytest.mark.parametrize(
    ("damage", "received", "disordered"),
    [
        pytest.param(lambda messages: [*messages[:3], *messages[4:]], 9, 0, id="lost"),
        pytest.param(lambda messages: [*messages[:4], *messages[3:]], 11, 1, id="repeated"),
        pytest.param(lambda messages: [*messages[:3], messages[4], messages[3], *messages[5:]], 10, 1, id="reordered"),
        pytest.param(lambda messages: [*messages[:3], messages[3][:-3] + b'!"}', *messages[4:]], 10, 0, id="changed"),
        pytest.param(lambda messages: [*messages[:9], messages[9][:-3] + b'!"}'], 10, 0, id="last changed"),
    ],
)
def test_every_difference_is_found(
    damage: Callable[[list[bytes]], list[bytes]], received: int, disordered: int
) -> None:
    """The chains differ from then on, and the first difference is named; behind the last message the chains alone show it."""
    outgoing, receiver = ChainedOutgoing(7, key=KEY), Receiver()
    whole = Receiver()
    for _ in range(10):
        whole.feed(outgoing.next(0))
    assert not whole.pieces  # none is large
    for message in damage(whole.messages):
        receiver.message(message)

    assert whole.incoming.chain != receiver.incoming.chain
    assert (received, disordered) == (receiver.incoming.received, receiver.incoming.disordered)
    assert bool(receiver.incoming.first_difference) == (damage(whole.messages)[:9] != whole.messages[:9])


def test_message_of_another_session_is_found() -> None:
    """It counts as out of order."""
    receiver = Receiver()
    receiver.feed(ChainedOutgoing(8, key=KEY).next(0))

    assert 1 == receiver.incoming.disordered
    assert "00008" in receiver.incoming.first_difference
