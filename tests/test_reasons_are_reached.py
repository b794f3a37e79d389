"""Every reason of the catalogue is reached by a test over a real socket, but for those that need a network of their own."""

import re
from pathlib import Path

from service.failures import CATALOGUE

TESTS = Path(__file__).resolve().parent
FOLDERS = ("web", "relay", "health", "access")

# Caused by what a test on one machine cannot make: an unreachable network, a proxy in between, a deaf upstream for 20 s.
TRANSLATED_ONLY = {"network_unreachable", "proxy_failed"}


def named_in(*folders: str) -> set[str]:
    """All reasons that stand, quoted, in the tests of these folders."""
    files = [path for folder in folders for path in (TESTS / folder).glob("test_*.py")]
    words = {word for path in files for word in re.findall(r'"([a-z_]+)', path.read_text(encoding="utf-8"))}
    return words & CATALOGUE.keys()


def test_every_reason_is_reached() -> None:
    """A reason that no socket test names fails here."""
    assert set() == CATALOGUE.keys() - named_in(*FOLDERS) - TRANSLATED_ONLY


def test_the_exceptions_are_needed() -> None:
    """What is excused is translated at least."""
    assert named_in("upstream") >= TRANSLATED_ONLY
