"""Programs of Debian for the benchmark: installed ones if there are any, else downloaded and unpacked with what they need."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tools.debian import NotToBeHad


@dataclass(frozen=True, slots=True)
class Program:
    """A program, and the folders of libraries that it needs beside the machine's."""

    path: Path
    libraries: tuple[Path, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What it is started with."""
        found = {"PATH": os.environ["PATH"]}
        if self.libraries:
            found["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        return found


def program(name: str) -> Program:
    """The program of a package of the same name; raises NotToBeHad."""
    installed = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if installed:
        return Program(Path(installed), ())
    root = Path(tempfile.gettempdir()) / f"realtime-relay-bench-{name}"
    path = root / "usr" / "sbin" / name
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        try:
            _unpack(root, name)
        except (OSError, subprocess.SubprocessError) as exc:
            raise NotToBeHad(f"{name} is not installed and cannot be downloaded ({type(exc).__name__})") from None
    libraries = {folder.parent for folder in root.glob("**/*.so*") if "modules" not in folder.parts}
    return Program(path, tuple(sorted(libraries)))


def _unpack(root: Path, name: str) -> None:
    # A simulated installation names what this machine lacks.
    plan = _run(root, "apt-get", "-s", "-q", "install", "--no-install-recommends", name)
    packages = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    _run(root, "apt-get", "download", "-q", *packages)
    for file in sorted(root.glob("*.deb")):
        _run(root, "dpkg-deb", "-x", file.name, ".")


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)  # noqa: S603 - written above
    return done.stdout.decode()
