"""THE list of alerts: the one source of Prometheus' rules, of Grafana's, and of the table in `docs/monitoring.md`.

Rules of this file:

* Critical wakes somebody, and only where callers suffer. What concerns one instance while others serve is a warning.
* A single failed call wakes nobody, and neither do one caller's retries: ratios ask for a least number of failures. The
  exceptions are a refused key and an account without credit, which no waiting mends.
* By deployment, `(namespace, job)`; by instance where the remedy is one instance's.
* Windows are at least four scrapes of 15 s long, and counters that an alert looks at start at 0.
"""

from typing import Final

from monitoring.conditions import (
    BUGS_IN_SESSIONS_AND_TASKS,
    FAILED_REQUESTS,
    FAILING_CHECK,
    FAILING_HANDSHAKE,
    HANDSHAKE_REASONS,
    KNOWN_RELAYS,
    LEAST_FAILURES,
    SHARE_TAKEN,
    SHORT_OF,
    SLOW,
    billing_incidents,
    callers_by_reason,
    checks_by_reason,
    share,
    share_of_limit,
)
from monitoring.promql import (
    COUNTED,
    CUT_BY_PROVIDER,
    DEPLOYMENT,
    INSTANCE,
    KEY_REASONS,
    QUOTA_REASON,
    increase,
    metric,
    one_of,
    quantile,
)
from monitoring.recording import BUDGET, by_reason_name, ratio_name
from monitoring.rule import Alert
from service.failures import DIAL_FAILURES

CALLERS: Final = "callers"
CONVERSATIONS: Final = "conversations"
CAPACITY: Final = "capacity"
OPERATION: Final = "operation"

_WORDS: Final = {"1h": "hour", "6h": "6 hours", "1d": "day", "3d": "3 days"}


def _burn(long: str, short: str, factor: float, severity: str) -> Alert:
    """Failures that use up the error budget `factor` times too fast, now and for some time.

    The condition is on all failures together. One alert stands for each reason that makes at least half as many as the
    worst: so there is always one, and it keeps its name while others come and go.
    """
    by_reason = by_reason_name(long)
    threshold = round(factor * BUDGET, 4)
    times = f"{factor:g} times what " if factor > 1 else "what "
    worst = f"{by_reason} >= on ({DEPLOYMENT}) group_left () (0.5 * max by ({DEPLOYMENT}) ({by_reason}))"
    return Alert(
        name=f"RelayConnectFailures{long}",
        severity="critical" if severity == "critical" else "warning",
        area=CALLERS,
        query=(
            f"({ratio_name(long)} and {ratio_name(short)} > {threshold:g} "
            f"and sum by ({DEPLOYMENT}) ({by_reason}) >= {LEAST_FAILURES}) "
            f"* on ({DEPLOYMENT}) group_right () ({worst}) ^ 0"
        ),
        operator=">",
        threshold=threshold,
        hold="0s",
        summary="Callers of <job> do not get through: <reason>.",
        description=(
            f"<percent> of the connects of the last {_WORDS[long]} failed, mostly as <reason>, and it goes on. "
            f"That is more than {times}the objective of 99.5 % allows."
        ),
        because=(
            f"{factor:g} x the budget of 0.5 % over {long}, and still over {short}; at least {LEAST_FAILURES} failures"
        ),
        reasons=COUNTED,
    )


