"""Packages of Debian for tests: downloaded and unpacked, not installed, so no root is needed."""

import subprocess
import tempfile
from pathlib import Path


class NotToBeHad(Exception):
    """A package cannot be had here; the message says why."""


def unpacked(package: str, wanted: str, suite: str | None = None) -> Path:
    """A file or folder of a package, downloaded once for each machine; raises NotToBeHad.

    `suite` is for what this machine's Debian does not have yet: the same mirror's other release.
    """
    folder = Path(tempfile.gettempdir()) / f"realtime-relay-{package}"
    if (folder / wanted).exists():
        return folder / wanted
    folder.mkdir(parents=True, exist_ok=True)
    try:
        options = _of_suite(folder, suite) if suite else []
        _run(folder, "apt-get", *options, "download", "-q", package)
        packages = sorted(folder.glob(f"{package}_*.deb"))
        _run(folder, "dpkg-deb", "-x", packages[-1].name, ".")
    except (OSError, IndexError, ValueError, subprocess.SubprocessError) as exc:
        raise NotToBeHad(f"{package} cannot be downloaded with apt-get ({type(exc).__name__})") from None
    return folder / wanted


def _of_suite(folder: Path, suite: str) -> list[str]:
    """Options with which apt-get looks into another suite, in a state of its own: the machine's lists stay as they are."""
    mirrors = _run(folder, "apt-get", "indextargets", "--format", "$(REPO_URI) $(SUITE)", "Created-By: Packages")
    # Not those of updates, which have a suffix.
    mirror, *_ = [line.split()[0] for line in mirrors.splitlines() if "-" not in line.split()[1]]
    state = folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True, exist_ok=True)
    sources, installed = state / "sources.list", state / "status"
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    sources.write_text(f"deb [signed-by={keyring}] {mirror} {suite} main\n", encoding="ascii")
    installed.touch()
    own = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": state / "lists",
        "Dir::State::status": installed,
        "Dir::Cache": state / "cache",
    }
    options = [part for name, value in own.items() for part in ("-o", f"{name}={value}")]
    _run(folder, "apt-get", *options, "update", "-q")
    return options


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60, text=True)
    return done.stdout
