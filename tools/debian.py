"""Debian packages, downloaded and unpacked to a temporary folder: no installation, no root."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path


class PackageUnavailable(Exception):
    """A package cannot be downloaded here; the message names the cause."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and the folders of libraries that it needs beside the machine's own."""

    path: Path
    libraries: tuple[Path, ...] = ()

    @property
    def environment(self) -> dict[str, str]:
        """The variables to start it with."""
        variables = {"PATH": os.environ["PATH"]}
        if self.libraries:
            variables["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        return variables


def program(name: str) -> Program:
    """A program from the package of the same name: installed, or unpacked with the packages that it depends on.

    Raises PackageUnavailable.
    """
    installed = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if installed:
        return Program(Path(installed))
    folder = Path(tempfile.gettempdir()) / f"realtime-relay-{name}-with-libraries"
    path = _find(folder, name)
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            # A simulated installation lists the dependencies that this machine lacks.
            plan = _run(folder, "apt-get", "-s", "-q", "install", "--no-install-recommends", name)
            _download(folder, re.findall(r"^Inst (\S+)", plan, re.MULTILINE))
        except (OSError, subprocess.SubprocessError) as exc:
            raise PackageUnavailable(
                f"{name} is not installed and cannot be downloaded ({type(exc).__name__})"
            ) from None
        path = _find(folder, name) or folder
    libraries = {file.parent for file in folder.glob("**/*.so*") if "modules" not in file.parts}
    return Program(path, tuple(sorted(libraries)))


def _find(folder: Path, name: str) -> Path | None:
    return next((path for place in ("sbin", "bin") if (path := folder / "usr" / place / name).exists()), None)


def unpack(package: str, wanted: str, suite: str | None = None) -> Path:
    """A file or folder of a package, downloaded once per machine; raises PackageUnavailable.

    `suite` names another Debian release on the same mirror, for packages that this machine's release lacks.
    """
    folder = Path(tempfile.gettempdir()) / f"realtime-relay-{package}"
    if (folder / wanted).exists():
        return folder / wanted
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _download(folder, [package], *(_options_for_suite(folder, suite) if suite else []))
    except (OSError, ValueError, subprocess.SubprocessError) as exc:
        raise PackageUnavailable(f"{package} cannot be downloaded with apt-get ({type(exc).__name__})") from None
    return folder / wanted


def _download(folder: Path, packages: list[str], *options: str) -> None:
    _run(folder, "apt-get", *options, "download", "-q", *packages)
    for file in sorted(folder.glob("*.deb")):
        _run(folder, "dpkg-deb", "-x", file.name, ".")


def _options_for_suite(folder: Path, suite: str) -> list[str]:
    """Options that make apt-get use another suite with state of its own, so that the machine's lists stay unchanged."""
    mirrors = _run(folder, "apt-get", "indextargets", "--format", "$(REPO_URI) $(SUITE)", "Created-By: Packages")
    # Suites of updates have a suffix; skip them.
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
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120, text=True)
    return done.stdout
