"""The alerts: the one source of Prometheus' rules, of Grafana's rules, and of the table in `docs/monitoring.md`.

Rules of this file:

* An alert is critical, and pages the operator, only where clients are affected. A fault of one instance is a warning
  while others serve.
* A single failed call does not page, and neither do the retries of one client: ratios require a minimum number of
  failures. The exceptions are a refused key and an account without credit, which do not recover by themselves.
* Alerts are grouped by deployment, `(namespace, job)`, or by instance where the remedy concerns one instance.
* Windows span at least four scrapes of 15 s. Counters that an alert uses start at 0, so that the first event counts.
"""

from typing import Final

from monitoring.burn_rate import burn_rate_alert
from monitoring.conditions import (
    FAILING_CHECK,
    FAILING_HANDSHAKE,
    HANDSHAKE_REASONS,
    INSTANCE_LIMITS,
    KNOWN_DEPLOYMENTS,
    SESSION_UTILIZATION,
    SLOW_CONNECTS,
    billing_incidents,
    failing_checks_by_reason,
    refused_clients_by_reason,
    share,
    share_of_limit,
)
from monitoring.continuity_alerts import CONTINUITY, CONTINUITY_ALERTS
from monitoring.live_alerts import LIVE, LIVE_ALERTS
from monitoring.operation_alerts import OPERATION, OPERATION_ALERTS
from monitoring.promql import (
    DEPLOYMENT,
    ENDED_BY_PROVIDER,
    INSTANCE,
    KEY_REASONS,
    QUOTA_REASON,
    metric,
    one_of,
    quantile,
)
from monitoring.rule import Alert
from service.failures import DIAL_FAILURES

CALLERS: Final = "callers"
CONVERSATIONS: Final = "conversations"
CAPACITY: Final = "capacity"

CALLERS_ALERTS: Final = (
    burn_rate_alert("1h", "5m", 14.4, "critical", CALLERS),
    burn_rate_alert("6h", "30m", 6, "critical", CALLERS),
    burn_rate_alert("1d", "2h", 3, "warning", CALLERS),
    burn_rate_alert("3d", "6h", 1, "warning", CALLERS),
    Alert(
        name="RelayKeyRejected",
        severity="critical",
        area=CALLERS,
        # A start that is refused with key_forbidden may be due to one client's voice.
        query=(
            f"({refused_clients_by_reason(KEY_REASONS, with_starts=False)}) or ({failing_checks_by_reason(KEY_REASONS)})"
        ),
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="The provider key of <job> does not work: <reason>.",
        description=(
            "Client connections or health checks fail with <reason>. New connections fail until the relay has a working key; "
            "open sessions continue. Apply the remedy."
        ),
        rationale="immediate: a refused key does not recover by itself, and it affects every client",
        reasons=KEY_REASONS,
    ),
    Alert(
        name="RelayQuotaExhausted",
        severity="critical",
        area=CALLERS,
        query=(
            f"({refused_clients_by_reason((QUOTA_REASON,))}) or ({failing_checks_by_reason((QUOTA_REASON,))}) "
            f"or {billing_incidents()}"
        ),
        operator=">",
        threshold=0,
        for_duration="0s",
        summary="The provider account of <job> has no credit left.",
        description=(
            "Client connections, open sessions or health checks fail with <reason>. New connections fail and open "
            "sessions receive no responses. Apply the remedy; waiting does not help."
        ),
        rationale="immediate: credit does not come back by itself, and open sessions receive no responses",
        reasons=(QUOTA_REASON,),
    ),
    Alert(
        name="RelayHandshakeFailing",
        severity="critical",
        area=CALLERS,
        query=FAILING_HANDSHAKE,
        operator=">",
        threshold=0,
        for_duration="1m",
        summary="No instance of <job> can open a session with the provider: <reason>.",
        description=(
            "The health check handshake fails with <reason> on every instance, so new client connections fail too. "
            "Apply the remedy."
        ),
        rationale="all instances; the check reports a temporary failure only after three in a row",
        reasons=HANDSHAKE_REASONS,
    ),
    Alert(
        name="RelayInstanceCheckFailing",
        severity="warning",
        area=CALLERS,
        query=FAILING_CHECK,
        operator=">",
        threshold=0,
        for_duration="5m",
        summary="Health check <check> fails on <instance>: <reason>.",
        description=(
            "Health check <check> on <instance> of <job> has failed with <reason> for five minutes. If it fails on "
            "every instance, a critical alert fires too, except for the check live. Apply the remedy; check whether a new "
            "key or a rollout started it."
        ),
        rationale="one instance: usually a rollout with a bad key, or a node without network",
        reasons=tuple(DIAL_FAILURES),
    ),
    Alert(
        name="RelaySlowConnects",
        severity="warning",
        area=CALLERS,
        query=SLOW_CONNECTS,
        operator=">",
        threshold=3,
        for_duration="5m",
        summary="Connections to the provider through <job> are slow.",
        description=(
            "5 % of the clients of <job> wait longer than <seconds> for the provider's first event. Below 1 s is "
            "normal; clients give up after 8 to 10 s. Find the slow phase with the query in the runbook."
        ),
        rationale=(
            "users hang up after a few seconds; 3 s leaves room before RELAY_DIAL_TIMEOUT_SECONDS (8 s) ends the "
            "dial"
        ),
    ),
    Alert(
        name="RelayAbsent",
        severity="critical",
        area=CALLERS,
        # A deployment is known for one day after its last sample, so that one removed on purpose is forgotten. The query
        # returns nothing in the good case, so that Grafana can treat "no data" as OK.
        query=(
            f'({KNOWN_DEPLOYMENTS} unless group by ({DEPLOYMENT}) ({metric("build_info")})) '
            f'or absent(last_over_time({metric("build_info")}[1d]))'
        ),
        operator=">",
        threshold=0,
        for_duration="2m",
        summary="Prometheus scrapes no relay instance[ of job <job>].",
        description=(
            "Every instance[ of job <job>] is down, or Prometheus cannot find or reach it. No other alert on these "
            "instances can fire meanwhile. Check the instances first, then the scrape configuration."
        ),
        rationale="two minutes: longer than the restart of a single instance takes",
    ),
    Alert(
        name="RelayInstanceDown",
        severity="warning",
        area=CALLERS,
        query=f"max by ({INSTANCE}) (up) and on ({DEPLOYMENT}) {KNOWN_DEPLOYMENTS}",
        operator="<",
        threshold=1,
        for_duration="5m",
        summary="Prometheus cannot scrape <instance> of <job>.",
        description=(
            "<instance> of <job> has not been scraped for five minutes. If its process died, its sessions are lost. "
            "Check whether it was killed, and why (OOMKilled: memory)."
        ),
        rationale="five minutes: longer than a rollout takes to replace an instance",
    ),
)  # fmt: skip

