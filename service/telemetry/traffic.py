"""Counts forwarded messages and bytes in plain integers, and converts them to metrics at a scrape.

A Prometheus counter takes a lock for each increment. Three increments per message cost one microsecond, half as much as all
other work of the relay for that message.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from service.realtime.events import Api, Direction

OTHER: Final = "other"


class Traffic:
    """Traffic of one direction over all sessions of an API. Only the thread of the event loop may change it."""

    __slots__ = ("_held", "_hold_starts", "_released_seconds", "bytes", "direction", "types")

    def __init__(self, direction: Direction, types: Iterable[str]) -> None:
        self.direction = direction
        self.types = dict.fromkeys((*sorted(types), OTHER), 0)  # completed messages by event type
        self.bytes = 0
        self._released_seconds = 0.0  # seconds of released holds
        self._held = 0  # number of current holds
        self._hold_starts = 0.0  # sum of the start times of current holds

    def count(self, kind: str | None) -> None:
        """Count a completed message of this event type."""
        types = self.types
        if kind in types:
            types[kind] += 1
        else:
            types[OTHER] += 1

    def add(self, kind: str, messages: int, size: int) -> None:
        """Count forwarded messages of one known event type, and their bytes."""
        self.bytes += size
        self.types[kind if kind in self.types else OTHER] += messages

    def hold(self) -> float:
        """Record that a session holds this direction back from now on; returns the time, for `release`."""
        now = time.perf_counter()
        self._held += 1
        self._hold_starts += now
        return now

    def release(self, since: float) -> float:
        """Record the end of the hold that began at `since`; returns its duration in seconds."""
        seconds = time.perf_counter() - since
        self._held -= 1
        self._hold_starts = self._hold_starts - since if self._held else 0.0
        self._released_seconds += seconds
        return seconds

    @property
    def held_back_seconds(self) -> float:
        """Duration of all holds. Current holds are included, so that a peer that never reads again is visible."""
        return self._released_seconds + max(0.0, self._held * time.perf_counter() - self._hold_starts)


class TrafficCollector(Collector):
    """Exports the traffic of each API and direction to Prometheus."""

    def __init__(self, prefix: str, traffic: Mapping[tuple[Api, Direction], Traffic]) -> None:
        self._prefix = prefix
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        """Return the metric families with their current values."""
        messages = self._family("forwarded_messages", "Forwarded messages.", "api", "direction")
        size = self._family("forwarded_bytes", "Forwarded bytes of frames, headers included.", "api", "direction")
        held = self._family(
            "backpressure_seconds",
            "Time for which a direction was held back because its receiver was too slow, in seconds.",
            "direction",
        )
        events = self._family("events", "Forwarded events by type.", "api", "direction", "type")
        held_seconds = dict.fromkeys(Direction, 0.0)
        for (api, direction), traffic in self._traffic.items():
            messages.add_metric((api, direction), sum(traffic.types.values()))
            size.add_metric((api, direction), traffic.bytes)
            held_seconds[direction] += traffic.held_back_seconds
            for kind, count in traffic.types.items():
                events.add_metric((api, direction, kind), count)
        for direction, seconds in held_seconds.items():
            held.add_metric((direction,), seconds)
        return messages, size, held, events

    def _family(self, name: str, text: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{name}", text, labels=labels)
