"""What receives the bytes of a leg."""

from collections.abc import Callable
from typing import Protocol

OnRead = Callable[[bytes], None]
"""Processes a read of the transport."""


class Receiver(Protocol):
    """Receives the bytes of a leg: a `FirstEventReader` during the dial, then a `Pipe`, in the end a `PeerCloseReceiver`."""

    def receive(self, data: bytes) -> None:
        """Process the next bytes. Must not raise: the transport would abort the connection."""

    def peer_lost(self) -> None:
        """The peer has closed the connection: end of file, reset or abort. May be called more than once."""


class Closable(Protocol):
    """A leg, as far as `InputDiscarder` uses it."""

    def close(self) -> None:
        """Close the socket once everything has been sent."""


class InputDiscarder:
    """Discards everything unread: for a peer whose frames are not worth looking at any more, its close frame included."""

    def __init__(self, leg: Closable) -> None:
        self._leg = leg

    def receive(self, data: bytes) -> None:
        """Called by the leg."""

    def peer_lost(self) -> None:
        """Called by the leg."""
        self._leg.close()
