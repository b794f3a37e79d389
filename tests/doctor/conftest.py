"""What holds for all tests of the doctor."""

from pathlib import Path

import pytest

from service.doctor import env_files, relay, tls


@pytest.fixture(autouse=True)
def look_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are right for networks are too long for loopback, where a port answers at once or never."""
    monkeypatch.setattr(tls, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(relay, "_PING_SECONDS", 0.3)


@pytest.fixture(autouse=True)
def installed_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A .env of whoever runs the tests, in this checkout, is no finding of theirs."""
    monkeypatch.setattr(env_files, "PROJECT", tmp_path / "program")
