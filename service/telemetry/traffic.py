"""What passes through the sessions, counted in plain integers.

A Prometheus counter takes a lock for each increment, and a message would need three: a microsecond, half as much as all
else that is ours. Here the data path adds to integers, and the families are made of them when somebody scrapes.
"""

import time
from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from service.realtime.events import Direction

OTHER: Final = "other"


class Traffic:
    """One direction, over all sessions of the process; only its own thread adds to it."""

    __slots__ = ("_held", "_held_before", "_held_since_sum", "bytes", "direction", "types")

    def __init__(self, direction: Direction, types: Iterable[str]) -> None:
        self.direction = direction
        self.types = dict.fromkeys((*sorted(types), OTHER), 0)  # whole messages
        self.bytes = 0
        self._held_before = 0.0  # seconds of holds that are over
        self._held = 0  # holds that last
        self._held_since_sum = 0.0  # when they began, added up

    def count(self, kind: str | None) -> None:
        """A message of this type has passed whole."""
        types = self.types
        if kind in types:
            types[kind] += 1
        else:
            types[OTHER] += 1

    def hold(self) -> float:
        """A session holds this direction back from now on; returns the moment, for `release`."""
        now = time.perf_counter()
        self._held += 1
        self._held_since_sum += now
        return now

    def release(self, since: float) -> float:
        """The hold that began then is over; returns how many seconds it took."""
        seconds = time.perf_counter() - since
        self._held -= 1
        self._held_since_sum = self._held_since_sum - since if self._held else 0.0
        self._held_before += seconds
        return seconds

    @property
    def held_back_seconds(self) -> float:
        """All holds, those that last included: a peer that is stuck for good has to show."""
        return self._held_before + max(0.0, self._held * time.perf_counter() - self._held_since_sum)


class TrafficCollector(Collector):
    """Shows the directions to Prometheus."""

    def __init__(self, prefix: str, directions: Iterable[Traffic]) -> None:
        self._prefix = prefix
        self._directions = tuple(directions)

    def collect(self) -> Iterable[Metric]:
        """The families, as they stand now."""
        messages = self._family("forwarded_messages", "Messages that passed whole.", "direction")
        size = self._family("forwarded_bytes", "Bytes of frames that passed.", "direction")
        held = self._family(
            "backpressure_seconds",
            "Time for which a direction was held back because its receiver did not keep up.",
            "direction",
        )
        events = self._family("events", "Events that passed, by type.", "direction", "type")
        for traffic in self._directions:
            messages.add_metric((traffic.direction,), sum(traffic.types.values()))
            size.add_metric((traffic.direction,), traffic.bytes)
            held.add_metric((traffic.direction,), traffic.held_back_seconds)
            for kind, count in traffic.types.items():
                events.add_metric((traffic.direction, kind), count)
        return messages, size, held, events

    def _family(self, name: str, text: str, *labels: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{name}", text, labels=labels)
