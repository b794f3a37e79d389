"""The recording rules: the ratio of failed connections over each window of the objective.

The objective: 99.5 % of the connections succeed. A connection succeeds with a first event from the provider that is not an
error; it fails with every reason that the client did not cause. Both are counted when the attempt ends, so that the ratio
never exceeds 1.
"""

from typing import Final

from monitoring.promql import CAUSED_BY_CLIENT, DEPLOYMENT, increase, one_of, rate
from monitoring.rule import RecordingRule
from service.telemetry.metrics import PREFIX

OBJECTIVE: Final = 0.995
BUDGET: Final = 1 - OBJECTIVE
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
LONG_WINDOWS: Final = ("1h", "6h", "1d", "3d")

COUNTED_FAILURES: Final = f'reason!~"{one_of(CAUSED_BY_CLIENT)}"'
SUCCESSES: Final = 'result="ok"'


def failure_ratio(window: str, by: str = DEPLOYMENT, matchers: str = "") -> str:
    """The ratio of failed connections, without failures that the client caused."""
    more = f", {matchers}" if matchers else ""
    bad = rate("connection_failures_total", window, COUNTED_FAILURES + more, by)
    good = rate("upstream_connects_total", window, SUCCESSES + more, by)
    return f"{bad} / ({bad} + {good})"


def ratio_name(window: str) -> str:
    """Name of the recording rule for the failure ratio of a window."""
    return f"{PREFIX}:connect_failures:ratio_rate{window}"


def by_reason_name(window: str) -> str:
    """Name of the recording rule for the failures of a window by reason."""
    return f"{PREFIX}:connect_failures_by_reason:increase{window}"


RECORDING_RULES: Final = (
    *(RecordingRule(ratio_name(window), failure_ratio(window)) for window in WINDOWS),
    *(
        RecordingRule(
            by_reason_name(window),
            increase("connection_failures_total", window, COUNTED_FAILURES, f"{DEPLOYMENT}, reason"),
        )
        for window in LONG_WINDOWS
    ),
)


def inline_records(expression: str) -> str:
    """The expression with recording rules replaced by their queries, for Grafana, which may run without Prometheus' rules."""
    for record in RECORDING_RULES:
        expression = expression.replace(record.name, f"({record.query})")
    return expression
