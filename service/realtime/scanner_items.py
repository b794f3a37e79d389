"""What a scanner makes of a stream: runs of bytes that go on, and what stands between them. Pure."""

from dataclasses import dataclass

from service.realtime.closing import CloseCode
from service.realtime.frames import Opcode


@dataclass(slots=True)
class Chunk:
    """Bytes of data frames, to go on as they are. `mid_frame`: the last frame in it is not complete."""

    raw: bytes
    mid_frame: bool = False


@dataclass(slots=True)
class Completed:
    """A message has passed whole: its event type if the first bytes showed one, its payload size in bytes."""

    type: str | None
    size: int


@dataclass(slots=True)
class Message:
    """A whole message of a type that was asked for; `raw` are its frames, which have not been forwarded yet."""

    type: str
    payload: bytes
    raw: bytes


@dataclass(slots=True)
class Control:
    """A control frame: its payload unmasked. It belongs to this leg and is never forwarded."""

    opcode: Opcode
    payload: bytes


@dataclass(slots=True)
class Violation:
    """The peer broke the protocol or the message cap; the scanner yields nothing after it. `detail` is static."""

    close_code: CloseCode
    detail: str


Item = Chunk | Completed | Message | Control | Violation


class ItemBuilder:
    """What one read has brought: the bytes that go on, joined into runs, and the items between them."""

    def __init__(self, data: bytes) -> None:
        self.items: list[Item] = []
        self._data = data
        self._start = 0  # of the run that goes on
        self._pieces: list[bytes] = []
        self._completed: list[Completed] = []

    def cut(self, at: int, following: int) -> None:
        """The run ends at `at`; another one begins at `following`."""
        if at > self._start:
            self._pieces.append(self._data[self._start : at])
        self._start = following

    def insert(self, frames: list[bytes]) -> None:
        """Let frames of earlier reads go on behind the run that was cut."""
        self._pieces += frames

    def complete(self, completed: Completed) -> None:
        """A message has ended in the run."""
        self._completed.append(completed)

    def emit(self, *, mid_frame: bool = False) -> None:
        """Make items of what was gathered."""
        pieces = self._pieces
        if pieces:
            self.items.append(Chunk(pieces[0] if len(pieces) == 1 else b"".join(pieces), mid_frame))
            self._pieces = []
        if self._completed:
            self.items += self._completed
            self._completed = []

    def put(self, item: Item, at: int, following: int) -> None:
        """An item stands for the bytes from `at` up to `following`."""
        self.cut(at, following)
        self.emit()
        self.items.append(item)
