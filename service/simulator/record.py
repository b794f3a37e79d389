"""What the simulator records of a connection, for tests to compare with the client's view.

Bytes are the payloads of data messages, after unmasking and decompression; frame headers and control frames are not counted.
"""

import asyncio
import hashlib
import time
from dataclasses import dataclass, field

from multidict import CIMultiDict, MultiDict

from service.simulator.configuration import SessionConfiguration
from service.simulator.conversation_record import ConversationRecord

LANE_PARAMETER = "simulate_lane"  # in the query of an upgrade request
_MAX_EVENTS = 1000  # bounds the memory of a connection that streams microphone audio for hours


@dataclass(slots=True, eq=False)
class ConnectionRecord:
    """One upgrade request and its WebSocket connection, if the upgrade succeeded."""

    path: str
    query: MultiDict[str]
    headers: CIMultiDict[str] = field(repr=False)  # contain the key
    status: int | None = None  # of the HTTP response; None before it
    closed: bool = False
    close_code: int | None = None  # of the client's close frame; 1005: a frame without a code; None: no frame
    bytes_received: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    pings_sent: int = 0
    pings_received: int = 0
    pongs_received: int = 0
    client_events: list[str] = field(default_factory=list)  # the types of the first _MAX_EVENTS events
    first_received: dict[str, float] = field(default_factory=dict)  # time.monotonic() of the first event of each type
    session_id: str | None = None
    dial: int = 0  # 1 for the first upgrade request of the simulator
    ended_by: str | None = None  # the fault, or other cause, with which the simulator ended the connection
    conversation: ConversationRecord | None = field(default=None, repr=False)  # with `keep_conversations`
    configuration: SessionConfiguration | None = None  # of a session of the Realtime API
    closed_reason: str | None = None  # of the `session.closed` that was sent (GPT-Live)
    usage_seconds: float | None = None  # of the newest usage that was sent (GPT-Live)
    _audio_in: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)
    _audio_out: "hashlib._Hash" = field(default_factory=hashlib.sha256, repr=False)
    _closed_event: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _awaited_events: dict[str, asyncio.Event] = field(default_factory=dict, repr=False)

    @property
    def audio_in_sha256(self) -> str:
        """The digest of all audio that the client appended, base64-decoded."""
        return self._audio_in.hexdigest()

    @property
    def audio_out_sha256(self) -> str:
        """The digest of all audio that was sent to the client, before base64 encoding."""
        return self._audio_out.hexdigest()

    @property
    def lane(self) -> str | None:
        """The list of behaviours that the request selected (`LANE_PARAMETER`)."""
        return self.query.get(LANE_PARAMETER)

    def add_received_audio(self, audio: bytes) -> None:
        """Add audio from the client to its digest."""
        self._audio_in.update(audio)
        if self.conversation is not None:
            self.conversation.add_appended(audio)

    def add_sent_audio(self, audio: bytes) -> None:
        """Add audio for the client to its digest."""
        self._audio_out.update(audio)

    def add_client_event(self, event_type: str, *, once_in_a_row: bool = False) -> None:
        """Record the type of a client event. With `once_in_a_row`, consecutive events of a type are one, such as audio."""
        repeated = once_in_a_row and self.client_events[-1:] == [event_type]
        if len(self.client_events) < _MAX_EVENTS and not repeated:
            self.client_events.append(event_type)
        if len(self.first_received) < _MAX_EVENTS:
            self.first_received.setdefault(event_type, time.monotonic())
        if event_type in self._awaited_events:
            self._awaited_events[event_type].set()

    async def wait_client_event(self, event_type: str) -> float:
        """Wait for the first client event of this type; return when it arrived, by time.monotonic()."""
        if event_type not in self.first_received:
            await self._awaited_events.setdefault(event_type, asyncio.Event()).wait()
        return self.first_received[event_type]

    async def wait_sent(self, event_type: str, count: int = 1) -> None:
        """Wait until this many events of a type have been sent. Requires `keep_conversations`."""
        if self.conversation is None:
            raise RuntimeError("the simulator does not record conversations: set keep_conversations")
        await self.conversation.wait_sent(event_type, count)

    def mark_closed(self) -> None:
        """Mark the connection as closed and wake `wait_closed`."""
        self.closed = True
        self._closed_event.set()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._closed_event.wait()
