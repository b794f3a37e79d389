"""Image, compose file and Kubernetes manifests name what the code has: settings, ports, probes, times."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from service.relay.session import CLIENT_CLOSE_SECONDS
from service.settings import SETTING_NAMES, Settings

ROOT: Final = Path(__file__).resolve().parent.parent.parent
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROBES: Final = {"/livez", "/readyz"}
DEFAULTS: Final = Settings()


def load(name: str) -> Any:
    """A manifest."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def env_file(name: str) -> dict[str, str]:
    """The assignments of an env file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


COMPOSE: Final = load("docker-compose.yml")
RELAY: Final = COMPOSE["services"]["relay"]
POD: Final = load("k8s/base/deployment.yaml")["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]
K8S_SETTINGS: Final = env_file("k8s/base/settings.env")


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
        ("k8s/base/settings.env", set(K8S_SETTINGS)),
    ],
)
def test_every_variable_is_a_setting(where: str, names: set[str]) -> None:
    """A manifest that names an unknown setting would be ignored in silence; none does."""
    assert names, where
    assert set() == names - SETTING_NAMES


@pytest.mark.parametrize("name", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_kubernetes_probes_ask_what_exists(name: str) -> None:
    """Liveness and start-up ask /livez, readiness /readyz, on the internal port, with room for a slow answer."""
    probe = CONTAINER[name]

    assert ("/readyz" if name == "readinessProbe" else "/livez") == probe["httpGet"]["path"]
    assert probe["httpGet"]["port"] == "internal"
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_ports_are_the_defaults() -> None:
    """Image, compose file and pod use the ports that the program listens on."""
    ports = {"public": DEFAULTS.port, "internal": DEFAULTS.internal_port}

    assert ports == {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert [f"127.0.0.1:{port}:{port}" for port in ports.values()] == RELAY["ports"]
    assert f"EXPOSE {DEFAULTS.port} {DEFAULTS.internal_port}" in DOCKERFILE
    assert load("k8s/base/service.yaml")["spec"]["ports"][0]["targetPort"] == "public"


def test_grace_is_longer_than_the_drain() -> None:
    """Neither Docker nor Kubernetes kills a relay that is still draining."""
    drain = float(re.findall(r"\d+", RELAY["environment"]["RELAY_DRAIN_SECONDS"])[0])
    pause = int(re.findall(r"sleep\((\d+)\)", " ".join(CONTAINER["lifecycle"]["preStop"]["exec"]["command"]))[0])

    assert drain == DEFAULTS.drain_seconds
    assert seconds(RELAY["stop_grace_period"]) > drain + CLIENT_CLOSE_SECONDS
    needed = pause + float(K8S_SETTINGS["RELAY_DRAIN_SECONDS"]) + CLIENT_CLOSE_SECONDS
    assert POD["terminationGracePeriodSeconds"] > needed


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


def test_the_pod_is_hardened() -> None:
    """Non-root, read-only, no capabilities, no token, no service links, and no secret in a manifest."""
    security = CONTAINER["securityContext"]

    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    assert not {"OPENAI_API_KEY", "RELAY_CLIENT_TOKENS"} & set(K8S_SETTINGS)


def test_the_build_context_holds_no_secret() -> None:
    """Only the package and the lock go to the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

    assert {line for line in lines if line.startswith("!")} == {"!service", "!requirements/runtime.txt"}
    assert "*" in lines
