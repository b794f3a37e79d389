"""The alerts on calls that outlive their upstream connection (see `alerts`), with their queries."""

from typing import Final

from monitoring.promql import DEPLOYMENT, increase
from monitoring.rule import Alert

CONTINUITY: Final = "continuity"

_BEFORE_LIMIT: Final = 'cause=~"renewal|forced"'

CONTINUITY_ALERTS: Final = (
    Alert(
        name="RelayRenewalsFailing",
        severity="warning",
        area=CONTINUITY,
        query=(
            f"""{increase("swaps_total", "15m", f'{_BEFORE_LIMIT},result=~"failed|ended"')} """
            f"""unless on ({DEPLOYMENT}) {increase("swaps_total", "15m", f'{_BEFORE_LIMIT},result="ok"')} > 0"""
        ),
        operator=">",
        threshold=0,
        for_duration="5m",
        summary="Calls of <job> get no new connection before the provider's limit.",
        description=(
            "<number> renewals failed in the last 15 minutes, and none succeeded. The calls go on until the provider's limit "
            "and then end with session_expired. The log event session.renewal_failed states the reason."
        ),
        rationale="none in 15 minutes: a renewal begins minutes before the limit and is tried again after 30 s, 60 s, ...",
    ),
    Alert(
        name="RelayTurnsLost",
        severity="warning",
        area=CONTINUITY,
        query=increase("lost_turns_total", "1h"),
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="Calls of <job> went on without some of what their users said.",
        description=(
            "<number> turns of users were lost in the last hour when the upstream connection of their call was replaced. The "
            "label reason of realtime_relay_lost_turns_total states the cause: mostly missing transcripts, or too little "
            "memory for speech."
        ),
        rationale="any: nothing is lost where clients switch transcription on, or the memory for speech suffices",
    ),
)
