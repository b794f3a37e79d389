"""Decides whether the key is valid, from two checks: GET /v1/models/{model} and the handshake. Pure."""

from service.failures import Failure
from service.health.checks import HealthCheck, Source
from service.upstream.rest import is_inconclusive, shows_key_is_valid


def judge_key(
    models_failure: Failure | None, handshake: HealthCheck, *, handshake_proves_key: bool
) -> tuple[Failure | None, Source]:
    """Whether the provider accepts the key: the failure, or None, and the source of the verdict.

    `models_failure` is the outcome of the model request, `handshake` the check after its own refresh. A session that opens
    proves the key whatever the model request returned, since a key may be restricted to the Realtime API. It does so only
    if the dial waits for a first event (`handshake_proves_key`).
    """
    refusal = handshake.reason if handshake.failures else None
    if refusal is not None and refusal.startswith("key_"):
        return Failure(refusal, hint=handshake.hint, evidence=handshake.evidence), "active"
    if handshake.failures == 0 and handshake_proves_key:
        return None, handshake.source if models_failure is not None else "active"
    if models_failure is None or shows_key_is_valid(models_failure):
        return None, "active"
    if refusal is not None and is_inconclusive(models_failure):
        return Failure(refusal, hint=handshake.hint, evidence=handshake.evidence), "active"
    return models_failure, "active"
