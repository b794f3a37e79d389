"""A leg under random reads, holds, receivers and ends: each byte is delivered once, in order, and the end after the last."""

import asyncio
import random
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st

from service.wire import turns
from service.wire.leg import SLICE_BYTES, HoldReason, Leg
from tests.support.recording_transport import new_leg

HOLDS: tuple[HoldReason, ...] = ("journal_full", "sink_full", "no_receiver")
SIZES = (1, 100, turns.HEAVY_SLICE_BYTES + 1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES)
ACTIONS = st.sampled_from(
    ["read", "read", "turn", "turn", "start", "heavy", "spent", "spent start", "eof", "lost"]
    + [f"{call} {reason}" for call in ("hold", "release") for reason in HOLDS]
)
MANY_TURNS = 2000


class StandingClock:
    """So no leg becomes heavy by what its delivery takes, and no heavy one light."""

    def perf_counter(self) -> float:
        """The time."""
        return 1000.0

    def thread_time(self) -> float:
        """The processor time."""
        return 1000.0


class Stream:
    """What a peer sends and what all receivers of the leg get, one after the other."""

    def __init__(self, seed: int, *, early_bytes: int) -> None:
        self.random = random.Random(seed)
        self.sent = bytearray()
        self.received = bytearray()
        self.leg, self.transport = new_leg(early_data=self.next_bytes(early_bytes))
        self.receiver: RandomReceiver | None = None
        self.is_ended = self.is_lost = False

    def next_bytes(self, size: int) -> bytes:
        """More that the peer sends."""
        data = self.random.randbytes(size)
        self.sent += data
        return data

    def start(self, *, is_random: bool = True) -> None:
        """Start another receiver."""
        self.receiver = RandomReceiver(self, is_random=is_random)
        self.leg.start(self.receiver, self.on_read if self.random.random() < 0.5 else None)

    def on_read(self, data: bytes) -> None:
        """Called by the transport. A pipe may forward at once what it gets so."""
        assert not self.leg.backlog
        self.leg.receive_read(data)

    def act(self, action: str) -> None:
        """Do something that an owner or a transport does."""
        leg = self.leg
        match action.split():
            case ["read"] if self.transport.reading and not self.is_ended:
                leg.data_received(self.next_bytes(self.random.choice(SIZES)))
            case ["start"]:
                self.start()
            case ["heavy"]:
                leg.debt.add(1.0)
            case ["spent", *start]:  # by other legs, or what is behind the start of this one
                leg._turns.uncharged_seconds = turns.READ_SECONDS
                leg.charge_look(0.0)
                assert leg._turns.is_spent
                if start:
                    self.start()
            case ["hold" | "release" as call, reason]:
                getattr(leg, call)(reason)
            case ["eof"] if not self.is_ended:
                self.is_ended = True
                leg.eof_received()
            case ["lost"] if not self.is_lost:
                self.is_ended = self.is_lost = True
                leg.connection_lost(None)


class RandomReceiver:
    """Puts some bytes back, holds its leg, or has another receiver started."""

    def __init__(self, stream: Stream, *, is_random: bool) -> None:
        self._stream = stream
        self._is_random = is_random
        self.received_at_end: int | None = None

    def receive(self, data: bytes) -> None:
        """Called by the leg."""
        stream, leg, random = self._stream, self._stream.leg, self._stream.random
        assert stream.receiver is self
        size = random.randint(1, len(data)) if self._is_random and random.random() < 0.3 else len(data)
        if size < len(data):
            leg.put_back(data[size:])
        stream.received += data[:size]
        if self._is_random and random.random() < 0.3:
            leg.hold(random.choice(HOLDS))
        if self._is_random and random.random() < 0.1:
            stream.start()

    def peer_lost(self) -> None:
        """Called by the leg."""
        self.received_at_end = len(self._stream.received)


async def drive(seed: int, early_bytes: int, actions: list[str]) -> None:
    """Act at random; then have everything delivered, and the connection ended and lost."""
    stream = Stream(seed, early_bytes=early_bytes)
    leg = stream.leg
    for action in actions:
        if action == "turn":
            await asyncio.sleep(0)
        else:
            stream.act(action)
        assert stream.sent.startswith(stream.received)
        assert not leg.backlog or not stream.transport.reading or stream.receiver is None
    stream.start(is_random=False)
    for reason in HOLDS:
        leg.release(reason)
    await turn_until_idle(leg)
    assert stream.sent == stream.received
    assert stream.transport.reading
    for end in ("eof", "lost"):
        stream.act(end)
    await turn_until_idle(leg)
    assert (leg._turns._waiting, leg._turns._paused) == ([], [])
    assert "perf_counter" == leg._turns.clock.__name__
    assert leg.closed.done()
    assert stream.receiver is not None
    assert len(stream.sent) == stream.receiver.received_at_end


async def turn_until_idle(leg: Leg) -> None:
    """Let a bounded number of turns pass while bytes wait, and those in which the end is reported."""
    for _ in range(MANY_TURNS):
        await asyncio.sleep(0)
        if not leg.backlog and leg.held_since is None:
            break
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@example(0, 5, ["release sink_full", "turn"])  # without a receiver
@given(st.integers(), st.sampled_from((0, 5, 2 * SLICE_BYTES)), st.lists(ACTIONS, max_size=40))
def test_each_byte_is_delivered_once_and_in_order(seed: int, early_bytes: int, actions: list[str]) -> None:
    """Whatever holds the leg meanwhile, and whichever receiver starts, also from within a delivery."""
    with patch.object(turns, "time", StandingClock()):
        asyncio.run(drive(seed, early_bytes, actions))
