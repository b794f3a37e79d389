"""Backpressure of a pipe: its source is not read while its sink is full."""

from time import perf_counter

from service.telemetry.traffic import Traffic
from service.wire.leg import Leg


class HeldSource:
    """Holds a source while a sink is full, and measures for how long. Takes over `on_full` and `on_writable` of the sink."""

    __slots__ = ("_held_back_at", "_sink", "_source", "_traffic", "held_back_seconds")

    def __init__(self, source: Leg, sink: Leg, traffic: Traffic) -> None:
        self._source = source
        self._sink = sink
        self._traffic = traffic
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

    def _hold_source(self) -> None:
        self._held_back_at = self._traffic.hold()
        self._source.hold("sink_full")

    def _release_source(self) -> None:
        self._source.release("sink_full")
        if self._held_back_at is not None:
            self.held_back_seconds += self._traffic.release(self._held_back_at)
            self._held_back_at = None
