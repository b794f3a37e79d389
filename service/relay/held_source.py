"""Backpressure of a pipe: its source is not read while its sink is full. Counts what it keeps meanwhile."""

from time import perf_counter

from service.realtime.closing import CloseCode
from service.realtime.events import Direction
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Violation
from service.realtime.scanner_types import UNFINISHED_EVENT
from service.relay.kept_bytes import UNCOUNTED_BYTES, UNCOUNTED_UNSENT_BYTES, kept_bytes
from service.relay.pipe_owner import PipeOwner
from service.telemetry.traffic import Traffic
from service.wire.leg import Leg


class HeldSource:
    """Holds a source while a sink is full, and measures for how long. Takes over `on_full` and `on_writable` of the sink."""

    __slots__ = (
        "_counted_bytes",
        "_direction",
        "_from_upstream",
        "_held_back_at",
        "_is_counted",
        "_owner",
        "_scanner",
        "_sink",
        "_source",
        "_traffic",
        "_waiting_bytes",
        "discards_data",
        "held_back_seconds",
    )

    def __init__(self, source: Leg, sink: Leg, scanner: Scanner, traffic: Traffic, owner: PipeOwner) -> None:
        self._source = source
        self._sink = sink
        self._scanner = scanner
        self._traffic = traffic
        self._direction = traffic.direction
        self._from_upstream = traffic.direction == Direction.UPSTREAM_TO_CLIENT
        self._owner = owner
        self._counted_bytes = self._waiting_bytes = 0
        self._is_counted = True
        self.discards_data = False  # the session ends
        self.held_back_seconds = 0.0
        self._held_back_at: float | None = None
        sink.on_full = self._hold_source
        sink.on_writable = self._release_source

    @property
    def is_held_back(self) -> bool:
        """Whether the source is held now."""
        return self._held_back_at is not None

    def held_back_so_far(self) -> float:
        """The seconds of all holds, the current one included."""
        return self.held_back_seconds + (perf_counter() - self._held_back_at if self._held_back_at is not None else 0.0)

    def replace_sink(self, sink: Leg) -> None:
        """Forward to another leg from now on; the last message went to the one before, whole."""
        self._sink.on_full = self._sink.on_writable = None
        self._sink = sink
        sink.on_full = self._hold_source
        sink.on_writable = self._release_source
        if self.is_held_back and sink.full_since is None:
            self._release_source()
        elif not self.is_held_back and sink.full_since is not None:
            self._hold_source()

    def stop_backpressure(self) -> None:
        """Read the source from now on, whatever the sink does: the session ends, and needs the source's close frame."""
        self._release_source()
        self._sink.on_full = self._sink.on_writable = None

    def give_up(self) -> None:
        """Free what is kept, and end the session: all sessions together keep too much."""
        self._counted_bytes, self._is_counted = 0, False
        is_arriving, is_unread = self._arriving_bytes > 0, self._unsent_bytes > 0
        if is_arriving:
            self._scanner.end()
        try:
            if self.discards_data:
                pass  # it ends already
            elif self.is_held_back or not is_arriving:  # nothing arrives as long as the sink does not read
                self._owner.end("client_too_slow" if self._from_upstream else "upstream_too_slow")
            elif self._from_upstream:
                violation = Violation(CloseCode.POLICY_VIOLATION, UNFINISHED_EVENT)
                self._owner.peer_broke_protocol(self._direction, violation)
            else:
                self._owner.end("rate_exceeded", UNFINISHED_EVENT)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()
        if is_unread:
            self._sink.abort()

    def count_waiting(self, size: int) -> None:
        """Count what waits for a message boundary of the sink, or what was written beside this pipe."""
        self._waiting_bytes = size
        self._count_kept()

    def finish(self) -> None:
        """Count nothing more: the session has ended, and both sockets are closed."""
        self._set_counted(0)
        self._is_counted = False

    @property
    def _arriving_bytes(self) -> int:
        """The size of a large message that is read whole, as far as it is known; 0 without one."""
        size = self._scanner.kept_bytes + self._scanner.missing_bytes
        return size if size > UNCOUNTED_BYTES else 0

    @property
    def _unsent_bytes(self) -> int:
        """What waits for the sink beyond what every session may have; of a session that ends, whether it is held or not."""
        unsent = self._sink.buffered_bytes if self.is_held_back or self.discards_data else 0
        return max(0, unsent + self._waiting_bytes - UNCOUNTED_UNSENT_BYTES)

    def _count_kept(self) -> None:
        """Count what is kept of large messages, among those of all sessions, until `finish`."""
        if self._is_counted:
            self._set_counted(self._arriving_bytes + self._unsent_bytes)

    def _set_counted(self, size: int) -> None:
        if size != self._counted_bytes:
            self._counted_bytes = size
            kept_bytes().change(self._owner.info.limited_as, self, size)

    def _hold_source(self) -> None:
        self._held_back_at = self._traffic.hold()
        self._source.hold("sink_full")
        self._count_kept()

    def _release_source(self) -> None:
        self._source.release("sink_full")
        if self._held_back_at is not None:
            self.held_back_seconds += self._traffic.release(self._held_back_at)
            self._held_back_at = None
            self._count_kept()
