"""A leg over a transport that only records what is written to it."""

import asyncio
from typing import Any

from service.wire.leg import Leg


class RecordingTransport(asyncio.Transport):
    """Records what is written and reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False
        self.aborted = False
        self.reading = True

    def write(self, data: Any) -> None:
        """Record the data."""
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered."""

    def get_write_buffer_size(self) -> int:
        """Nothing is buffered."""
        return 0

    def is_closing(self) -> bool:
        """Whether close or abort was called."""
        return self.closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """A test calls the protocol itself."""

    def is_reading(self) -> bool:
        """Whether reading is not paused."""
        return self.reading

    def pause_reading(self) -> None:
        """Record the call."""
        self.reading = False

    def resume_reading(self) -> None:
        """Record the call."""
        self.reading = True

    def close(self) -> None:
        """Record the call."""
        self.closing = True

    def abort(self) -> None:
        """Record the call."""
        self.closing = self.aborted = True


class RecordingReceiver:
    """Records what it receives."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost = 0

    def receive(self, data: bytes) -> None:
        """Record the data."""
        self.received += data

    def peer_lost(self) -> None:
        """Count it."""
        self.lost += 1


def new_leg(*, early_data: bytes = b"", masks: bool = False) -> tuple[Leg, RecordingTransport]:
    """A leg and its transport."""
    transport = RecordingTransport()
    return Leg(transport, asyncio.Protocol(), early_data, masks=masks), transport
