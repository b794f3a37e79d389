"""What passes through the sessions, counted in plain integers.

A Prometheus counter takes a lock for each increment, and a message would need three: a microsecond, half as much as all
else that is ours. Here the data path adds to integers, and the families are made of them when somebody scrapes.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER: Final = "other"


class Traffic:
    """One direction, over all sessions of the process; only its own thread adds to it."""

    __slots__ = ("bytes", "direction", "held_back_seconds", "types")

    def __init__(self, direction: str, types: Iterable[str]) -> None:
        self.direction = direction
        self.types = dict.fromkeys((*sorted(types), OTHER), 0)  # whole messages
        self.bytes = 0
        self.held_back_seconds = 0.0

    def count(self, kind: str | None) -> None:
        """A message of this type has passed whole."""
        types = self.types
        if kind in types:
            types[kind] += 1
        else:
            types[OTHER] += 1


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
