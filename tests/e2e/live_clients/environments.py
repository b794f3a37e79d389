"""The clients' environments, installed once: pinned packages of PyPI and npm with hashes, and Debian's Chromium."""

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tools.generate import ROOT

_SECONDS: Final = 900
_NPM_FILES: Final = ("package.json", "package-lock.json")
_WRONG_CONTENT: Final = ("DO NOT MATCH THE HASHES", "Hashes are required", "EINTEGRITY")


class EnvironmentUnavailable(Exception):
    """This machine or its registries do not provide what a client needs; the message names the cause."""


class WrongPackage(Exception):
    """A registry provides a package with another content than the lock file names."""


def cache_folder() -> Path:
    """The folder that keeps the environments between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realtime-relay"


def python_with(name: str) -> Path:
    """A Python with the packages of requirements/NAME.txt. Raises EnvironmentUnavailable, WrongPackage."""
    lock = ROOT / "requirements" / f"{name}.txt"

    def create(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        pip = (folder / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--require-hashes")
        _run([*map(str, pip), "-r", str(lock)], folder)

    return _environment(name, (lock,), create) / "bin/python"


def node_modules(source: Path) -> Path:
    """A folder `node_modules` with the packages that `source` locks. Raises EnvironmentUnavailable, WrongPackage."""
    files = [source / name for name in _NPM_FILES]
    if not (shutil.which("node") and shutil.which("npm")):
        raise EnvironmentUnavailable("node and npm are not installed")

    def create(folder: Path) -> None:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copy(file, folder)
        _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)

    return _environment(f"{source.name.partition('_')[0]}-node", files, create) / "node_modules"


def chromium() -> Path:
    """Chromium: installed, or installed now if root. Raises EnvironmentUnavailable."""
    if not shutil.which("chromium") and os.geteuid() == 0:
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        with suppress(OSError, subprocess.SubprocessError):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS, env=environment)
    found = shutil.which("chromium")
    if not found:
        raise EnvironmentUnavailable("chromium is not installed; apt-get, as root, does not provide it either")
    return Path(found)


def _environment(name: str, locks: Sequence[Path], create: Callable[[Path], None]) -> Path:
    """The folder of an environment. Its name contains a digest of its locks and of the Python that runs."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in locks) + sys.version.encode()).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{digest}"
    stamp = folder / ".complete"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        create(folder)
        stamp.touch()
    return folder


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as exc:
        raise EnvironmentUnavailable(f"{command[0]}: {type(exc).__name__}") from None
    if done.returncode:
        output = done.stdout + done.stderr
        errors = [line for line in output.splitlines() if "error" in line.lower() and "WARNING" not in line]
        problem = f"{Path(command[0]).name} exited with {done.returncode}: {' | '.join(errors[:3] or [output[-300:]])}"
        raise (WrongPackage if any(text in output for text in _WRONG_CONTENT) else EnvironmentUnavailable)(problem)
