"""Packages of Debian for tests: downloaded and unpacked, not installed, so no root is needed."""

import subprocess
import tempfile
from pathlib import Path


class NotToBeHad(Exception):
    """A package cannot be had here; the message says why."""


def unpacked(package: str, wanted: str) -> Path:
    """A file or folder of a package, downloaded once for each machine; raises NotToBeHad."""
    folder = Path(tempfile.gettempdir()) / f"realtime-relay-{package}"
    if (folder / wanted).exists():
        return folder / wanted
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(folder, "apt-get", "download", "-q", package)
        packages = sorted(folder.glob(f"{package}_*.deb"))
        _run(folder, "dpkg-deb", "-x", packages[-1].name, ".")
    except (OSError, IndexError, subprocess.SubprocessError) as exc:
        raise NotToBeHad(f"{package} cannot be downloaded with apt-get ({type(exc).__name__})") from None
    return folder / wanted


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
