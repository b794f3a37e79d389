"""The expected failures of dials. Their series start at 0, because `increase()` ignores the first sample of a series."""

from collections.abc import Mapping
from typing import Final

from service.failures import Phase

_BY_PHASE: Final[Mapping[Phase, Mapping[str, tuple[str, ...]]]] = {
    Phase.DNS: {
        "none": ("dns_filtered", "dns_failed", "connect_timeout"),
    },
    Phase.CONNECT: {
        "407": ("proxy_auth_failed",),
        "none": (
            "bad_reply",
            "connect_refused",
            "network_unreachable",
            "proxy_failed",
            "tls_failed",
            "tls_untrusted",
            "connect_timeout",
            "client_left",
        ),
    },
    Phase.UPGRADE: {
        "101": ("bad_reply",),
        "200": ("bad_reply",),
        "302": ("redirect_refused",),
        "400": ("request_rejected",),
        "401": (
            "key_rejected",
            "key_forbidden",
            "account_refused",
            "wrong_host",
            "network_not_allowed",
            "blocked_before_api",
        ),
        "403": ("key_forbidden", "network_not_allowed", "blocked_before_api", "region_blocked"),
        "404": ("wrong_base_url", "model_not_found", "call_not_found"),
        "429": ("limited_before_api", "quota_exhausted", "rate_limited"),
        "500": ("upstream_error",),
        "502": ("upstream_error",),
        "503": ("upstream_overloaded",),
        "504": ("upstream_error",),
        "520": ("upstream_error",),
        "none": ("dropped_early", "reply_timeout", "client_left"),
    },
    Phase.FIRST_EVENT: {
        "1013": ("quota_exhausted", "rate_limited", "upstream_overloaded"),
        "3000": ("key_missing", "key_rejected", "key_forbidden", "account_refused", "wrong_host"),
        "4000": ("request_rejected", "beta_shape", "model_not_found"),
        "4004": ("model_not_found",),
        "none": ("dropped_early", "first_event_timeout", "policy_rejected", "session_rejected", "client_left"),
    },
    Phase.SESSION_START: {
        "4000": ("quota_exhausted", "model_not_found", "key_forbidden", "request_rejected"),
        "none": (
            "quota_exhausted",
            "model_not_found",
            "key_forbidden",
            "request_rejected",
            "dropped_early",
            "first_event_timeout",
            "client_left",
        ),
    },
    Phase.BREAKER: {
        "1013": ("quota_exhausted",),
        "3000": ("key_rejected", "key_forbidden"),
        "none": ("tls_untrusted",),
    },
}
"""Reasons by the phase in which they occur and the status that the provider sends then."""

EXPECTED_FAILURES: Final = tuple(
    (reason, phase, status)
    for phase, by_status in _BY_PHASE.items()
    for status, reasons in by_status.items()
    for reason in reasons
)
"""Reason, phase and status of each expected failure."""
