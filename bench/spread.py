"""How the measured times of continuity are summed up."""

from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them is; 0 if there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round((len(ordered) - 1) * share))] if ordered else 0.0


def spread(values: Sequence[float]) -> str:
    """Median, 99th percentile and largest of seconds, in milliseconds."""
    p50, p99, largest = (1000 * percentile(values, share) for share in (0.5, 0.99, 1.0))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {largest:.1f} ms ({len(values)})"
