"""What the swaps of a session ask of it."""

from collections.abc import Callable
from typing import Protocol

from service.realtime.scanner_items import Message
from service.relay.ending import Ending
from service.relay.session_info import SessionInfo
from service.upstream.dial import UpstreamConnection


class SwapHost(Protocol):
    """The session, as its swaps see it."""

    info: SessionInfo

    @property
    def connection(self) -> UpstreamConnection:
        """The upstream connection that carries the session, or the one that was lost."""

    @property
    def can_swap(self) -> bool:
        """Whether client and upstream are between two messages."""

    def await_boundary(self, call: Callable[[], object]) -> None:
        """Call `call` once `can_swap` may be true, in a turn of its own; another call replaces it."""

    def fail(self) -> None:
        """End the session because of an unexpected exception, which is being handled."""

    def send_to_client(self, payload: bytes) -> None:
        """Send the client an event at a message boundary, whether it reads or not."""

    def count_received(self) -> None:
        """Have all that upstream has sent so far counted and kept."""

    def upstream_missing(self, settled: list[bytes]) -> None:
        """Upstream is gone, and `settled` are the events that end its open answers for the client."""

    def forward_late(self, message: Message, *, is_shown: bool) -> None:
        """Count an event of a connection that was replaced, and forward it if `is_shown`."""

    def replace_upstream(self, connected: UpstreamConnection) -> None:
        """Join the client to another upstream connection, between two messages of both sides; `read_upstream` follows."""

    def read_upstream(self) -> None:
        """Read the connection that has replaced another, whose end then counts."""

    def end_unrecovered(self, end: Ending) -> None:
        """End the session as it would have ended without continuity."""
