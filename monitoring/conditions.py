"""What the alerts ask, where it takes more than a line: PromQL made from the service's own names.

Every query is on its own side of the threshold: it says how much, and `alerts` says from when on that matters.
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
from service.failures import DIAL_FAILURES
from service.realtime.incidents import RESPONSE_DONE

LEAST_FAILURES: Final = 10
# Keys and credit have alerts of their own; the handshake's alert would only say the same again.
HANDSHAKE_REASONS: Final = tuple(reason for reason in DIAL_FAILURES if reason not in {*KEY_REASONS, QUOTA_REASON})


def checks_by_reason(reasons: tuple[str, ...]) -> str:
    """Health checks of all instances that do not pass for one of these reasons.

    One of several is a rollout that was stopped by a bad key, while the others serve: nobody is to be woken.
    """
    each = f'max by ({INSTANCE}, reason) ({metric("health_check_reason")}{{reason=~"{one_of(reasons)}"}})'
    return f"min by ({DEPLOYMENT}, reason) ({each}) > 0"


def callers_by_reason(reasons: tuple[str, ...]) -> str:
    """Callers that were refused for one of these reasons."""
    matchers = f'reason=~"{one_of(reasons)}"'
    return f"{increase('connection_failures_total', '5m', matchers, f'{DEPLOYMENT}, reason')} > 0"


def billing_incidents() -> str:
    """Open sessions that were told that the account has no credit."""
    codes = f'code=~"{one_of(BILLING_CODES)}"'
    within = increase("session_incidents_total", "5m", f'event="{RESPONSE_DONE}", {codes}')
    told = increase("upstream_error_events_total", "5m", codes)
    return f'label_replace(({within} > 0) or ({told} > 0), "reason", "{QUOTA_REASON}", "", "")'


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
SLOW: Final = (
    f"{quantile(0.95, 'time_to_first_event_seconds', '10m')} and on ({DEPLOYMENT}) "
    f"{increase('time_to_first_event_seconds_count', '10m')} >= {LEAST_FAILURES}"
)
# An instance that is shutting down has no room for anybody, and its sessions end.
SERVING: Final = f"* on ({INSTANCE}) (1 - {metric('draining')})"
SHARE_TAKEN: Final = (
    f"sum by ({DEPLOYMENT}) ({metric('sessions_active')} {SERVING}) / "
    f"sum by ({DEPLOYMENT}) ({metric('sessions_limit')} {SERVING})"
)
KNOWN_RELAYS: Final = f"group by ({DEPLOYMENT}) (last_over_time({metric('build_info')}[1d]))"
SHORT_OF: Final = (
    ("memory", "process_resident_memory_bytes", metric("memory_limit_bytes")),
    ("open files", "process_open_fds", "process_max_fds"),
    ("dials", metric("dials_active"), metric("dials_limit")),
)


def share_of_limit(resource: str, usage: str, limit: str) -> str:
    """How much of a limit an instance uses; the label `resource` says of which."""
    # Every process has process_*: only a relay's have a relay's build_info beside them.
    share = (
        f"max by ({INSTANCE}) ({usage}) / max by ({INSTANCE}) ({limit}) "
        f"and on ({INSTANCE}) max by ({INSTANCE}) ({metric('build_info')})"
    )
    return f'label_replace({share}, "resource", "{resource}", "", "")'


def share(name: str, window: str, matchers: str) -> str:
    """The share of some in all that were counted, once there are enough of them to speak of a share."""
    some = increase(name, window, matchers)
    return f"{some} / {increase(name, window)} and on ({DEPLOYMENT}) {some} >= {LEAST_FAILURES}"


BUGS_IN_SESSIONS_AND_TASKS: Final = " + ".join((
    increase("sessions_ended_total", "15m", 'reason="internal_error"'),
    increase("background_task_crashes_total", "15m"),
))  # fmt: skip
FAILED_REQUESTS: Final = increase("admissions_total", "15m", 'result="internal_error"')
