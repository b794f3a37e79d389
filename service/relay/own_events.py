"""Events of the relay's own within a session, and its due end: both wait until the client is between two messages."""

from collections.abc import Callable
from typing import Final, Protocol

from service.relay.ending import Ending
from service.wire.leg import Leg

BOUNDARY_SECONDS: Final = 2.0
"""How long a session that is due to end waits for a message boundary."""
MAX_WAITING_EVENTS: Final = 16
MAX_UNREAD_BYTES: Final = 4 << 20
"""Of what the client has not read. Nothing holds back answers of the relay's own to it, of up to a megabyte each."""


class ErrorEvent(Protocol):
    """Builds the payload of an `error` event. Passed in, since `web` knows what a client's errors look like."""

    def __call__(self, reason: str, hint: str | None, param: str | None = None, event_id: str | None = None) -> bytes:
        """For a reason and a remedy, None for the catalogue's, and what of the client's event is the cause."""


DrainEvent = Callable[[float], bytes]
"""Builds the payload of the event that announces a drain, from the seconds until its deadline."""


class OwnEvents:
    """The relay's own events for a client, in the order of sending. Sends nothing before `send`, at a message boundary."""

    __slots__ = ("_client", "_drain_event", "_drains_at", "_due_end", "_events", "waiting_bytes")

    def __init__(self, client: Leg, drain_event: DrainEvent | None) -> None:
        self._client = client
        self._drain_event = drain_event  # None for a client that has not asked for it
        self._drains_at: float | None = None  # set while the client has yet to be sent the event
        self._events: list[bytes] = []
        self.waiting_bytes = 0
        """Of the events that are not written yet."""
        self._due_end: tuple[Ending, float] | None = None  # and since when

    @property
    def are_waiting(self) -> bool:
        """Whether there is anything to send."""
        return bool(self._events) or self._drains_at is not None or self._due_end is not None

    def add(self, event: bytes, *, is_needed: bool = False) -> None:
        """Send this event; not to a client that reads nothing, unless `is_needed`."""
        if is_needed or (self._client.full_since is None and len(self._events) < MAX_WAITING_EVENTS):
            self._events.append(event)
            self.waiting_bytes += len(event)

    @property
    def is_overfull(self) -> bool:
        """Whether the client leaves more unread than it may, of these events and of all that was written before."""
        return self.waiting_bytes + self._client.buffered_bytes > MAX_UNREAD_BYTES

    def announce_drain(self, drains_at: float) -> None:
        """Send the event that announces a drain, if the client asked for it."""
        if self._drain_event is not None:
            self._drains_at = drains_at

    def end_with(self, end: Ending, now: float) -> None:
        """End the session after all events. The first end counts."""
        if self._due_end is None:
            self._due_end = end, now

    def overdue_end(self, now: float) -> Ending | None:
        """The end that has waited too long for a message boundary."""
        is_overdue = self._due_end is not None and now - self._due_end[1] >= BOUNDARY_SECONDS
        return self._due_end[0] if self._due_end is not None and is_overdue else None

    def send(self, now: float) -> Ending | None:
        """Send all events; the caller guarantees a message boundary. Returns the due end."""
        for event in self._events:
            self._client.send_event(event)
        self._events.clear()
        self.waiting_bytes = 0
        if self._drain_event is not None and self._drains_at is not None:
            self._client.send_event(self._drain_event(max(0.0, self._drains_at - now)))
        self._drains_at = None
        return None if self._due_end is None else self._due_end[0]
