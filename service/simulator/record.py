"""What the simulator remembers of a socket, for tests to compare with what the other side says.

Bytes are those of data messages, after unmasking and inflating; frame headers and control frames are not counted.
"""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field

from multidict import CIMultiDict, MultiDict

_MAX_EVENTS = 1000  # types kept per socket: enough for a test, little for a day of microphone audio


@dataclass(slots=True, eq=False)
class ConnectionRecord:
    """One request to upgrade, and the socket that may have come of it."""

    path: str
    query: MultiDict[str]
    headers: CIMultiDict[str] = field(repr=False)  # holds the key
    opened_at: float = field(default_factory=time.time)
    status: int | None = None  # what the request was answered with; None until then
    closed: bool = False
    close_code: int | None = None  # what the peer sent; 1005 for a CLOSE without a code; None if it sent no CLOSE
    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    pings_sent: int = 0
    pings_received: int = 0
    pongs_received: int = 0
    client_events: list[str] = field(default_factory=list)  # the first thousand
    session_id: str | None = None
    _audio_in: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)
    _audio_out: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)
    _gone: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def audio_in_sha256(self) -> str:
        """The digest of all audio that the peer appended, decoded."""
        return self._audio_in.hexdigest()

    @property
    def audio_out_sha256(self) -> str:
        """The digest of all audio that was sent to the peer, decoded."""
        return self._audio_out.hexdigest()

    def note_audio_in(self, audio: bytes) -> None:
        """Count audio that came in."""
        self._audio_in.update(audio)

    def note_audio_out(self, audio: bytes) -> None:
        """Count audio that went out."""
        self._audio_out.update(audio)

    def note_event(self, kind: str) -> None:
        """Remember the type of a client's event."""
        if len(self.client_events) < _MAX_EVENTS:
            self.client_events.append(kind)

    def note_closed(self) -> None:
        """Say that the connection is no more."""
        self.closed = True
        self._gone.set()

    async def wait_closed(self) -> None:
        """Return once the connection is no more."""
        await self._gone.wait()
