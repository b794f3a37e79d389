"""Fixtures of the tests of every surface."""

import pytest


@pytest.fixture(autouse=True)
def short_model_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that does not answer is checked in one second; the first result of health waits for it."""
    monkeypatch.setattr("service.health.monitor._MODEL_REQUEST_SECONDS", 1.0)
