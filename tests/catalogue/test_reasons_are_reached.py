"""A test over real sockets names every reason of the catalogue."""

import re
from pathlib import Path

from service.failures import CATALOGUE

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = ("web", "relay", "health", "access", "clients_file", "upstream", "failure_surfaces")


def reasons_named_in(*folders: str) -> set[str]:
    """All reasons that the tests of these folders contain as quoted strings."""
    files = [path for folder in folders for path in (TESTS / folder).glob("*.py")]
    quoted = {text for path in files for text in re.findall(r'"([a-z_]+)', path.read_text(encoding="utf-8"))}
    return quoted & CATALOGUE.keys()


def test_every_reason_has_a_socket_test() -> None:
    """tests/failure_surfaces and tests/relay cause the reasons; FOLDERS lists all folders with socket tests."""
    assert set() == CATALOGUE.keys() - reasons_named_in(*FOLDERS)
