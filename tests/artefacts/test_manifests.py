"""Kubernetes manifests name what the code has: settings, ports, probes, times."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from service.relay.session import CLIENT_CLOSE_SECONDS
from service.settings import SETTING_NAMES, Settings

ROOT: Final = Path(__file__).resolve().parent.parent.parent
PROBES: Final = {"/livez", "/readyz"}
DEFAULTS: Final = Settings()


def load(name: str) -> Any:
    """A manifest."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def env_file(name: str) -> dict[str, str]:
    """The assignments of an env file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


POD: Final = load("k8s/base/deployment.yaml")["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]
K8S_SETTINGS: Final = env_file("k8s/base/settings.env")


@pytest.mark.parametrize(
    ("where", "names"),
    [
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
    """The pod uses the ports that the program listens on."""
    ports = {"public": DEFAULTS.port, "internal": DEFAULTS.internal_port}

    assert ports == {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert load("k8s/base/service.yaml")["spec"]["ports"][0]["targetPort"] == "public"


def test_grace_is_longer_than_the_drain() -> None:
    """Kubernetes does not kill a relay that is still draining."""
    pause = int(re.findall(r"sleep\((\d+)\)", " ".join(CONTAINER["lifecycle"]["preStop"]["exec"]["command"]))[0])

    needed = pause + float(K8S_SETTINGS["RELAY_DRAIN_SECONDS"]) + CLIENT_CLOSE_SECONDS
    assert POD["terminationGracePeriodSeconds"] > needed


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
