"""Metrics whose series start at 0: a rate or an increase misses what happens before a series exists.

The first scrape creates the series. A relay has 800 of them, which took 8 ms of its start.
"""

from collections.abc import Iterable
from itertools import chain, product

import prometheus_client
from prometheus_client import Metric
from prometheus_client.metrics import MetricWrapperBase


class _StartsAtZero(MetricWrapperBase):
    _missing: tuple[Iterable[tuple[str, ...]], ...] = ()

    def start_at_zero(self, *values: Iterable[str]) -> None:
        """Have the series of all combinations of the values of the labels from the first scrape on."""
        self.start_each_at_zero(product(*values))

    def start_each_at_zero(self, series: Iterable[tuple[str, ...]]) -> None:
        """Have the series with these values of the labels from the first scrape on."""
        self._missing = (*self._missing, series)

    def collect(self) -> Iterable[Metric]:
        """Return the metric with all its series. For the event loop's thread only."""
        missing, self._missing = self._missing, ()
        for values in chain.from_iterable(missing):
            self.labels(*values)
        return super().collect()


class Counter(_StartsAtZero, prometheus_client.Counter):
    """A counter whose series can start at 0."""


class Gauge(_StartsAtZero, prometheus_client.Gauge):
    """A gauge whose series can start at 0."""


class Histogram(_StartsAtZero, prometheus_client.Histogram):
    """A histogram whose series can start at 0."""
