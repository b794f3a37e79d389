"""The wheel and the Makefile."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy of the sources."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "service", source / "service", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."],
        cwd=source,
        check=True,
        timeout=170,
    )
    return zipfile.ZipFile(next((source / "dist").glob("realtime_relay-*.whl")))


def test_wheel_contains_every_module(wheel: zipfile.ZipFile) -> None:
    """The wheel contains the package and nothing else."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.py")}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert modules | {"service/py.typed"} == names


def test_wheel_installs_command(wheel: zipfile.ZipFile) -> None:
    """`realtime-relay` runs the same function as `python -m service`."""
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert "realtime-relay = service.cli:main" in wheel.read(name).decode()


def test_make_without_target_lists_targets() -> None:
    """The default target prints the main targets."""
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout

    assert {"run", "test", "check", "fmt", "demo"} <= {line.split()[1] for line in shown.splitlines() if line.strip()}
