"""The bounds that hold under every attack, and the table. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

P99_MS: Final = 50.0
LIVEZ_MS: Final = 200.0
MAX_OWN_WAIT_SHARE: Final = 0.25
"""A measuring process that has no core for longer cannot keep up, and judges no times."""
MARGIN: Final = 2.0
"""A bound on time is raised by this many times the value of the control, which a busy machine raises, too."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the well-behaved clients met during one attack. Times in milliseconds, memory in MB.

    Times are net of what relay and measuring process waited for a core that other programs used.
    """

    p99_ms: float
    worst_ms: float
    livez_ms: float
    growth_mb: float
    cpu_share: float
    messages: int
    lost: int = 0  # lost, reordered or changed
    lost_calls: int = 0
    new_calls: int = 0
    new_call_ms: float = 0.0
    refused: tuple[str, ...] = ()  # new calls and probes without the expected answer
    own_wait_share: float = 0.0  # of the time, in which this process had no core
    own_p99_ms: float = 0.0  # how late this process itself was
    own_worst_ms: float = 0.0
    measured_p99_ms: float = 0.0  # with the waiting for a core that is taken off everywhere else
    relay_ended: bool = False
    attackers: str = ""  # what the attackers counted


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which a share of all values is; NaN without values."""
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * share)] if ordered else math.nan


def broken_bounds(measured: Measurement, control: Measurement, *, growth_mb: float) -> list[str]:
    """Each bound that does not hold, in words; empty if all hold.

    `control` is a measurement without an attack in the same run. What this process itself was late is allowed on top.
    """
    p99_ms = P99_MS + MARGIN * control.p99_ms + measured.own_p99_ms
    livez_ms = LIVEZ_MS + MARGIN * control.livez_ms + measured.own_worst_ms
    broken = [
        (measured.relay_ended, "the relay ended"),
        (measured.lost > 0, f"{measured.lost} messages lost, reordered or changed"),
        (measured.lost_calls > 0, f"{measured.lost_calls} calls lost"),
        (bool(measured.refused), _count(measured.refused)),
        (
            '"failed": []' not in measured.attackers and bool(measured.attackers),
            f"the attack failed: {measured.attackers}",
        ),
        (not measured.messages, "no message passed"),
        (judges_times(measured) and not measured.p99_ms <= p99_ms, f"p99 {measured.p99_ms:.0f} ms > {p99_ms:.0f}"),
        (
            judges_times(measured) and not measured.livez_ms <= livez_ms,
            f"/livez {measured.livez_ms:.0f} ms > {livez_ms:.0f}",
        ),
        (measured.growth_mb > growth_mb, f"{measured.growth_mb:.0f} MB > {growth_mb:.0f}"),
    ]
    return [words for is_broken, words in broken if is_broken]


def judges_times(measured: Measurement) -> bool:
    """Whether this process had a core for long enough to measure times."""
    return measured.own_wait_share <= MAX_OWN_WAIT_SHARE


def depends_on_time(measured: Measurement, *, growth_mb: float) -> bool:
    """Whether all that may be wrong is a time, which a busy machine may have caused."""
    return not (measured.relay_ended or measured.lost or measured.refused or measured.growth_mb > growth_mb)


def _count(refused: Sequence[str]) -> str:
    kinds = {words: refused.count(words) for words in refused}
    return "; ".join(f"{count} x {words}" for words, count in kinds.items())


HEADING: Final = (
    "| kind | attack | p99 ms | worst ms | /livez ms | growth MB | CPU | new calls | slowest ms | lost | verdict |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def row(kind: str, name: str, measured: Measurement, broken: Sequence[str]) -> str:
    """A row of the table."""
    lost = f"{measured.lost}" + (f", {measured.lost_calls} calls" if measured.lost_calls else "")
    refused = sum(words.startswith("new call") for words in measured.refused)
    cells = [
        kind,
        name,
        _number(measured.p99_ms),
        _number(measured.worst_ms),
        _number(measured.livez_ms),
        f"{measured.growth_mb:.1f}",
        f"{measured.cpu_share:.0%}",
        f"{measured.new_calls - refused}/{measured.new_calls}",
        _number(measured.new_call_ms),
        lost,
        "; ".join(broken) or ("holds" if judges_times(measured) else "holds; too busy for times"),
    ]
    return "| " + " | ".join(cells) + " |"


COMPARISON_HEADING: Final = (
    "| kind | attack | p99 ms | /livez ms | growth MB | new calls refused | lost |\n"
    "| --- | --- | --- | --- | --- | --- | --- |"
)


def comparison_row(kind: str, name: str, before: Measurement, now: Measurement) -> str:
    """A row for two working trees: before -> now."""
    refused = [sum(words.startswith("new call") for words in side.refused) for side in (before, now)]
    cells = [
        kind,
        name,
        f"{_number(before.p99_ms)} -> {_number(now.p99_ms)}",
        f"{_number(before.livez_ms)} -> {_number(now.livez_ms)}",
        f"{before.growth_mb:.0f} -> {now.growth_mb:.0f}",
        f"{refused[0]} of {before.new_calls} -> {refused[1]} of {now.new_calls}",
        f"{before.lost + before.lost_calls} -> {now.lost + now.lost_calls}",
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}" if value < 10 else f"{value:.0f}"  # noqa: PLR2004 - digits
