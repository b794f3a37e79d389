"""The verdict on the key from the model request and the handshake."""

import pytest

from service.failures import Failure
from service.health.checks import HealthCheck
from service.health.key_verdict import judge_key

FORBIDDEN = Failure("key_forbidden")
NO_SUCH_MODEL = Failure("model_not_found", upstream_code="model_not_found")
NO_SUCH_PATH = Failure("model_not_found")


def handshake(reason: str | None) -> HealthCheck:
    """The handshake check after a failure with this reason, or after a success."""
    check = HealthCheck("handshake")
    if reason is None:
        check.succeeded(1.0, 0.1, "traffic")
    else:
        check.failed(Failure(reason), 1.0, 0.1)
    return check


@pytest.mark.parametrize(
    ("models_failure", "refusal", "handshake_proves_key", "expected"),
    [
        pytest.param(None, None, True, None, id="both-pass"),
        pytest.param(FORBIDDEN, None, True, None, id="restricted-key"),
        pytest.param(FORBIDDEN, None, False, "key_forbidden", id="handshake-without-first-event"),
        pytest.param(None, "key_rejected", True, "key_rejected", id="handshake-refuses-the-key"),
        pytest.param(None, "connect_timeout", True, None, id="only-models-answer"),
        pytest.param(NO_SUCH_MODEL, "model_not_found", True, None, id="model-is-checked-after-the-key"),
        pytest.param(NO_SUCH_PATH, "quota_exhausted", True, "quota_exhausted", id="models-are-not-served"),
        pytest.param(FORBIDDEN, "quota_exhausted", True, "key_forbidden", id="models-refuse-the-key"),
    ],
)
def test_key_verdict(
    models_failure: Failure | None, refusal: str | None, *, handshake_proves_key: bool, expected: str | None
) -> None:
    """A refusal by the handshake decides, then a session that opens, then the model request."""
    failure, _ = judge_key(models_failure, handshake(refusal), handshake_proves_key=handshake_proves_key)

    assert expected == (failure.reason if failure is not None else None)


def test_source_of_the_verdict_is_traffic_only_if_the_handshake_decides() -> None:
    """A model request that succeeds is an active check."""
    by_handshake = judge_key(FORBIDDEN, handshake(None), handshake_proves_key=True)
    by_models = judge_key(None, handshake(None), handshake_proves_key=True)

    assert ("traffic", "active") == (by_handshake[1], by_models[1])
