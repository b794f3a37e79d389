"""The recording rules: what share of callers did not get through, over the windows that the objective is judged by.

The objective: 99.5 % of the connects succeed. Good is a first event of the provider that is no error; bad is every failure
that is not the caller's own doing. Both are counted when they are over, so that the ratio never exceeds 1.
"""

from typing import Final

from monitoring.promql import DEPLOYMENT, OWN_DOING, increase, one_of, rate
from monitoring.rule import Record
from service.telemetry.metrics import PREFIX

OBJECTIVE: Final = 0.995
BUDGET: Final = 1 - OBJECTIVE
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
LONG_WINDOWS: Final = ("1h", "6h", "1d", "3d")

COUNTED_FAILURES: Final = f'reason!~"{one_of(OWN_DOING)}"'
SUCCESSES: Final = 'result="ok"'


def failure_ratio(window: str, by: str = DEPLOYMENT, matchers: str = "") -> str:
    """The share of connects that failed, without what callers brought about themselves."""
    more = f", {matchers}" if matchers else ""
    bad = rate("connection_failures_total", window, COUNTED_FAILURES + more, by)
    good = rate("upstream_connects_total", window, SUCCESSES + more, by)
    return f"{bad} / ({bad} + {good})"


def ratio_name(window: str) -> str:
    """The record of a window's failure ratio."""
    return f"{PREFIX}:connect_failures:ratio_rate{window}"


def by_reason_name(window: str) -> str:
    """The record of a window's failures by reason."""
    return f"{PREFIX}:connect_failures_by_reason:increase{window}"


RECORDS: Final = (
    *(Record(ratio_name(window), failure_ratio(window)) for window in WINDOWS),
    *(
        Record(
            by_reason_name(window),
            increase("connection_failures_total", window, COUNTED_FAILURES, f"{DEPLOYMENT}, reason"),
        )
        for window in LONG_WINDOWS
    ),
)


def inlined(expression: str) -> str:
    """An expression that needs no recording rules: Grafana's rules must not fall silent where nobody loaded them."""
    for record in RECORDS:
        expression = expression.replace(record.name, f"({record.query})")
    return expression
