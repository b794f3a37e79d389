"""The wheel and the Makefile."""

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from service.version import __version__

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the source distribution of a copy of the sources: it holds what neither may miss."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "service", source / "service", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs" / "runbooks", source / "docs" / "runbooks")
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    program = "from setuptools import build_meta; print(build_meta.build_sdist('dist'))"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, timeout=100, stdout=subprocess.DEVNULL)
    [sdist] = (source / "dist").iterdir()
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", sdist],
        cwd=source,
        check=True,
        timeout=170,
    )
    return zipfile.ZipFile(next((source / "dist").glob("realtime_relay-*.whl")))


def test_wheel_contains_every_module(wheel: zipfile.ZipFile) -> None:
    """The wheel contains the package, the files of the console, the runbooks, and nothing else."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "service").rglob("*.py")}
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "service" / "console").rglob("*.*") if path.is_file()}
    runbooks = {f"service/runbooks/{path.name}" for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert runbooks
    assert modules | pages | runbooks | {"service/py.typed"} == names


def test_installed_wheel_serves_its_runbooks(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """From the package, where there are no documents beside it."""
    wheel.extractall(tmp_path)
    program = "from service.web import console_files as c; print(c.RUNBOOKS[0].is_dir(), sorted(c.Runbooks().files))"
    shown = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, text=True, timeout=60)

    assert f"True {sorted(path.stem for path in (ROOT / 'docs' / 'runbooks').glob('*.md'))}\n" == shown


def test_wheel_installs_command(wheel: zipfile.ZipFile) -> None:
    """`realtime-relay` runs the same function as `python -m service`."""
    name = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    assert "realtime-relay = service.cli:main" in wheel.read(name).decode()


def test_installed_command_runs_from_any_folder(tmp_path: Path) -> None:
    """Also through a link, and in a folder that has a package named `service` itself; the environment needs no pip."""
    environment, folder, link = tmp_path / "run", tmp_path / "elsewhere", tmp_path / "relay"
    venv.create(environment, with_pip=False, system_site_packages=False)
    (folder / "service").mkdir(parents=True)
    (folder / "service/__init__.py").write_text("raise ImportError('not this one')\n", encoding="utf-8")
    python = environment / "bin/python"
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True, timeout=60
    )
    (Path(packages.strip()) / "locked.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    subprocess.run([python, ROOT / "tools/install_command.py"], check=True, cwd="/", timeout=60)
    link.symlink_to(environment / "bin/realtime-relay")

    for command, cwd in (([link], folder), ([python, "-m", "service"], tmp_path)):
        shown = subprocess.run(
            [*command, "--version"], check=False, cwd=cwd, capture_output=True, text=True, timeout=60
        )
        assert f"realtime-relay {__version__}\n" == shown.stdout, shown.stderr


@pytest.mark.parametrize("file", ["Makefile", "Dockerfile"])
def test_command_is_installed_in_checkout_and_image(file: str) -> None:
    """Both run the installer with the environment's Python, so that documents can name one command."""
    text = (ROOT / file).read_text(encoding="utf-8")

    assert re.search(r"/bin/python\W+(tools|/tmp)/install_command\.py", text)


def test_make_without_target_lists_targets() -> None:
    """The default target prints the main targets."""
    shown = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout

    assert {"run", "test", "check", "fmt", "demo"} <= {line.split()[1] for line in shown.splitlines() if line.strip()}
