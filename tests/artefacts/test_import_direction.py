"""Packages of the service import only the packages below them."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).resolve().parents[2] / "service"

# A package may import itself and the packages listed for it. `settings` builds values of `access` and `upstream`, so it is
# above them; only the composition root and the commands may import it.
BASE = {"deadlines", "failures", "realtime", "version"}
ALLOWED = {
    "version": set[str](),
    "deadlines": set[str](),
    "loop": set[str](),
    "machine": set[str](),
    "failures": {"failures", "realtime"},
    "realtime": {"realtime"},
    "simulator": {"simulator", "realtime", "version"},
    "telemetry": BASE | {"telemetry"},
    "wire": BASE | {"telemetry", "wire"},
    "upstream": BASE | {"telemetry", "wire", "upstream"},
    "store": BASE | {"telemetry", "store"},
    "access": BASE | {"telemetry", "store", "access"},
    "relay": BASE | {"telemetry", "store", "wire", "upstream", "access", "relay"},
    "health": BASE | {"telemetry", "wire", "upstream", "health"},
    "supervisor": BASE | {"telemetry"},
}
ALLOWED["settings"] = {"settings", "realtime", "access", "upstream", "store"}
ALLOWED["clients_file"] = {"clients_file", "settings", "realtime", "access", "upstream", "telemetry"}
ALLOWED["web"] = ALLOWED["relay"] | ALLOWED["health"] | ALLOWED["access"] | {"web"}
ALLOWED["signals"] = {"signals", "relay"}
ALLOWED["configuration"] = (
    ALLOWED["relay"] | ALLOWED["access"] | ALLOWED["store"] | {"settings", "clients_file", "configuration"}
)
ALLOWED["startup"] = ALLOWED["configuration"] | {"loop", "machine", "startup"}
ALLOWED["app"] = ALLOWED["web"] | ALLOWED["startup"] | {"app", "simulator", "signals", "supervisor"}
ALLOWED["process"] = ALLOWED["app"] | {"process"}
ALLOWED["doctor"] = ALLOWED["app"] | {"doctor"}
ALLOWED["clients_command"] = ALLOWED["configuration"] | {"clients_command"}
ALLOWED["cli"] = ALLOWED["process"] | {"doctor", "clients_command", "cli"}
ALLOWED["__main__"] = ALLOWED["cli"]
PURE_FORBIDDEN = {"asyncio", "aiohttp", "os", "socket", "time", "random", "secrets", "ssl", "logging", "structlog"}


def package_of(module: str) -> str:
    """The top-level package or module of the service that a module belongs to."""
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> Iterator[str]:
    """All modules that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            module = node.module or ""
            yield from (f"service.{alias.name}" for alias in node.names) if module == "service" else [module]


FILES = [path for path in sorted(SERVICE.rglob("*.py")) if path != SERVICE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SERVICE)) for path in FILES])
def test_file_imports_lower_packages_only(path: Path) -> None:
    """ALLOWED lists every package that the file imports."""
    parts = path.relative_to(SERVICE).with_suffix("").parts
    package = package_of(f"service.{parts[0]}")
    broken = {
        f"{package} -> {package_of(name)} ({name})"
        for name in imports(path)
        if name.startswith("service.") and package_of(name) not in ALLOWED[package]
    }

    assert set() == broken


@pytest.mark.parametrize("room", ["realtime", "relay"])
def test_only_continuity_knows_continuity(room: str) -> None:
    """A session without it runs none of its code."""
    plain = {name for path in (SERVICE / room).glob("*.py") for name in imports(path)}

    assert set() == {name for name in plain if "continuity" in name}


def test_relay_and_doctor_import_no_simulator() -> None:
    """Only where it runs: its modules are a tenth of the start."""
    code = (
        "import sys, service.process, service.doctor.provider\n"
        "print([name for name in sys.modules if name.startswith('service.simulator')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=SERVICE.parent, check=True, capture_output=True, timeout=60)

    assert done.stdout.strip() == b"[]"


@pytest.mark.parametrize("path", sorted((SERVICE / "realtime").rglob("*.py")), ids=lambda path: str(path.name))
def test_realtime_package_imports_no_io(path: Path) -> None:
    """The protocol package uses no event loop, socket, clock or operating system."""
    assert set() == {name.split(".")[0] for name in imports(path)} & PURE_FORBIDDEN


def test_every_package_is_shipped() -> None:
    """The list in pyproject.toml is written by hand, because the runbooks are in it."""
    listed = tomllib.loads((SERVICE.parent / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "packages"
    ]
    packages = {".".join(path.parent.relative_to(SERVICE.parent).parts) for path in SERVICE.rglob("__init__.py")}
    assert packages | {"service.runbooks"} == set(listed)
