"""Reads the Kubernetes manifests of the repository without kustomize."""

from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / "k8s"
BASE: Final = "k8s/base"
DEV: Final = "k8s/overlays/dev"
PRODUCTION: Final = "k8s/overlays/production"
OPERATOR: Final = "k8s/components/prometheus-operator"
KEDA: Final = "k8s/components/keda"
ADAPTER: Final = "k8s/components/prometheus-adapter"
INGRESS: Final = "k8s/components/ingress"
GATEWAY: Final = "k8s/components/gateway"
VALKEY: Final = "k8s/components/valkey"
OLDEST_MINOR: Final = 25
"""The minor version of the oldest Kubernetes that docs/deployment.md names; `tools.validate_k8s` validates it."""

CORE_KINDS: Final = {
    "apps/v1": {"Deployment", "StatefulSet"},
    "autoscaling/v2": {"HorizontalPodAutoscaler"},
    "networking.k8s.io/v1": {"Ingress", "NetworkPolicy"},
    "policy/v1": {"PodDisruptionBudget"},
    "v1": {"ConfigMap", "Namespace", "Service"},
}
"""The kinds allowed in base and overlays. Every cluster has them; Kubernetes 1.20 does with two API versions rewritten
(policy/v1beta1, autoscaling/v2beta2).
"""
EXTENSION_KINDS: Final = {
    "gateway.networking.k8s.io/v1": {"Gateway", "HTTPRoute"},
    "keda.sh/v1alpha1": {"ScaledObject"},
    "monitoring.coreos.com/v1": {"PrometheusRule", "ServiceMonitor"},
}
"""The kinds that components may add; they require the Gateway API, KEDA or the Prometheus operator."""


def text_of(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> Any:
    """The content of a YAML file with one document."""
    return yaml.safe_load(text_of(name))


def documents(folder: str) -> dict[str, list[Any]]:
    """The objects in the files that a kustomization lists as resources, by kind."""
    found: dict[str, list[Any]] = {}
    for resource in load(f"{folder}/kustomization.yaml").get("resources", []):
        if resource.endswith(".yaml"):
            for document in yaml.safe_load_all(text_of(f"{folder}/{resource}")):
                found.setdefault(document["kind"], []).append(document)
    return found


def env_file(name: str) -> dict[str, str]:
    """The assignments of an env file."""
    lines = text_of(name).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def mebibytes(quantity: str) -> int:
    """The mebibytes of a memory quantity such as 384Mi."""
    assert quantity.endswith("Mi"), quantity
    return int(quantity.removesuffix("Mi"))


def millicores(quantity: str) -> int:
    """The millicores of a CPU quantity such as 300m or 1."""
    return int(quantity.removesuffix("m")) if quantity.endswith("m") else 1000 * int(quantity)