CALLERS_ALERTS: Final = (
    # Multi-window, multi-burn-rate, as in the SRE workbook: the long window: it matters; the short one: it lasts.
    _burn("1h", "5m", 14.4, "critical"),
    _burn("6h", "30m", 6, "critical"),
    _burn("1d", "2h", 3, "warning"),
    _burn("3d", "6h", 1, "warning"),
    Alert(
        name="RelayKeyRejected",
        severity="critical",
        area=CALLERS,
        query=f"({callers_by_reason(KEY_REASONS)}) or ({checks_by_reason(KEY_REASONS)})",
        operator=">",
        threshold=0,
        hold="0s",
        summary="The provider's key of <job> does not serve: <reason>.",
        description=(
            "Callers or the health checks were refused as <reason>. Nobody new gets through until the key is "
            "mended."
        ),
        because="at once: a refused key does not mend itself, and every caller meets it",
        reasons=KEY_REASONS,
    ),
    Alert(
        name="RelayQuotaExhausted",
        severity="critical",
        area=CALLERS,
        query=(
            f"({callers_by_reason((QUOTA_REASON,))}) or ({checks_by_reason((QUOTA_REASON,))}) or {billing_incidents()}"
        ),
        operator=">",
        threshold=0,
        hold="0s",
        summary="The provider's account of <job> has no credit left.",
        description="Callers, open sessions or the health checks were refused as <reason>. Waiting does not help.",
        because="at once: credit does not come back by itself, and open sessions fall silent",
        reasons=(QUOTA_REASON,),
    ),
    Alert(
        name="RelayHandshakeFailing",
        severity="critical",
        area=CALLERS,
        query=FAILING_HANDSHAKE,
        operator=">",
        threshold=0,
        hold="1m",
        summary="No instance of <job> reaches the provider: <reason>.",
        description=(
            "On every instance the check `handshake` fails, as <reason>: whoever calls now does not get "
            "through."
        ),
        because="all instances: the check itself asks for three failures in a row before it says so",
        reasons=HANDSHAKE_REASONS,
    ),
    Alert(
        name="RelayInstanceCheckFailing",
        severity="warning",
        area=CALLERS,
        query=FAILING_CHECK,
        operator=">",
        threshold=0,
        hold="5m",
        summary="The check <check> of <instance> fails: <reason>.",
        description=(
            "On <instance> of <job> the check <check> has been failing as <reason>. If it fails on all of "
            "them, a critical alert says so."
        ),
        because="one instance: mostly a rollout with a bad key, or a node without network",
        reasons=tuple(DIAL_FAILURES),
    ),
    Alert(
        name="RelaySlowConnects",
        severity="warning",
        area=CALLERS,
        query=SLOW,
        operator=">",
        threshold=3,
        hold="5m",
        summary="Callers of <job> wait long until they can speak.",
        description=(
            "One caller in twenty waits longer than <seconds> for the provider's first event. Below one second "
            "is normal; clients give up after 8 to 10."
        ),
        because="people hang up after some seconds; 3 s leaves room before the dial's budget of 8 s ends it",
    ),
    Alert(
        name="RelayAbsent",
        severity="critical",
        area=CALLERS,
        # Holds for a day, so that a deployment that was removed on purpose is forgotten then. It returns nothing while all is
        # well, so that "no data" is the good case in Grafana, too.
        query=(
            f'({KNOWN_RELAYS} unless group by ({DEPLOYMENT}) ({metric("build_info")})) '
            f'or absent(last_over_time({metric("build_info")}[1d]))'
        ),
        operator=">",
        threshold=0,
        hold="2m",
        summary="No relay <job> can be scraped.",
        description=(
            "Prometheus reaches no instance of <job>. Either all of them are down, or it has lost sight of "
            "them; then no other alert can fire."
        ),
        because="two minutes: longer than a restart of a single instance takes",
    ),
    Alert(
        name="RelayInstanceDown",
        severity="warning",
        area=CALLERS,
        query=f"max by ({INSTANCE}) (up) and on ({DEPLOYMENT}) {KNOWN_RELAYS}",
        operator="<",
        threshold=1,
        hold="5m",
        summary="<instance> of <job> cannot be scraped.",
        description=(
            "Prometheus has not reached <instance> of <job> for five minutes. Its sessions are lost if it "
            "died."
        ),
        because="five minutes: longer than a rollout takes to replace an instance",
    ),
)  # fmt: skip

CONVERSATION_ALERTS: Final = (
    Alert(
        name="RelaySessionsEndedByProvider",
        severity="warning",
        area=CONVERSATIONS,
        query=share("sessions_ended_total", "15m", f'reason=~"{one_of(CUT_BY_PROVIDER)}"'),
        operator=">",
        threshold=0.1,
        hold="5m",
        summary="The provider ends calls of <job> midway.",
        description=(
            "<percent> of the sessions that ended within 15 minutes were cut by the provider or on the way to "
            "it. Below 1 % is normal."
        ),
        because="a tenth: a provider's deployment cuts some sessions each day and is over within minutes",
    ),
    Alert(
        name="RelayResponsesFailing",
        severity="critical",
        area=CONVERSATIONS,
        query=share("responses_total", "10m", 'status="failed"'),
        operator=">",
        threshold=0.2,
        hold="5m",
        summary="Callers of <job> get through and hear nothing.",
        description="<percent> of the responses of the last ten minutes failed at the provider. Below 1 % is normal.",
        because="a fifth: callers connect, so that no other alert sees it, and hear silence in the middle of a call",
    ),
)  # fmt: skip

