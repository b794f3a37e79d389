"""Building blocks for PromQL. Names and reasons come from the service's code, so that a rename cannot leave a dead query.

All sums are by `(namespace, job)`, which keeps several deployments in one Prometheus apart. Outside Kubernetes the
namespace is empty, which is harmless.
"""

from collections.abc import Iterable
from typing import Final

from service.failures import ADMISSION_FAILURES, DIAL_FAILURES, ENDINGS, START_FAILURES, Blame
from service.realtime.events import ERROR_CODES, ErrorEvent
from service.telemetry.metrics import PREFIX
from service.upstream.translate import from_events

DEPLOYMENT: Final = "namespace, job"
INSTANCE: Final = "namespace, job, instance"

CAUSED_BY_CLIENT: Final = (
    *(
        reason
        for reason, row in {**ADMISSION_FAILURES, **DIAL_FAILURES, **START_FAILURES}.items()
        if row.blame is Blame.CLIENT
    ),
    "relay_draining",
)
"""Failures that clients cause, and draining, which the operator requests. They never page and do not count against the
objective. RelayAbsent and RelayDrainHangs cover an instance that shuts down unintentionally."""
COUNTED_REASONS: Final = (
    *(reason for reason in {**ADMISSION_FAILURES, **DIAL_FAILURES} if reason not in CAUSED_BY_CLIENT),
    "internal_error",
)
"""All other failed connections: those that count against the objective."""

KEY_REASONS: Final = tuple(reason for reason in DIAL_FAILURES if reason.startswith("key_"))
QUOTA_REASON: Final = "quota_exhausted"
# Every session ends at the provider's maximum duration, which is not a fault. A lost connection is one, whatever its cause.
ENDED_BY_PROVIDER: Final = tuple(
    reason
    for reason, row in ENDINGS.items()
    if (row.blame is Blame.PROVIDER and reason != "session_expired") or reason == "upstream_lost"
)


def _billing_codes() -> tuple[str, ...]:
    def reason(code: str) -> str:
        return from_events(ErrorEvent("", code, ""), None, "").reason

    return tuple(sorted(code for code in ERROR_CODES if reason(code) == QUOTA_REASON))


BILLING_CODES: Final = _billing_codes()
"""The provider's error codes that the relay translates to `quota_exhausted`."""


def metric(name: str) -> str:
    """The full name of a metric of the relay."""
    return f"{PREFIX}_{name}"


def one_of(values: Iterable[str]) -> str:
    """A regular expression that matches any of the values; Prometheus anchors it."""
    return "|".join(values)


def increase(name: str, window: str, matchers: str = "", by: str = DEPLOYMENT) -> str:
    """The increase of a counter within a window, summed."""
    selector = f"{{{matchers}}}" if matchers else ""
    return f"sum by ({by}) (increase({metric(name)}{selector}[{window}]))"


def rate(name: str, window: str, matchers: str = "", by: str = DEPLOYMENT) -> str:
    """The per-second rate of a counter, summed."""
    selector = f"{{{matchers}}}" if matchers else ""
    return f"sum by ({by}) (rate({metric(name)}{selector}[{window}]))"


def quantile(share: float, name: str, window: str, matchers: str = "", by: str = DEPLOYMENT) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share:g}, {rate(f'{name}_bucket', window, matchers, f'{by}, le')})"
