"""The Dockerfile: hardened, small, the same whoever builds it, and in step with the program."""

import re
from pathlib import Path
from typing import Final

import pytest

from service.settings import SETTING_NAMES, Settings

ROOT: Final = Path(__file__).resolve().parents[2]
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
FINAL: Final = DOCKERFILE.rpartition("\nFROM ")[2]


def test_the_image_is_hardened() -> None:
    """Non-root by number, dependencies by hash, no syntax line that would fetch a builder, no latest, no pip at the end."""
    assert re.search(r"^USER 10001:10001$", FINAL, re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE
    assert '"--without-pip"' in DOCKERFILE
    assert not re.search(r"^# *syntax", DOCKERFILE, re.MULTILINE | re.IGNORECASE)
    assert "latest" not in DOCKERFILE
    assert "\nRUN" not in FINAL


@pytest.mark.parametrize("instruction", ["ENTRYPOINT", "CMD", "RUN"])
def test_no_shell_is_needed(instruction: str) -> None:
    """Every command is in exec form."""
    first = re.findall(rf"^{instruction} (.)", DOCKERFILE, re.MULTILINE)

    assert first
    assert {"["} == set(first)


def test_the_base_can_be_pinned() -> None:
    """Both stages are made from BASE, which may be a digest."""
    assert ["${BASE} AS build", "${BASE}"] == re.findall(r"^FROM (.*)$", DOCKERFILE, re.MULTILINE)
    assert DOCKERFILE.index("ARG BASE=") < DOCKERFILE.index("FROM ")


def test_nothing_of_the_clock_or_the_checkout_remains() -> None:
    """Modes and times are levelled and bytecode holds neither time nor random order; `make e2e-container` compares builds."""
    assert "PYTHONHASHSEED=0" in DOCKERFILE
    assert '"--no-compile"' in DOCKERFILE
    assert '"--invalidation-mode", "unchecked-hash"' in DOCKERFILE
    levelling = next(line for line in DOCKERFILE.splitlines() if line.startswith('RUN ["find", "/venv", "/app"'))
    assert '"chmod", "u=rwX,go=rX"' in levelling
    assert '"touch", "--no-dereference", "--date=' in levelling
    assert ["/venv /venv", "/app /app"] == re.findall(r"^COPY --from=build (.*)$", FINAL, re.MULTILINE)


def test_the_image_asks_what_exists() -> None:
    """Its ports are the program's, its health check is the program's /livez, its variables are settings."""
    defaults = Settings()

    assert f"EXPOSE {defaults.port} {defaults.internal_port}" in FINAL
    assert re.search(r'^HEALTHCHECK .* CMD \["python", "-m", "service", "probe", "livez"\]$', FINAL, re.MULTILINE)
    assert set() == set(re.findall(r"\b((?:RELAY|OPENAI)_[A-Z_]+)=", DOCKERFILE)) - SETTING_NAMES


def test_the_image_says_what_it_is() -> None:
    """Version and revision are arguments, written last, so that they spoil no cached layer."""
    for argument in ("VERSION", "REVISION"):
        assert f"ARG {argument}=unknown" in FINAL
        assert f'org.opencontainers.image.{argument.lower()}="${{{argument}}}"' in FINAL
    assert FINAL.index("ARG VERSION") > FINAL.index("CMD [")


def test_the_build_context_holds_no_secret() -> None:
    """Only the package and the lock go to the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert {line for line in lines if line.startswith("!")} == {"!service", "!requirements/runtime.txt"}
    assert "*" in lines
