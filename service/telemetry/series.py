"""Series that start at 0: a rate or an increase misses what happens before a series exists."""

from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter, Gauge, Histogram


def start_at_zero(metric: Counter | Gauge | Histogram, *values: Iterable[str]) -> None:
    """Create the series of all combinations of the values of a metric's labels."""
    for labels in product(*values):
        metric.labels(*labels)
