"""Image and compose file name what the code has: settings, ports, probes, times."""

import re
from typing import Final

import pytest

from service.relay.grace import grace_seconds
from service.settings import SETTING_NAMES, Settings
from tests.artefacts.generated import close_spread_seconds
from tests.artefacts.kubernetes import ROOT, env_file, load

DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DEFAULTS: Final = Settings()


COMPOSE: Final = load("docker-compose.yml")
RELAY: Final = COMPOSE["services"]["relay"]


def seconds(text: str) -> float:
    """A duration such as 45s."""
    return float(text.removesuffix("s"))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("Dockerfile", set(re.findall(r"\b(?:RELAY|OPENAI)_[A-Z_]+(?==)", DOCKERFILE))),
        ("docker-compose.yml", set(RELAY["environment"])),
        ("docker-compose.yml", set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))),
        ("compose/demo.env", set(env_file("compose/demo.env"))),
    ],
)
def test_every_variable_is_a_setting(where: str, names: set[str]) -> None:
    """A manifest that names an unknown setting would be ignored in silence; none does."""
    assert names, where
    assert set() == names - SETTING_NAMES


def test_ports_are_the_defaults() -> None:
    """Image and compose file use the ports that the program listens on."""
    ports = (DEFAULTS.port, DEFAULTS.internal_port)

    assert [f"127.0.0.1:{port}:{port}" for port in ports] == RELAY["ports"]
    assert f"EXPOSE {DEFAULTS.port} {DEFAULTS.internal_port}" in DOCKERFILE


def test_grace_is_computed() -> None:
    """Docker kills no relay that is still within its drain."""
    drain = float(re.findall(r"\d+", RELAY["environment"]["RELAY_DRAIN_SECONDS"])[0])

    assert drain == DEFAULTS.drain_seconds
    assert seconds(RELAY["stop_grace_period"]) == grace_seconds(drain, close_spread_seconds({}))


def test_the_image_is_hardened() -> None:
    """Non-root by number, exec form everywhere, dependencies by hash, no syntax line, no latest."""
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    assert "--require-hashes" in DOCKERFILE
    assert not re.search(r"^# *syntax", DOCKERFILE, re.MULTILINE | re.IGNORECASE)
    assert "latest" not in DOCKERFILE
    for instruction in ("ENTRYPOINT", "CMD", "RUN"):
        assert re.findall(rf"^{instruction} (.)", DOCKERFILE, re.MULTILINE) == ["["] * len(
            re.findall(rf"^{instruction} ", DOCKERFILE, re.MULTILINE)
        )
    assert 'CMD ["python", "-m", "service", "probe", "livez"]' in DOCKERFILE


def test_compose_waits_for_readiness() -> None:
    """`up --wait` means that callers get through; the relay runs without root file system or capabilities."""
    assert ["CMD", "python", "-m", "service", "probe", "readyz"] == RELAY["healthcheck"]["test"]
    for service in COMPOSE["services"].values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert COMPOSE["services"]["simulator"]["profiles"] == ["demo"]


def test_the_build_context_holds_no_secret() -> None:
    """Only the package and the lock go to the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert {line for line in lines if line.startswith("!")} == {"!service", "!requirements/runtime.txt"}
    assert "*" in lines
