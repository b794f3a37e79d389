"""What the swaps of a session ask of it."""

from typing import Protocol

from service.realtime.scanner_items import Message
from service.relay.ending import Ending
from service.upstream.dial import UpstreamConnection


class SwapHost(Protocol):
    """The session, as its swaps see it."""

    @property
    def connection(self) -> UpstreamConnection:
        """The upstream connection that carries the session, or the one that was lost."""

    @property
    def can_swap(self) -> bool:
        """Whether client and upstream are between two messages."""

    def send_to_client(self, payload: bytes) -> None:
        """Send the client an event at a message boundary, whether it reads or not."""

    def upstream_missing(self, settled: list[bytes]) -> None:
        """Upstream is gone, and `settled` are the events that end its open answers for the client."""

    def forward_late(self, message: Message, *, is_shown: bool) -> None:
        """Count an event of a connection that was replaced, and forward it if `is_shown`."""

    def replace_upstream(self, connected: UpstreamConnection) -> UpstreamConnection:
        """Join the client to another upstream connection, between two messages of both sides; returns the one before."""

    def end_unrecovered(self, end: Ending) -> None:
        """End the session as it would have ended without continuity."""
