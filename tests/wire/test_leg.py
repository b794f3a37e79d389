"""Legs over a transport that only records: frame boundaries, pongs, close frames, backpressure."""

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, MessageEnd
from service.wire import tcp
from service.wire.closing import PeerCloseReceiver, close_leg
from service.wire.leg import SLICE_BYTES, HoldReason
from service.wire.signs_of_life import MIN_PROGRESS_BYTES
from service.wire.turns import FRAMES_PER_DELIVERY, HEAVY_SECONDS, LOOK_SECONDS
from tests.support.harness import eventually
from tests.support.recording_transport import RecordingReceiver, new_leg


def summary(raw: bytes, *, masked: bool = False) -> list[Any]:
    """The frames in `raw`: control frames as opcode and payload, "data" for each message."""
    items = Scanner(masked=masked, max_message_bytes=1 << 30).feed(raw)
    assert all(isinstance(item, Chunk | MessageEnd | ControlFrame) for item in items)
    return [
        (item.opcode, item.payload) if isinstance(item, ControlFrame) else "data"
        for item in items
        if not isinstance(item, Chunk)
    ]


@pytest.mark.parametrize("masks", [False, True])
async def test_control_frames_wait_for_a_frame_boundary(masks: bool) -> None:
    """While a large frame is forwarded in pieces the relay writes none of its own; behind it, those that waited are sent."""
    leg, transport = new_leg(masks=masks)
    frame = build_frame(Opcode.TEXT, b"x" * 100_000, b"abcd" if masks else b"")
    leg.write(frame[:50_000], mid_frame=True)
    leg.send_control(Opcode.PING, b"p1")
    leg.send_control(Opcode.PONG, b"old")
    leg.send_control(Opcode.PONG, b"new")
    assert (False, frame[:50_000]) == (leg.can_send, bytes(transport.written))
    leg.write(frame[50_000:90_000], mid_frame=True)
    assert frame[:90_000] == transport.written
    leg.write(frame[90_000:])

    assert frame == transport.written[: len(frame)]
    assert ["data", (Opcode.PING, b"p1"), (Opcode.PONG, b"new")] == summary(bytes(transport.written), masked=masks)
    assert leg.can_send


async def test_full_leg_keeps_only_the_newest_pong() -> None:
    """A peer that sends pings and reads nothing costs the memory of one pong, which is sent when it reads again."""
    leg, transport = new_leg()
    leg.pause_writing()
    for number in range(1000):
        leg.send_control(Opcode.PONG, b"%d" % number)
    assert b"" == transport.written
    leg.resume_writing()

    assert [(Opcode.PONG, b"999")] == summary(bytes(transport.written))


async def test_nothing_is_written_after_close() -> None:
    """No data, event, ping or pong, no second close frame, no pong that was waiting."""
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


