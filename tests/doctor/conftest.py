"""Fixtures of all tests of the doctor."""

from pathlib import Path

import pytest

from service.doctor import env_files, live, relay, tls


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts for loopback, where a port answers immediately or never."""
    monkeypatch.setattr(tls, "_PROTOCOL_PROBE_SECONDS", 1.0)
    monkeypatch.setattr(relay, "_PONG_SECONDS", 0.3)


@pytest.fixture(autouse=True)
def installed_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide a .env file in this checkout from the doctor."""
    monkeypatch.setattr(env_files, "PROJECT", tmp_path / "program")


@pytest.fixture
def short_live_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of silence takes no second, and what does not come is not awaited for long."""
    monkeypatch.setattr(live, "CHUNK_SECONDS", 0.001)
    monkeypatch.setattr(live, "_CLOSED_SECONDS", 0.3)
    monkeypatch.setattr(live, "_RELAY_ERROR_SECONDS", 0.3)
    monkeypatch.setattr(relay, "_LIVE_START_SECONDS", 3.0)
