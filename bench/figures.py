"""Figures from rows: medians with their spread, and comparisons of pairs within a round."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

Row = dict[str, Any]
SATURATED_BELOW: Final = 0.98
_MEMORY_FROM_SESSIONS: Final = 50  # with fewer, the share of a session is below the noise of the process


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and their minimum and maximum."""

    median: float
    minimum: float
    maximum: float

    def text(self, digits: int = 0) -> str:
        """The text for a table."""
        if f"{self.minimum:.{digits}f}" == f"{self.maximum:.{digits}f}":
            return f"{self.median:.{digits}f}"
        return f"{self.median:.{digits}f} ({self.minimum:.{digits}f}-{self.maximum:.{digits}f})"


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that are present; None if there are none."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def merged(files: list[Row]) -> Row:
    """Several runs as one, with the machine of the first."""
    result = dict(files[0])
    for part in ("rows", "stalls", "missing", "network"):
        result[part] = [row | {"run": at} for at, data in enumerate(files) for row in data.get(part, [])]
    result["versions"] = {name: text for data in files for name, text in data["versions"].items()}
    result["commands"] = list(dict.fromkeys(data["command"] for data in files))
    return result


class Figures:
    """All measurements, looked up by upstream, sessions and contender."""

    def __init__(self, data: Row) -> None:
        self.rows: list[Row] = [row for row in data["rows"] if "failed" not in row]
        self.stalls: list[Row] = [row for row in data["stalls"] if "failed" not in row]
        network = data.get("network", [])  # of its own table
        self.network: list[Row] = [row for row in network if "failed" not in row]
        self.failed: list[Row] = [row for row in data["rows"] + data["stalls"] + network if "failed" in row]
        self.upstreams = _unique(row["upstream"] for row in self.rows)
        self.sizes = sorted({row["sessions"] for row in self.rows})
        self.contenders = _unique(row["contender"] for row in sorted(self.rows, key=_kind_order))

    def at(self, upstream: str, sessions: int, contender: str) -> list[Row]:
        """The rounds of one contender."""
        wanted = (upstream, sessions, contender)
        return [row for row in self.rows if (row["upstream"], row["sessions"], row["contender"]) == wanted]

    def cpu(self, upstream: str, sessions: int, contender: str) -> Spread | None:
        """Microseconds of CPU per message."""
        return spread(row["cpu_us_per_message"] for row in self.at(upstream, sessions, contender))

    def latency(self, upstream: str, sessions: int, contender: str, direction: str, share: str) -> Spread | None:
        """Microseconds from one endpoint to the other."""
        return spread(row[direction][share] for row in self.at(upstream, sessions, contender))

    def added(self, upstream: str, sessions: int, contender: str, direction: str, share: str) -> Spread | None:
        """Microseconds above those of the direct connection, within each round."""

        def difference(mine: Row, other: Row) -> float:
            return float(mine[direction][share] - other[direction][share])

        return self.paired(upstream, sessions, contender, "direct", difference)

    def ratio(self, upstream: str, sessions: int, contender: str, other: str) -> Spread | None:
        """CPU per message as a multiple of another contender's, within each round."""

        def quotient(mine: Row, its: Row) -> float | None:
            one, two = mine["cpu_us_per_message"], its["cpu_us_per_message"]
            return one / two if one and two else None

        return self.paired(upstream, sessions, contender, other, quotient)

    def paired(
        self, upstream: str, sessions: int, contender: str, other: str, figure: Callable[[Row, Row], float | None]
    ) -> Spread | None:
        """A figure of two contenders in the same round."""
        others = {(row.get("run", 0), row["round"]): row for row in self.at(upstream, sessions, other)}
        mine = [(row, others.get((row.get("run", 0), row["round"]))) for row in self.at(upstream, sessions, contender)]
        return spread(figure(row, its) for row, its in mine if its is not None)

    def memory(self, upstream: str, sessions: int, contender: str, state: str, kind: str = "rss") -> Spread | None:
        """The kB per session in a newly started process: of the first round."""
        if sessions < _MEMORY_FROM_SESSIONS:
            return None
        first = [row for row in self.at(upstream, sessions, contender) if row["round"] == 0 and "memory_kb" in row]
        return spread((r["memory_kb"][state][kind] - r["memory_kb"]["before"][kind]) / sessions for r in first)

    def connect(self, upstream: str, sessions: int, contender: str, share: str) -> Spread | None:
        """Milliseconds from the client's first packet to the first event."""
        return spread(row["connect"][share] / 1000 for row in self.at(upstream, sessions, contender))

    def is_saturated(self, upstream: str, sessions: int, contender: str) -> bool:
        """Whether fewer messages passed than intended in any round."""
        rows = self.at(upstream, sessions, contender)
        return any(row["passed_per_second"] < SATURATED_BELOW * row["intended_per_second"] for row in rows)

    def generator_was_late(self, upstream: str, sessions: int, contender: str) -> bool:
        """Whether the generator sent fewer messages than intended in any round."""
        rows = self.at(upstream, sessions, contender)
        return any(row["sent_per_second"] < SATURATED_BELOW * row["intended_per_second"] for row in rows)

    def stall(self, upstream: str, contender: str, which: str) -> Spread | None:
        """Milliseconds that messages took beside two messages of 15 MiB."""
        rows = [row for row in self.stalls if (row["upstream"], row["contender"]) == (upstream, contender)]
        if which == "large":
            return spread(row["large_us"] / 1000 for row in rows)
        return spread(row[f"{which}_us"]["max"] / 1000 for row in rows)

    def unclean(self) -> list[Row]:
        """Measurements in which a message was lost, reordered or changed."""
        return [row for row in self.rows + self.stalls + self.network if any(row["verdict"].values())]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


_ORDER: Final = ("direct", "relay", "relay-strict", "haproxy", "nginx", "websockets", "litellm")


def _kind_order(row: Row) -> int:
    kind = row["contender"].partition("=")[0]
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
