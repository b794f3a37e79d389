"""One leg: frame boundaries, pongs, CLOSE, holding back. Over a transport that only records."""

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, Completed, Control
from service.wire.closing import close_leg
from service.wire.leg import PROGRESS_BYTES, SLICE_BYTES, Leg
from tests.support.harness import eventually


class RecordingTransport(asyncio.Transport):
    """Keeps what is written and reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False
        self.aborted = False
        self.reading = True

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0

    def is_closing(self) -> bool:
        """Whether close or abort was called."""
        return self.closing

    def is_reading(self) -> bool:
        """Whether reading is not paused."""
        return self.reading

    def pause_reading(self) -> None:
        """Remember it."""
        self.reading = False

    def resume_reading(self) -> None:
        """Remember it."""
        self.reading = True

    def close(self) -> None:
        """Remember it."""
        self.closing = True

    def abort(self) -> None:
        """Remember it."""
        self.closing = self.aborted = True


class Ear:
    """A receiver that remembers."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.lost = 0

    def receive(self, data: bytes) -> None:
        """Remember it."""
        self.heard += data

    def peer_lost(self) -> None:
        """Count it."""
        self.lost += 1


def new_leg(*, early: bytes = b"", masks: bool = False) -> tuple[Leg, RecordingTransport]:
    """A leg and what it writes."""
    transport = RecordingTransport()
    return Leg(transport, asyncio.Protocol(), early, masks=masks), transport


def controls(raw: bytes, *, masked: bool = False) -> list[Any]:
    """The frames in `raw`, in short: control frames, and "data" for each message."""
    items = Scanner(masked=masked, max_message_bytes=1 << 30).feed(raw)
    assert all(isinstance(item, Chunk | Completed | Control) for item in items)
    return [
        (item.opcode, item.payload) if isinstance(item, Control) else "data"
        for item in items
        if not isinstance(item, Chunk)
    ]


@pytest.mark.parametrize("masks", [False, True])
async def test_control_frames_wait_for_a_frame_boundary(masks: bool) -> None:
    """Inside a large frame that goes on piece by piece nothing of our own is written; behind it, all that waited is."""
    leg, transport = new_leg(masks=masks)
    frame = build_frame(Opcode.TEXT, b"x" * 100_000, b"abcd" if masks else b"")
    leg.write(frame[:50_000], mid_frame=True)
    leg.send_control(Opcode.PING, b"p1")
    leg.send_control(Opcode.PONG, b"old")
    leg.send_control(Opcode.PONG, b"new")
    assert (False, frame[:50_000]) == (leg.can_speak, bytes(transport.written))
    leg.write(frame[50_000:90_000], mid_frame=True)
    assert frame[:90_000] == transport.written
    leg.write(frame[90_000:])

    assert frame == transport.written[: len(frame)]
    assert ["data", (Opcode.PING, b"p1"), (Opcode.PONG, b"new")] == controls(bytes(transport.written), masked=masks)
    assert leg.can_speak


async def test_only_the_newest_pong_waits_for_a_peer_that_does_not_read() -> None:
    """A peer that pings and reads nothing costs one pong, sent when it reads again."""
    leg, transport = new_leg()
    leg.pause_writing()
    for number in range(1000):
        leg.send_control(Opcode.PONG, b"%d" % number)
    assert b"" == transport.written
    leg.resume_writing()

    assert [(Opcode.PONG, b"999")] == controls(bytes(transport.written))


async def test_nothing_follows_close() -> None:
    """After CLOSE no data, event, ping or pong is written, nor a second CLOSE, nor a pong that had waited."""
    leg, transport = new_leg()
    leg.pause_writing()
    leg.send_control(Opcode.PONG, b"waits")
    assert leg.send_close(1000, "bye")
    leg.write(build_frame(Opcode.TEXT, b"{}"))
    leg.send_event(b"{}")
    leg.send_control(Opcode.PING, b"")
    leg.send_control(Opcode.PONG, b"")
    leg.resume_writing()

    assert leg.send_close(1001, "again")
    assert build_frame(Opcode.CLOSE, close_payload(1000, "bye")) == transport.written


