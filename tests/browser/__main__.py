"""`make test-browser`: the console's pages in Chromium, with a fake microphone, and SDKs with a client secret.

    python -m tests.browser [WORD ...]

Types first (`tsc`), then the tests whose file name contains one of the words; without words all. What the pages said of each
failure is written to build/browser. A missing Chromium or Node fails.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.e2e.live_clients.environments import EnvironmentUnavailable, chromium

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]
_SECONDS: Final = 1_800


def main(words: list[str]) -> int:
    """Install what is missing, check the types, run the tests; returns the exit code."""
    try:
        browser = chromium()
        _install()
    except EnvironmentUnavailable as exc:
        print(f"FAILED: {exc}", flush=True)  # noqa: T201 - a command line
        return 1
    projects = [["node_modules/.bin/tsc", "--project", path.name] for path in sorted(FOLDER.glob("tsconfig.*.json"))]
    names = [path.name for path in sorted(FOLDER.glob("*.test.mjs"))]
    chosen = [name for name in names if not words or any(word in name for word in words)]
    commands = [*projects, ["node", "--test", "--test-concurrency=1", "--test-reporter=spec", *chosen]]
    environment = {**os.environ, "CHROMIUM": str(browser), "PYTHON": sys.executable}
    return max(_run(command, environment) for command in commands)


def _install() -> None:
    """Install the packages of package-lock.json beside it, unless they are. Raises EnvironmentUnavailable."""
    installed = FOLDER / "node_modules" / ".package-lock.json"
    lock = FOLDER / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    if not (shutil.which("node") and shutil.which("npm")) and os.geteuid() == 0:
        _run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "nodejs", "npm"], dict(os.environ))
    if not (shutil.which("node") and shutil.which("npm")):
        raise EnvironmentUnavailable("node and npm are not installed")
    if _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], dict(os.environ)):
        raise EnvironmentUnavailable("npm does not install the packages of tests/browser/package-lock.json")
    installed.touch()


def _run(command: list[str], environment: dict[str, str]) -> int:
    return subprocess.run(command, cwd=FOLDER, env=environment, check=False, timeout=_SECONDS).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
