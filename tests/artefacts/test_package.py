"""The distribution: what `pip install` would bring."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "service", source / "service", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."],
        cwd=source,
        check=True,
        timeout=55,
    )
    return zipfile.ZipFile(next((source / "dist").glob("realtime_relay-*.whl")))


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Nothing of the package is forgotten, and nothing but the package is in it."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.py")}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert modules | {"service/py.typed"} == names


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    """`realtime-relay` is the same program as `python -m service`."""
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert "realtime-relay = service.cli:main" in wheel.read(name).decode()


def test_make_alone_lists_the_verbs() -> None:
    """Whoever types `make` is told what there is."""
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=20).stdout

    assert {"run", "test", "check", "fmt", "demo"} <= {line.split()[1] for line in shown.splitlines() if line.strip()}
