"""Multi-window, multi-burn-rate alerts on failed connections, as in the SRE workbook, chapter 5."""

from typing import Final

from monitoring.conditions import MIN_FAILURES
from monitoring.promql import COUNTED_REASONS, DEPLOYMENT
from monitoring.recording import BUDGET, by_reason_name, ratio_name
from monitoring.rule import Alert, Severity

_WINDOW_NAMES: Final = {"1h": "hour", "6h": "6 hours", "1d": "day", "3d": "3 days"}


def burn_rate_alert(long: str, short: str, factor: float, severity: Severity, area: str) -> Alert:
    """An alert on failures that consume the error budget at least `factor` times as fast as the objective allows.

    The long window shows that the failures matter, the short one that they continue. The condition is on all failures
    together. One alert fires for each reason with at least half as many failures as the most frequent one, so that at
    least one fires and its labels stay the same while less frequent reasons come and go.
    """
    by_reason = by_reason_name(long)
    threshold = round(factor * BUDGET, 4)
    pace = f"more than {factor:g} times as fast as" if factor > 1 else "faster than"
    frequent = f"{by_reason} >= on ({DEPLOYMENT}) group_left () (0.5 * max by ({DEPLOYMENT}) ({by_reason}))"
    return Alert(
        name=f"RelayConnectFailures{long}",
        severity=severity,
        area=area,
        query=(
            f"({ratio_name(long)} and {ratio_name(short)} > {threshold:g} "
            f"and sum by ({DEPLOYMENT}) ({by_reason}) >= {MIN_FAILURES}) "
            f"* on ({DEPLOYMENT}) group_right () ({frequent}) ^ 0"
        ),
        operator=">",
        threshold=threshold,
        for_duration="0s",
        summary="Client connections through <job> fail: <reason>.",
        description=(
            f"<percent> of the connection attempts of the last {_WINDOW_NAMES[long]} failed, most of them with <reason>, "
            f"and the failures continue. They consume the error budget {pace} the objective of 99.5 % allows. Apply the "
            "remedy; if a rollout started the failures, undo it."
        ),
        rationale=(
            f"{factor:g} x the error budget of 0.5 % over {long}, and still over {short}; at least {MIN_FAILURES} failures"
        ),
        reasons=COUNTED_REASONS,
    )