CAPACITY_ALERTS: Final = (
    Alert(
        name="RelayLoopLag",
        severity="warning",
        area=CAPACITY,
        query=quantile(0.99, "event_loop_lag_seconds", "5m", by=INSTANCE),
        operator=">",
        threshold=0.1,
        hold="5m",
        summary="<instance> is late: speech is delayed or chopped.",
        description=(
            "Once in a hundred measurements the event loop of <instance> was late by <seconds> or more. Below "
            "20 ms nobody hears it."
        ),
        because="100 ms on top of the provider's own delay is heard as a stumble",
    ),
    Alert(
        name="RelayNearCapacity",
        severity="warning",
        area=CAPACITY,
        query=SHARE_TAKEN,
        operator=">",
        threshold=0.85,
        hold="5m",
        summary="<job> is nearly full.",
        description=(
            "All instances that serve carry together <percent> of the sessions that they may. At 100 % callers are "
            "refused as relay_full, which the connect alerts count."
        ),
        because="85 % leaves time to add an instance before callers are refused",
    ),
    Alert(
        name="RelayInstanceNearLimit",
        severity="warning",
        area=CAPACITY,
        query=" or ".join(share_of_limit(*each) for each in SHORT_OF),
        operator=">",
        threshold=0.85,
        hold="5m",
        summary="<instance> runs short of <resource>.",
        description="<instance> of <job> uses <percent> of its limit on <resource>.",
        because=(
            "at 100 % the kernel ends the process (memory), connections are cut off unheard (open files), or "
            "callers are refused (dials)"
        ),
    ),
)  # fmt: skip

OPERATION_ALERTS: Final = (
    Alert(
        name="RelayKeyRotationRefused",
        severity="warning",
        area=OPERATION,
        query=f'max by ({INSTANCE}) ({metric("key_file_refused")})',
        operator=">",
        threshold=0,
        hold="0s",
        summary="<instance> did not take the new key in its file.",
        description=(
            "A key that was put into the file of OPENAI_API_KEY_FILE was refused; <instance> goes on with the "
            "one before it. A restart would find only the new one."
        ),
        because=(
            "at once: whoever has just rotated the key is still there to mend it; it ends when the file is mended"
        ),
    ),
    Alert(
        name="RelayInternalErrors",
        severity="warning",
        area=OPERATION,
        query=f"({BUGS_IN_SESSIONS_AND_TASKS} > 0) or ({FAILED_REQUESTS} > 0)",
        operator=">",
        threshold=0,
        hold="0s",
        summary="<job> has a bug that has struck.",
        description=(
            "<number> sessions, requests or background tasks of <job> failed by the relay's own fault within "
            "15 minutes. The log has tracebacks."
        ),
        because="any: each one is a bug, but it ends one session or is started again, so that nobody is woken",
    ),
    Alert(
        name="RelayLogLinesDropped",
        severity="warning",
        area=OPERATION,
        query=increase("log_lines_dropped_total", "15m", by=INSTANCE),
        operator=">",
        threshold=0,
        hold="0s",
        summary="Log lines of <instance> are lost.",
        description=(
            "<number> log lines of <instance> were dropped within 15 minutes, because whoever reads them does "
            "not keep up. Calls are not affected."
        ),
        because="any: ten thousand lines wait before the first is dropped",
    ),
    Alert(
        name="RelayDrainHangs",
        severity="warning",
        area=OPERATION,
        query=f'max by ({INSTANCE}) ({metric("draining")})',
        operator=">",
        threshold=0,
        hold="15m",
        summary="<instance> has been shutting down for long.",
        description="<instance> of <job> takes nobody new and has not ended for 15 minutes.",
        because=(
            "15 minutes: Kubernetes' manifest gives 10; whoever sets a longer RELAY_DRAIN_SECONDS sets this "
            "one, too"
        ),
    ),
)  # fmt: skip

GROUPS: Final = {
    CALLERS: CALLERS_ALERTS,
    CONVERSATIONS: CONVERSATION_ALERTS,
    CAPACITY: CAPACITY_ALERTS,
    OPERATION: OPERATION_ALERTS,
}
ALERTS: Final = tuple(alert for group in GROUPS.values() for alert in group)
