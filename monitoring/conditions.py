"""The longer queries of alerts, in PromQL built from the service's own names.

A query returns a value only; its threshold is declared in `alerts`.
"""

from typing import Final

from monitoring.promql import (
    BILLING_CODES,
    DEPLOYMENT,
    INSTANCE,
    KEY_REASONS,
    QUOTA_REASON,
    increase,
    metric,
    one_of,
    quantile,
)
from service.failures import DIAL_FAILURES, Phase
from service.realtime.incidents import RESPONSE_DONE
from service.realtime.live import RESPONSE_EVENT

MIN_FAILURES: Final = 10
# Keys and credit have alerts of their own, which the alert on the handshake would duplicate.
HANDSHAKE_REASONS: Final = tuple(reason for reason in DIAL_FAILURES if reason not in {*KEY_REASONS, QUOTA_REASON})


def failing_checks_by_reason(reasons: tuple[str, ...]) -> str:
    """Checks that fail for one of these reasons on every instance.

    A single failing instance is a rollout that a bad key stopped while the other instances serve: it must not page. Nor must
    the optional check of GPT-Live, while the Realtime API works.
    """
    by_instance = (
        f'max by ({INSTANCE}, reason) ({metric("health_check_reason")}{{check!="live", reason=~"{one_of(reasons)}"}})'
    )
    return f"min by ({DEPLOYMENT}, reason) ({by_instance}) > 0"


def refused_clients_by_reason(reasons: tuple[str, ...], *, with_starts: bool = True) -> str:
    """Client connections that failed for one of these reasons within 5 minutes; `with_starts`: starts of GPT-Live, too."""
    matchers = f'reason=~"{one_of(reasons)}"' + ("" if with_starts else f', phase!="{Phase.SESSION_START}"')
    return f"{increase('connection_failures_total', '5m', matchers, f'{DEPLOYMENT}, reason')} > 0"


def billing_incidents() -> str:
    """Events in open sessions by which the provider reports an account without credit."""
    codes = f'code=~"{one_of(BILLING_CODES)}"'
    incidents = increase("session_incidents_total", "5m", f'event=~"{RESPONSE_DONE}|{RESPONSE_EVENT}", {codes}')
    errors = increase("upstream_error_events_total", "5m", codes)
    return f'label_replace(({incidents} > 0) or ({errors} > 0), "reason", "{QUOTA_REASON}", "", "")'


FAILING_HANDSHAKE: Final = (
    f'min by ({DEPLOYMENT}) ({metric("health_check_status")}{{check="handshake", status="fail"}}) '
    f"* on ({DEPLOYMENT}) group_right () max by ({DEPLOYMENT}, reason) "
    f'({metric("health_check_reason")}{{check="handshake", reason=~"{one_of(HANDSHAKE_REASONS)}"}})'
)
FAILING_CHECK: Final = (
    f'max by ({INSTANCE}, check) ({metric("health_check_status")}{{status="fail"}}) '
    f"* on ({INSTANCE}, check) group_right () "
    f"max by ({INSTANCE}, check, reason) ({metric('health_check_reason')})"
)
SLOW_CONNECTS: Final = (
    f"{quantile(0.95, 'time_to_first_event_seconds', '10m')} and on ({DEPLOYMENT}) "
    f"{increase('time_to_first_event_seconds_count', '10m')} >= {MIN_FAILURES}"
)
# A draining instance accepts no session, so it adds neither capacity nor load.
SERVING: Final = f"* on ({INSTANCE}) group_left () (1 - {metric('draining')})"
SESSION_UTILIZATION: Final = (
    f"sum by ({DEPLOYMENT}) ({metric('sessions_active')} {SERVING}) / "
    f"sum by ({DEPLOYMENT}) ({metric('sessions_limit')} {SERVING})"
)
KNOWN_DEPLOYMENTS: Final = f"group by ({DEPLOYMENT}) (last_over_time({metric('build_info')}[1d]))"
INSTANCE_LIMITS: Final = (
    ("memory", "process_resident_memory_bytes", metric("memory_limit_bytes")),
    ("open files", "process_open_fds", "process_max_fds"),
    ("dials", metric("dials_active"), metric("dials_limit")),
)


def share_of_limit(resource: str, usage: str, limit: str) -> str:
    """The share of a limit that an instance uses, with the label `resource` naming the limit."""
    # Every process exposes process_*; only a relay also exposes the relay's build_info.
    ratio = (
        f"max by ({INSTANCE}) ({usage}) / max by ({INSTANCE}) ({limit}) "
        f"and on ({INSTANCE}) max by ({INSTANCE}) ({metric('build_info')})"
    )
    return f'label_replace({ratio}, "resource", "{resource}", "", "")'


def share(name: str, window: str, matchers: str) -> str:
    """The share of the series that match in the whole counter; no value below MIN_FAILURES matching events."""
    matching = increase(name, window, matchers)
    return f"{matching} / {increase(name, window)} and on ({DEPLOYMENT}) {matching} >= {MIN_FAILURES}"


FAILED_SESSIONS_AND_TASKS: Final = " + ".join((
    increase("sessions_ended_total", "15m", 'reason="internal_error"'),
    increase("background_task_crashes_total", "15m"),
))  # fmt: skip
FAILED_REQUESTS: Final = increase("admissions_total", "15m", 'result="internal_error"')
