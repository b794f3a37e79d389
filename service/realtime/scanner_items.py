"""The items that a scanner yields, and the builder that puts them in order. Pure."""

from dataclasses import dataclass

from service.realtime.closing import CloseCode
from service.realtime.frames import Opcode


@dataclass(slots=True)
class Chunk:
    """Bytes of data frames, to be forwarded unchanged. `mid_frame`: the last frame in it is incomplete."""

    raw: bytes
    mid_frame: bool = False


@dataclass(slots=True)
class MessageEnd:
    """A message ended: its event type, or None if it is unknown, and its payload size in bytes."""

    type: str | None
    size: int


@dataclass(slots=True)
class Message:
    """A whole message of a requested type, or of an unknown one (None).

    `payload` is unmasked; `raw` is its frames, which no `Chunk` contains.
    """

    type: str | None
    payload: bytes
    raw: bytes


@dataclass(slots=True)
class ControlFrame:
    """A control frame, its payload unmasked. It concerns this connection only and is never forwarded."""

    opcode: Opcode
    payload: bytes


@dataclass(slots=True)
class Violation:
    """The peer broke the protocol or exceeded the message limit; the last item of a scanner. `detail` is static text."""

    close_code: CloseCode
    detail: str


Item = Chunk | MessageEnd | Message | ControlFrame | Violation


class ItemBuilder:
    """Collects the items of one read: the bytes to forward, joined into runs, and the items between the runs."""

    def __init__(self, data: bytes) -> None:
        self.items: list[Item] = []
        self._data = data
        self._start = 0  # of the current run
        self._run_pieces: list[bytes] = []
        self._completed: list[MessageEnd] = []

    def end_run(self, offset: int, next_offset: int) -> None:
        """End the current run at `offset` and begin another one at `next_offset`."""
        if offset > self._start:
            self._run_pieces.append(self._data[self._start : offset])
        self._start = next_offset

    def insert_frames(self, frames: list[bytes]) -> None:
        """Forward frames of earlier reads after the run that ended."""
        self._run_pieces += frames

    def add_completed(self, completed: MessageEnd) -> None:
        """Record that a message ended within the current run."""
        self._completed.append(completed)

    def flush(self, *, mid_frame: bool = False) -> None:
        """Turn the runs and completed messages so far into items."""
        pieces = self._run_pieces
        if pieces:
            self.items.append(Chunk(pieces[0] if len(pieces) == 1 else b"".join(pieces), mid_frame))
            self._run_pieces = []
        if self._completed:
            self.items += self._completed
            self._completed = []

    def add_item(self, item: Item, offset: int, next_offset: int) -> None:
        """Add an item in place of the bytes from `offset` to `next_offset`."""
        self.end_run(offset, next_offset)
        self.flush()
        self.items.append(item)