CONVERSATION_ALERTS: Final = (
    Alert(
        name="RelaySessionsEndedByProvider",
        severity="warning",
        area=CONVERSATIONS,
        query=share("sessions_ended_total", "15m", f'reason=~"{one_of(ENDED_BY_PROVIDER)}"'),
        operator=">",
        threshold=0.1,
        for_duration="5m",
        summary="The provider ends open sessions of <job>.",
        description=(
            "<percent> of the sessions that ended in the last 15 minutes were closed by the provider or lost their "
            "connection to it. Below 1 % is normal. Check the reasons: upstream_lost points to the network, "
            "upstream_closed to the provider."
        ),
        rationale="10 %: deployments of the provider cut some sessions each day and last a few minutes",
    ),
    Alert(
        name="RelayResponsesFailing",
        severity="critical",
        area=CONVERSATIONS,
        query=share("responses_total", "10m", 'status="failed"'),
        operator=">",
        threshold=0.2,
        for_duration="5m",
        summary="Responses fail in open sessions of <job>.",
        description=(
            "<percent> of the responses of the last ten minutes failed at the provider. Below 1 % is normal. Clients "
            "stay connected but receive no answer. Check the provider's error codes with the query in the runbook."
        ),
        rationale="20 %: clients connect, so no other alert fires, but users hear silence in the middle of a call",
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
        for_duration="5m",
        summary="The event loop of <instance> lags: audio is delayed.",
        description=(
            "The 99th percentile of the event loop lag of <instance> is <seconds>. Below 20 ms is inaudible. Check its "
            "CPU usage and CPU throttling, then add instances."
        ),
        rationale="100 ms in addition to the provider's own latency is audible as a stutter",
    ),
    Alert(
        name="RelayNearCapacity",
        severity="warning",
        area=CAPACITY,
        query=SESSION_UTILIZATION,
        operator=">",
        threshold=0.85,
        for_duration="5m",
        summary="<job> is near its session limit.",
        description=(
            "The serving instances of <job> use <percent> of their session limit. At 100 % the relay refuses clients "
            "with relay_full, which the connection alerts count. Add instances, or raise RELAY_MAX_SESSIONS."
        ),
        rationale="85 % leaves time to add an instance before the relay refuses clients",
    ),
    Alert(
        name="RelayInstanceNearLimit",
        severity="warning",
        area=CAPACITY,
        query=" or ".join(share_of_limit(*limit) for limit in INSTANCE_LIMITS),
        operator=">",
        threshold=0.85,
        for_duration="5m",
        summary="<instance> is near its limit on <resource>.",
        description=(
            "<instance> of <job> uses <percent> of its limit on <resource>. Add an instance or raise the limit. For "
            "dials, check first whether the provider is slow."
        ),
        rationale=(
            "at 100 % the kernel kills the process (memory), the relay closes new connections unanswered (open files), "
            "or it refuses clients (dials)"
        ),
    ),
)  # fmt: skip

GROUPS: Final = {
    CALLERS: CALLERS_ALERTS,
    CONVERSATIONS: CONVERSATION_ALERTS,
    CONTINUITY: CONTINUITY_ALERTS,
    LIVE: LIVE_ALERTS,
    CAPACITY: CAPACITY_ALERTS,
    OPERATION: OPERATION_ALERTS,
}
ALERTS: Final = tuple(alert for group in GROUPS.values() for alert in group)
