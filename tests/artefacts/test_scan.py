"""tools/scan.py: a scan without answers of the database fails."""

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tools import scan

Answer = Callable[[list[str]], list[dict[str, Any]]]
GOOD: dict[str, Any] = {"name": "yarl", "version": "1.25.1", "vulns": []}
VULNERABLE: dict[str, Any] = {
    "name": "aiohttp",
    "version": "3.8.0",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3.8.5"]}],
}
SKIPPED: dict[str, Any] = {"name": "yarl", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def is_canary(command: list[str]) -> bool:
    """Whether this run checks the release with a known vulnerability."""
    return command[-1].endswith("canary.txt")


@pytest.mark.parametrize(
    ("canary", "locked", "expected", "message"),
    [
        ([VULNERABLE], [GOOD], 0, "No known vulnerability"),
        ([VULNERABLE], [GOOD, VULNERABLE], 1, "aiohttp 3.8.0: CVE-1, fixed in 3.8.5"),
        ([SKIPPED], [SKIPPED], 2, "SCAN INCOMPLETE: the database does not answer for yarl"),
        ([VULNERABLE], [GOOD, SKIPPED], 2, "SCAN INCOMPLETE: the database does not answer for yarl"),
        ([GOOD], [GOOD], 2, "SCAN INCOMPLETE: the database reports nothing for aiohttp 3.8.0"),
        ([], [], 2, "SCAN INCOMPLETE: the database does not answer for any package"),
        (None, None, 2, "SCAN INCOMPLETE: pip-audit: no network"),
    ],
)
def test_scan_passes_only_if_every_package_is_answered(
    canary: list[Any] | None,
    locked: list[Any] | None,
    expected: int,
    message: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Exit code 0 requires an answer for every package, and the known vulnerability of the canary release."""

    def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        found = canary if is_canary(command) else locked
        written = "" if found is None else json.dumps({"dependencies": found})
        return subprocess.CompletedProcess(command, 0, written, "no network\n")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda _name: None)

    assert expected == scan.main()
    written = capsys.readouterr()
    assert message in written.out + written.err
