"""Metrics of the tokens of OpenID providers, and of client secrets."""

from typing import Final

from prometheus_client import CollectorRegistry

from service.telemetry.series import Counter, Gauge

CHECKS: Final = (
    "accepted", "malformed", "algorithm", "issuer", "audience", "user", "signature", "unknown_key", "no_keys", "expired",
    "not_yet_valid",
)  # fmt: skip
FETCHES: Final = ("fetched", "failed")


class TokenMetrics:
    """The metrics; every series starts at 0."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self.checks = Counter(
            f"{prefix}_jwt_checks_total",
            "Checks of JWTs of the providers in RELAY_CLIENTS_FILE by result: accepted, or what is wrong with the token.",
            ("result",),
            registry=registry,
        )
        self.fetches = Counter(
            f"{prefix}_jwks_fetches_total",
            "Fetches of the key sets (JWKS) of these providers by result: fetched or failed.",
            ("result",),
            registry=registry,
        )
        self.failing = Gauge(
            f"{prefix}_jwks_failing",
            "Key sets whose last fetch failed; the keys of the last good one stay in use.",
            registry=registry,
        )
        self.client_secrets = Counter(
            f"{prefix}_client_secrets_total",
            "Client secrets that clients have created, and that have been used; refused ones are in admissions_total.",
            ("event",),
            registry=registry,
        )
        self.client_secrets.start_at_zero(("created", "used"))
        self.checks.start_at_zero(CHECKS)
        self.fetches.start_at_zero(FETCHES)
