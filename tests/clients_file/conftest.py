"""Rules for the tests of the clients file."""

from pathlib import Path

import pytest

from service.store.shared import SharedStore


@pytest.fixture(autouse=True)
def patient_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no failure of the store, after which each relay would count for itself."""
    assert SharedStore.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(SharedStore.__init__.__kwdefaults__, "call_seconds", 5.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the clients file is."""
    return tmp_path / "clients.toml"
