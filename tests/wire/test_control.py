"""Readers that are not pipes: control frames, and the wait for a peer's close frame."""

import pytest

from service.realtime.closing import CloseCode, close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Violation
from service.wire.closing import PeerCloseReceiver
from service.wire.control import StreamEnd, handle_control
from tests.support.recording_transport import new_leg


@pytest.mark.parametrize(
    ("item", "answer", "end"),
    [
        (ControlFrame(Opcode.PING, b"p"), build_frame(Opcode.PONG, b"p"), None),
        (ControlFrame(Opcode.PONG, b"p"), b"", None),
        (Chunk(b"data"), b"", None),
        (
            ControlFrame(Opcode.CLOSE, close_payload(4000, "a.b")),
            build_frame(Opcode.CLOSE, close_payload(4000)),
            StreamEnd(4000, "a.b"),
        ),
        (ControlFrame(Opcode.CLOSE, b""), build_frame(Opcode.CLOSE, close_payload(1000)), StreamEnd(None, "")),
        (Violation(CloseCode.PROTOCOL_ERROR, "masked"), b"", StreamEnd(1002, "masked", is_violation=True)),
    ],
    ids=["ping", "pong", "data", "close", "close without code", "violation"],
)
async def test_control_frames_are_answered_and_ends_reported(item: Item, answer: bytes, end: StreamEnd | None) -> None:
    """Only pings and close frames are answered."""
    leg, transport = new_leg()

    assert end == handle_control(leg, item)
    assert answer == transport.written


async def test_close_reader_closes_the_socket_at_the_close_frame() -> None:
    """It discards the data before it."""
    leg, transport = new_leg()
    leg.start(PeerCloseReceiver(leg, Scanner(masked=False, max_message_bytes=1 << 20)))
    frames = build_frame(Opcode.TEXT, b"{}") + build_frame(Opcode.CLOSE, close_payload(1000))
    leg.data_received(frames[:-1])
    assert not transport.closing
    leg.data_received(frames[-1:])

    assert transport.closing


async def test_close_reader_closes_the_socket_at_the_end_of_the_stream() -> None:
    """The peer sent no close frame."""
    leg, transport = new_leg()
    leg.start(PeerCloseReceiver(leg, Scanner(masked=False, max_message_bytes=1 << 20)))
    leg.eof_received()

    assert transport.closing
