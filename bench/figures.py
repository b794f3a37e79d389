"""Figures out of rows: medians with their spread, and what is compared pairwise within a round."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

Row = dict[str, Any]
SATURATED_BELOW: Final = 0.98
_MEMORY_FROM_SESSIONS: Final = 50  # with fewer, a session's share is lost in what the process does anyway


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and how far the rounds lie apart."""

    middle: float
    least: float
    most: float

    def text(self, digits: int = 0) -> str:
        """As it stands in a table."""
        if f"{self.least:.{digits}f}" == f"{self.most:.{digits}f}":
            return f"{self.middle:.{digits}f}"
        return f"{self.middle:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that there are."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def merged(files: list[Row]) -> Row:
    """Several runs as one; the first says on what machine."""
    result = dict(files[0])
    for part in ("rows", "stalls", "missing"):
        result[part] = [row | {"run": at} for at, data in enumerate(files) for row in data[part]]
    result["versions"] = {name: text for data in files for name, text in data["versions"].items()}
    result["commands"] = list(dict.fromkeys(data["command"] for data in files))
    return result


class Figures:
    """All that was measured, asked by upstream, sessions and contender."""

    def __init__(self, data: Row) -> None:
        self.rows: list[Row] = [row for row in data["rows"] if "failed" not in row]
        self.stalls: list[Row] = [row for row in data["stalls"] if "failed" not in row]
        self.failed: list[Row] = [row for row in data["rows"] + data["stalls"] if "failed" in row]
        self.upstreams = _in_order(row["upstream"] for row in self.rows)
        self.sizes = sorted({row["sessions"] for row in self.rows})
        self.contenders = _in_order(row["contender"] for row in sorted(self.rows, key=_by_kind))

    def at(self, upstream: str, sessions: int, contender: str) -> list[Row]:
        """The rounds of one contender."""
        wanted = (upstream, sessions, contender)
        return [row for row in self.rows if (row["upstream"], row["sessions"], row["contender"]) == wanted]

    def cpu(self, upstream: str, sessions: int, contender: str) -> Spread | None:
        """Microseconds of CPU for each message."""
        return spread(row["cpu_us_per_message"] for row in self.at(upstream, sessions, contender))

    def latency(self, upstream: str, sessions: int, contender: str, direction: str, share: str) -> Spread | None:
        """Microseconds from one end to the other."""
        return spread(row[direction][share] for row in self.at(upstream, sessions, contender))

    def added(self, upstream: str, sessions: int, contender: str, direction: str, share: str) -> Spread | None:
        """Microseconds beyond those of the direct way, within each round."""

        def difference(mine: Row, other: Row) -> float:
            return float(mine[direction][share] - other[direction][share])

        return self.paired(upstream, sessions, contender, "direct", difference)

    def ratio(self, upstream: str, sessions: int, contender: str, other: str) -> Spread | None:
        """How many times another's CPU for each message, within each round."""

        def quotient(mine: Row, its: Row) -> float | None:
            one, two = mine["cpu_us_per_message"], its["cpu_us_per_message"]
            return one / two if one and two else None

        return self.paired(upstream, sessions, contender, other, quotient)

    def paired(
        self, upstream: str, sessions: int, contender: str, other: str, figure: Callable[[Row, Row], float | None]
    ) -> Spread | None:
        """A figure of two contenders that were measured in the same round."""
        others = {(row.get("run", 0), row["round"]): row for row in self.at(upstream, sessions, other)}
        mine = [(row, others.get((row.get("run", 0), row["round"]))) for row in self.at(upstream, sessions, contender)]
        return spread(figure(row, its) for row, its in mine if its is not None)

    def memory(self, upstream: str, sessions: int, contender: str, state: str, kind: str = "rss") -> Spread | None:
        """The kB of each session in a process that has just been started, so in the first round."""
        if sessions < _MEMORY_FROM_SESSIONS:
            return None
        first = [row for row in self.at(upstream, sessions, contender) if row["round"] == 0 and "memory_kb" in row]
        return spread((r["memory_kb"][state][kind] - r["memory_kb"]["before"][kind]) / sessions for r in first)

    def connect(self, upstream: str, sessions: int, contender: str, share: str) -> Spread | None:
        """Milliseconds from the client's first packet to the first event."""
        return spread(row["connect"][share] / 1000 for row in self.at(upstream, sessions, contender))

    def is_saturated(self, upstream: str, sessions: int, contender: str) -> bool:
        """Whether less passed in any round than was meant to."""
        rows = self.at(upstream, sessions, contender)
        return any(row["passed_per_second"] < SATURATED_BELOW * row["intended_per_second"] for row in rows)

    def generator_was_late(self, upstream: str, sessions: int, contender: str) -> bool:
        """Whether it was the generator that did not keep up."""
        rows = self.at(upstream, sessions, contender)
        return any(row["sent_per_second"] < SATURATED_BELOW * row["intended_per_second"] for row in rows)

    def stall(self, upstream: str, contender: str, which: str) -> Spread | None:
        """Milliseconds, of the messages that were under way beside two of 15 MiB."""
        rows = [row for row in self.stalls if (row["upstream"], row["contender"]) == (upstream, contender)]
        if which == "large":
            return spread(row["large_us"] / 1000 for row in rows)
        return spread(row[f"{which}_us"]["max"] / 1000 for row in rows)

    def unclean(self) -> list[Row]:
        """Measurements in which something was lost, out of order or changed."""
        return [row for row in self.rows + self.stalls if any(row["verdict"].values())]


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


_ORDER: Final = ("direct", "relay", "haproxy", "nginx", "websockets", "litellm")


def _by_kind(row: Row) -> int:
    kind = row["contender"].partition("=")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
