"""Every reason of the catalogue is reached by a test over a real socket."""

import re
from pathlib import Path

from service.failures import CATALOGUE

TESTS = Path(__file__).resolve().parents[1]
FOLDERS = ("web", "relay", "health", "access", "upstream", "failure_surfaces")


def named_in(*folders: str) -> set[str]:
    """All reasons that stand, quoted, in the tests of these folders."""
    files = [path for folder in folders for path in (TESTS / folder).glob("*.py")]
    words = {word for path in files for word in re.findall(r'"([a-z_]+)', path.read_text(encoding="utf-8"))}
    return words & CATALOGUE.keys()


def test_every_reason_is_reached() -> None:
    """A reason that no socket test names fails here; tests/failure_surfaces and tests/relay provoke them."""
    assert set() == CATALOGUE.keys() - named_in(*FOLDERS)
