"""The alerts on sessions of GPT-Live (see `alerts`), with their queries. Sessions of the Realtime API hide both elsewhere."""

from typing import Final

from monitoring.conditions import MIN_FAILURES, share
from monitoring.promql import CAUSED_BY_CLIENT, DEPLOYMENT, increase, one_of
from monitoring.rule import Alert

LIVE: Final = "live"

FAILED_STARTS: Final = f'reason!~"{one_of(CAUSED_BY_CLIENT)}"'
_FAILED: Final = increase("live_start_failures_total", "10m", FAILED_STARTS)
_STARTED: Final = increase("live_start_seconds_count", "10m")

LIVE_ALERTS: Final = (
    Alert(
        name="RelayLiveStartsFailing",
        severity="critical",
        area=LIVE,
        query=f"{_FAILED} / ({_FAILED} + {_STARTED}) and on ({DEPLOYMENT}) {_FAILED} >= {MIN_FAILURES}",
        operator=">",
        threshold=0.2,
        for_duration="5m",
        summary="Sessions of GPT-Live of <job> do not start.",
        description=(
            "<percent> of the sessions of GPT-Live that were requested in the last ten minutes did not start. Below 1 % is "
            "normal. Dials fail, or the provider accepts the connection and refuses session.start. Find the reason with the "
            "query in the runbook."
        ),
        rationale=(
            "20 %: access to GPT-Live and its limit on concurrent sessions are apart from the Realtime API, whose sessions "
            "hide the failures in the ratio of all connections"
        ),
    ),
    Alert(
        name="RelayLiveUsageUnconfirmed",
        severity="warning",
        area=LIVE,
        query=share("live_final_usage_total", "1h", 'result="unconfirmed"'),
        operator=">",
        threshold=0.1,
        for_duration="5m",
        summary="Sessions of GPT-Live of <job> end without their final usage.",
        description=(
            "For <percent> of the sessions of GPT-Live that ended in the last hour the provider did not confirm the end. It "
            "may bill them for longer than the relay counted. Check why they end, and compare the billed seconds with the "
            "provider's usage page."
        ),
        rationale="10 %: single sessions lose their connection; more means that sessions are cut, and each may be billed on",
    ),
)
