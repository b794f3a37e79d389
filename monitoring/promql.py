"""Names and sets for PromQL, taken from the service's code, so that a renamed reason or metric is no silent query.

Everything is summed by `(namespace, job)`: several deployments in one Prometheus do not mix, and without Kubernetes the
namespace is empty and does no harm.
"""

from collections.abc import Iterable
from typing import Final

from service.failures import DIAL_FAILURES, ENDINGS, REFUSALS, Blame
from service.realtime.events import ERROR_CODES, ErrorEvent
from service.telemetry.metrics import PREFIX
from service.upstream.translate import from_events

DEPLOYMENT: Final = "namespace, job"
INSTANCE: Final = "namespace, job, instance"

OWN_DOING: Final = (
    *(reason for reason, row in {**REFUSALS, **DIAL_FAILURES}.items() if row.blame is Blame.CLIENT),
    "relay_draining",
)
"""Failures that callers bring about themselves, and the one that the operator asks for; they wake nobody and are no part of
the objective. That an instance which should serve is shutting down, others see: it is absent, or its drain hangs."""
COUNTED: Final = (*(reason for reason in {**REFUSALS, **DIAL_FAILURES} if reason not in OWN_DOING), "internal_error")
"""All other failures to connect: what the objective is about."""

KEY_REASONS: Final = tuple(reason for reason in DIAL_FAILURES if reason.startswith("key_"))
QUOTA_REASON: Final = "quota_exhausted"
# An hour is over for every session; that is no fault. A lost connection is, whoever cut it.
CUT_BY_PROVIDER: Final = tuple(
    reason
    for reason, row in ENDINGS.items()
    if (row.blame is Blame.PROVIDER and reason != "session_expired") or reason == "upstream_lost"
)


def _billing_codes() -> tuple[str, ...]:
    def reason(code: str) -> str:
        return from_events(ErrorEvent("", code, ""), None, "").reason

    return tuple(sorted(code for code in ERROR_CODES if reason(code) == QUOTA_REASON))


BILLING_CODES: Final = _billing_codes()
"""The provider's codes for an account without credit, as the relay translates them."""


def metric(name: str) -> str:
    """A metric of the relay by its short name."""
    return f"{PREFIX}_{name}"


def one_of(values: Iterable[str]) -> str:
    """A regular expression for a label; Prometheus anchors it."""
    return "|".join(values)


def increase(name: str, window: str, matchers: str = "", by: str = DEPLOYMENT) -> str:
    """How much a counter grew within a window, summed."""
    selector = f"{{{matchers}}}" if matchers else ""
    return f"sum by ({by}) (increase({metric(name)}{selector}[{window}]))"


def rate(name: str, window: str, matchers: str = "", by: str = DEPLOYMENT) -> str:
    """How much a counter grows each second, summed."""
    selector = f"{{{matchers}}}" if matchers else ""
    return f"sum by ({by}) (rate({metric(name)}{selector}[{window}]))"


def quantile(share: float, name: str, window: str, matchers: str = "", by: str = DEPLOYMENT) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({share:g}, {rate(f'{name}_bucket', window, matchers, f'{by}, le')})"