async def test_no_close_inside_a_frame() -> None:
    """A CLOSE in the middle of a frame would be read as its payload: it is refused and the socket is aborted."""
    leg, transport = new_leg()
    leg.write(b"\x81\x7f", mid_frame=True)

    assert not leg.send_close(1000, "")
    closing = asyncio.create_task(close_leg(leg, 1000, "", deadline=asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    assert (True, b"\x81\x7f") == (transport.aborted, bytes(transport.written))
    leg.connection_lost(None)
    assert not await closing  # nobody was told


@pytest.mark.parametrize("unsent", [0, 100])
async def test_a_peer_that_does_not_hang_up(unsent: int) -> None:
    """A CLOSE that has left the process was said, whether or not the peer answers; one that waits unsent was not."""
    leg, transport = new_leg()
    transport.get_write_buffer_size = lambda: unsent  # type: ignore[method-assign]  # what a full socket says
    closing = asyncio.create_task(close_leg(leg, 1001, "", deadline=asyncio.get_running_loop().time() + 0.05))
    await eventually(lambda: transport.aborted)
    leg.connection_lost(None)

    assert (unsent == 0) is await closing


async def test_a_peer_that_has_hung_up_by_itself_was_not_cut() -> None:
    """Whoever is gone before a CLOSE can be said does not count as cut."""
    leg, transport = new_leg()
    leg.eof_received()
    transport.close()
    closing = asyncio.create_task(close_leg(leg, 1001, "", deadline=asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    leg.connection_lost(None)

    assert await closing


async def test_reading_resumes_when_nobody_holds() -> None:
    """Several may hold a leg; it is read again when the last lets go."""
    leg, transport = new_leg()
    leg.hold("first_event")
    leg.hold("sink_full")
    leg.release("first_event")
    assert (True, False) == (leg.held_since is not None, transport.reading)
    leg.release("sink_full")
    assert (None, True) == (leg.held_since, transport.reading)
    leg.release("sink_full")
    assert transport.reading


async def test_a_firehose_takes_turns() -> None:
    """A large read is handed on slice by slice, one in each turn of the loop; order is kept, and nothing read meanwhile."""
    leg, transport = new_leg()
    ear = Ear()
    leg.start(ear)
    read = bytes(range(256)) * 800
    leg.data_received(b"small" * 1000)
    assert transport.reading
    leg.data_received(read)
    leg.data_received(b"behind it")
    assert (5000 + SLICE_BYTES, False) == (len(ear.heard), transport.reading)
    while not transport.reading:
        heard = len(ear.heard)
        await asyncio.sleep(0)
        assert heard < len(ear.heard) <= heard + SLICE_BYTES
    assert b"small" * 1000 + read + b"behind it" == bytes(ear.heard)


async def test_slices_are_not_lost_with_the_peer() -> None:
    """Who hangs up behind a large read is heard to the end first; who holds the leg goes on holding it."""
    leg, transport = new_leg()
    ear = Ear()
    leg.start(ear)
    leg.hold("sink_full")
    leg.data_received(b"x" * 3 * SLICE_BYTES)
    leg.eof_received()
    assert (3 * SLICE_BYTES, 1) == (len(ear.heard), ear.lost)
    await asyncio.sleep(0)
    assert not transport.reading


async def test_what_was_read_comes_before_what_waits_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """While slices are handed on nobody looks ahead, and a peer that has hung up behind them is not gone yet."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        leg, transport = new_leg()
        monkeypatch.setattr(transport, "get_extra_info", {"socket": ours}.get)  # a real socket under it
        leg.start(Ear())
        theirs.send(b"unread")
        theirs.close()
        assert (b"unread", True) == (leg.peek(), leg.peer_is_gone())
        leg.data_received(b"x" * 2 * SLICE_BYTES)
        assert (b"", False) == (leg.peek(), leg.peer_is_gone())
        await asyncio.sleep(0)
        assert (b"unread", True) == (leg.peek(), leg.peer_is_gone())


@pytest.mark.parametrize(("masks", "spoke", "heard"), [(False, 60, True), (False, 121, False), (True, 60, False)])
async def test_who_takes_what_it_is_sent_is_alive(
    masks: bool, spoke: float, heard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For two minutes a client's acknowledgements count as a sign of life; an upstream's never do."""
    leg, _ = new_leg(masks=masks)
    taken = iter((1, PROGRESS_BYTES, 2 * PROGRESS_BYTES))
    monkeypatch.setattr(leg, "_acknowledged_bytes", lambda: next(taken))
    leg.heard_at -= 30
    leg._spoke_at -= spoke
    leg.full_since = since = leg.heard_at
    leg.watch_progress()
    leg.watch_progress()
    assert since == leg.full_since  # too little
    leg.watch_progress()

    assert leg.full_since > since
    assert heard is (leg.heard_at > since)


async def test_silence_is_not_counted_while_we_do_not_listen() -> None:
    """A leg that is let go counts as heard, since whatever its peer said meanwhile was left unread."""
    leg, _ = new_leg()
    leg.hold("sink_full")
    leg.heard_at -= 60
    leg.release("sink_full")

    assert asyncio.get_running_loop().time() - leg.heard_at < 1


async def test_early_bytes_and_an_early_end_reach_the_receiver_in_order() -> None:
    """What came before anybody listened is handed on first, then that the peer is gone."""
    leg, _ = new_leg(early=b"one ")
    leg.data_received(b"two ")
    leg.eof_received()
    ear = Ear()
    leg.start(ear)

    assert (b"one two ", 1) == (bytes(ear.heard), ear.lost)


async def test_looking_ahead_survives_a_lack_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """When no descriptor is left, what a held peer has sent is unknown for now, and nothing fails."""
    left, right = socket.socketpair()
    with left, right:
        right.send(b"unread")
        leg, transport = new_leg()
        transport._extra = {"socket": left}  # type: ignore[attr-defined]  # where get_extra_info looks
        assert b"unread" == leg.peek() == leg.peek()

        def out_of_descriptors(_fd: int) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "dup", out_of_descriptors)
        assert b"" == leg.peek()