async def test_close_inside_a_frame_aborts() -> None:
    """The peer would read a close frame as payload of the open frame: it is not sent, and the socket is aborted."""
    leg, transport = new_leg()
    leg.write(b"\x81\x7f", mid_frame=True)

    assert not leg.send_close(1000, "")
    closing = asyncio.create_task(close_leg(leg, 1000, "", deadline=asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    assert (True, b"\x81\x7f") == (transport.aborted, bytes(transport.written))
    leg.connection_lost(None)
    assert not await closing  # the peer was not informed


@pytest.mark.parametrize("unsent", [0, 100])
async def test_peer_that_keeps_its_end_open_is_aborted_at_the_deadline(unsent: int) -> None:
    """It counts as informed if the close frame has left the process, whether or not it answers."""
    leg, transport = new_leg()
    transport.get_write_buffer_size = lambda: unsent  # type: ignore[method-assign]  # as of a full socket
    closing = asyncio.create_task(close_leg(leg, 1001, "", deadline=asyncio.get_running_loop().time() + 0.05))
    await eventually(lambda: transport.aborted)
    leg.connection_lost(None)

    assert (unsent == 0) is await closing


async def test_peer_that_disconnects_before_close_counts_as_informed() -> None:
    """The close frame could not be sent, but the peer was not aborted either."""
    leg, transport = new_leg()
    leg.eof_received()
    transport.close()
    closing = asyncio.create_task(close_leg(leg, 1001, "", deadline=asyncio.get_running_loop().time() + 5))
    await asyncio.sleep(0)
    leg.connection_lost(None)

    assert await closing


async def test_reading_resumes_when_no_hold_reason_is_left() -> None:
    """Releasing a reason that does not hold has no effect."""
    leg, transport = new_leg()
    leg.hold("no_receiver")
    leg.hold("sink_full")
    leg.release("no_receiver")
    assert (True, False) == (leg.held_since is not None, transport.reading)
    leg.release("sink_full")
    assert (None, True) == (leg.held_since, transport.reading)
    leg.release("sink_full")
    assert transport.reading


async def test_large_read_is_delivered_in_slices() -> None:
    """In later turns of the event loop, in order, and without another read in between."""
    leg, transport = new_leg()
    receiver = RecordingReceiver()
    leg.start(receiver)
    read = bytes(range(256)) * 800
    leg.data_received(b"small" * 1000)
    assert transport.reading
    leg.data_received(read)
    leg.data_received(b"behind it")
    assert (5000, False) == (len(receiver.received), transport.reading)
    await eventually(lambda: transport.reading)
    assert b"small" * 1000 + read + b"behind it" == bytes(receiver.received)


async def test_receiver_puts_back_what_it_leaves() -> None:
    """It is delivered in later turns, before what was read behind it, the end of file included."""
    leg, transport = new_leg()
    received, turns = bytearray(), 0

    class Greedless(RecordingReceiver):
        def receive(self, data: bytes) -> None:
            nonlocal turns
            turns += 1
            received.extend(data[:1000])
            if data[1000:]:
                leg.put_back(data[1000:])

    receiver = Greedless()
    leg.start(receiver)
    read = bytes(range(256)) * 16
    leg.data_received(read)
    leg.data_received(b"behind it")
    leg.eof_received()
    assert (1000, False, 0) == (len(received), transport.reading, receiver.lost)
    await eventually(lambda: bool(receiver.lost))

    assert read + b"behind it" == bytes(received)
    assert (5, True) == (turns, transport.reading)


async def test_close_frame_is_found_in_a_later_delivery() -> None:
    """Behind more frames than one delivery parses."""
    leg, transport = new_leg()
    leg.start(PeerCloseReceiver(leg, Scanner(masked=True, max_message_bytes=1000)))
    leg.data_received(build_frame(Opcode.PONG, b"", b"abcd") * (2 * FRAMES_PER_DELIVERY))
    leg.data_received(build_frame(Opcode.CLOSE, close_payload(1000), b"abcd"))
    assert not transport.closing
    await eventually(lambda: transport.closing)


async def test_end_of_file_delivers_the_remaining_slices_first() -> None:
    """The other hold reasons stay."""
    leg, transport = new_leg()
    receiver = RecordingReceiver()
    leg.start(receiver)
    leg.hold("sink_full")
    leg.data_received(b"x" * 3 * SLICE_BYTES)
    leg.eof_received()
    assert (0, 0) == (len(receiver.received), receiver.lost)
    await eventually(lambda: bool(receiver.lost))
    assert (3 * SLICE_BYTES, False) == (len(receiver.received), transport.reading)


async def test_peek_and_disconnect_wait_for_the_remaining_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been read comes before what the kernel still holds: unread bytes, or FIN."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        leg, transport = new_leg()
        monkeypatch.setattr(transport, "get_extra_info", {"socket": ours}.get)  # a real socket behind the transport
        leg.start(RecordingReceiver())
        theirs.send(b"unread")
        theirs.close()
        assert (b"unread", True) == (leg.peek(), leg.peer_disconnected())
        leg.data_received(b"x" * 2 * SLICE_BYTES)
        assert (b"", False) == (leg.peek(), leg.peer_disconnected())
        await eventually(lambda: leg.held_since is None)
        assert (b"unread", True) == (leg.peek(), leg.peer_disconnected())
        leg.debt.add(2 * HEAVY_SECONDS)
        assert (b"unread", True) == (leg.peek(), leg.peer_disconnected())  # a busy machine makes legs heavy as well
        leg.charge_look(2 * LOOK_SECONDS)
        assert (b"", True) == (leg.peek(), leg.peer_disconnected())  # a flood is not searched all the time


async def test_what_was_read_of_a_client_that_has_gone_is_not_delivered_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The read of a flood takes longer than the second in which its client connects again."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        leg, transport = new_leg()
        monkeypatch.setattr(transport, "get_extra_info", {"socket": ours}.get)
        leg.start(RecordingReceiver())
        leg.data_received(b"x" * 2 * SLICE_BYTES)
        theirs.close()
        assert not leg.peer_disconnected()
        monkeypatch.setattr("service.wire.signs_of_life.DELIVERY_SECONDS", 0.0)
        assert leg.peer_disconnected()
        await eventually(lambda: leg.held_since is None)


@pytest.mark.parametrize(("masks", "is_alive"), [(False, True), (True, False)])
async def test_acknowledgements_count_as_a_sign_of_life_of_clients(
    masks: bool, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an upstream never do. `due_ending` limits for how long."""
    leg, _ = new_leg(masks=masks)
    acknowledged = iter((1, MIN_PROGRESS_BYTES, 2 * MIN_PROGRESS_BYTES))
    monkeypatch.setattr(tcp, "acknowledged_bytes", lambda _: next(acknowledged))
    leg.last_alive_at -= 30
    leg.full_since = since = leg.last_alive_at
    leg.check_progress()
    leg.check_progress()
    assert since == leg.full_since  # too little
    leg.check_progress()

    assert leg.full_since > since
    assert is_alive is (leg.last_alive_at > since)


async def test_time_while_held_does_not_count_as_silence() -> None:
    """The peer may have sent something that was not read meanwhile."""
    leg, _ = new_leg()
    leg.hold("sink_full")
    leg.last_alive_at -= 60
    leg.release("sink_full")

    assert asyncio.get_running_loop().time() - leg.last_alive_at < 30


async def test_start_delivers_early_data_and_then_the_end_of_file() -> None:
    """Both arrived before there was a receiver."""
    leg, _ = new_leg(early_data=b"one ")
    leg.data_received(b"two ")
    leg.eof_received()
    receiver = RecordingReceiver()
    leg.start(receiver)

    assert (b"one two ", 1) == (bytes(receiver.received), receiver.lost)


async def test_leg_without_a_receiver_reads_once() -> None:
    """With uvloop it would read up to 8 MB in a row before the receiver starts. Once it has, the leg is read again."""
    leg, transport = new_leg(early_data=b"early ")
    leg.data_received(b"x" * SLICE_BYTES)
    assert not transport.reading
    receiver = RecordingReceiver()
    leg.start(receiver)

    await eventually(lambda: transport.reading)
    assert b"early " + b"x" * SLICE_BYTES == bytes(receiver.received)


@pytest.mark.parametrize("reason", ["no_receiver", "journal_full"])
async def test_backlog_waits_for_what_the_next_bytes_would_be_kept_for(reason: HoldReason) -> None:
    """Kept as items, small frames take thirty times their bytes. The end comes after them, and a close frame is found."""
    leg, transport = new_leg()

    class Holding(RecordingReceiver):
        def receive(self, data: bytes) -> None:
            super().receive(data)
            leg.hold(reason)

    receiver = Holding()
    leg.start(receiver)
    leg.data_received(b"x" * 10 * SLICE_BYTES)
    await eventually(lambda: receiver.received)
    delivered = len(receiver.received)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (delivered, False) == (len(receiver.received), transport.reading)
    assert delivered <= SLICE_BYTES
    assert 10 * SLICE_BYTES == delivered + len(leg.peek())

    leg.eof_received()
    assert leg.peer_disconnected()
    last = RecordingReceiver()
    leg.start(last)
    leg.release(reason)
    await eventually(lambda: last.lost)
    assert 10 * SLICE_BYTES == delivered + len(last.received)


async def test_receiver_that_holds_its_first_bytes_stays_held() -> None:
    """As that of a dial does, whose first event may have arrived with the 101."""
    leg, transport = new_leg(early_data=b"event")

    class Holding(RecordingReceiver):
        def receive(self, data: bytes) -> None:
            super().receive(data)
            leg.hold("no_receiver")

    leg.start(Holding())

    assert not transport.reading


async def test_peek_returns_nothing_without_a_free_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peeking duplicates the descriptor of the socket."""
    left, right = socket.socketpair()
    with left, right:
        right.send(b"unread")
        leg, transport = new_leg()
        transport._extra = {"socket": left}  # type: ignore[attr-defined]  # read by get_extra_info
        assert b"unread" == leg.peek() == leg.peek()

        def out_of_descriptors(_fd: int) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(os, "dup", out_of_descriptors)
        assert b"" == leg.peek()
