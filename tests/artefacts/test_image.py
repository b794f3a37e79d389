"""The Dockerfile: hardened, small, reproducible, and consistent with the program."""

import re
from pathlib import Path
from typing import Final

import pytest

from service.settings import SETTING_NAMES, Settings

ROOT: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FINAL: Final = DOCKERFILE.rpartition("\nFROM ")[2]


def test_image_is_hardened() -> None:
    """A numeric non-root user, dependencies by hash, no syntax directive, no tag latest, no pip in the environment."""
    assert re.search(r"^USER 10001:10001$", FINAL, re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE
    assert '"--without-pip"' in DOCKERFILE
    assert not re.search(r"^# *syntax", DOCKERFILE, re.MULTILINE | re.IGNORECASE)
    assert "latest" not in DOCKERFILE
    assert "\nRUN" not in FINAL


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "CMD", "RUN"])
def test_commands_need_no_shell(instruction: str) -> None:
    """Every command uses the exec form."""
    first = re.findall(rf"^{instruction} (.)", DOCKERFILE, re.MULTILINE)

    assert first
    assert {"["} == set(first)


def test_base_image_can_be_pinned() -> None:
    """Both stages use BASE, which can be a digest."""
    assert ["${BASE} AS build", "${BASE}"] == re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.index("ARG BASE=") < DOCKERFILE.index("FROM ")


def test_build_is_independent_of_time_and_checkout() -> None:
    """File modes and times are normalized, and bytecode has no timestamps; `make e2e-container` compares builds."""
    assert "PYTHONHASHSEED=0" in DOCKERFILE
    assert '"--no-compile"' in DOCKERFILE
    assert '"--invalidation-mode", "unchecked-hash"' in DOCKERFILE
    normalization = next(line for line in DOCKERFILE.splitlines() if line.startswith('RUN ["find", "/venv", "/app"'))
    assert '"chmod", "u=rwX,go=rX"' in normalization
    assert '"touch", "--no-dereference", "--date=' in normalization
    assert ["/venv /venv", "/app /app"] == re.findall(r"^COPY --from=build (.*)$", FINAL, re.MULTILINE)


def test_image_ports_and_health_check_exist() -> None:
    """The ports are the defaults, the health check is /livez, and the variables are settings."""
    defaults = Settings()

    assert f"EXPOSE {defaults.port} {defaults.internal_port}" in FINAL
    assert re.search(r'^HEALTHCHECK .* CMD \["python", "-m", "service", "probe", "livez"\]$', FINAL, re.MULTILINE)
    assert set() == set(re.findall(r"\b((?:RELAY|OPENAI)_[A-Z_]+)=", DOCKERFILE)) - SETTING_NAMES


def test_image_labels_version_and_revision() -> None:
    """Version and revision are arguments in the last layers, so that they invalidate no cached layer."""
    for argument in ("VERSION", "REVISION"):
        assert f"ARG {argument}=unknown" in FINAL
        assert f'org.opencontainers.image.{argument.lower()}="${{{argument}}}"' in FINAL
    assert FINAL.index("ARG VERSION") > FINAL.index("CMD [")


def test_build_context_contains_package_and_lock_only() -> None:
    """No other file, and so no secret, is sent to the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert {line for line in lines if line.startswith("!")} == {
        "!service",
        "!docs/runbooks",
        "!requirements/runtime.txt",
        "!tools/install_command.py",
    }
    assert "*" in lines
