"""Renders the manifests with kustomize, and checks the consistency of the rendered objects."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.debian import unpack
from tools.manifests import CORE_KINDS, EXTENSION_KINDS, FOLDER

_SUITE: Final = "trixie"  # the first Debian release with kustomize
_CLUSTER_WIDE: Final = {"Namespace"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """The rendered objects of a kustomization."""

    name: str
    objects: tuple[Any, ...]

    @property
    def core_objects(self) -> list[Any]:
        """The objects of kinds that every cluster has."""
        return [item for item in self.objects if item["kind"] in CORE_KINDS.get(item["apiVersion"], set())]

    def of(self, kind: str) -> list[Any]:
        """The objects of a kind."""
        return [item for item in self.objects if item["kind"] == kind]


def find_kustomize() -> Path:
    """Path of kustomize: installed, or from Debian's package; raises PackageUnavailable."""
    installed = shutil.which("kustomize")
    return Path(installed) if installed else unpack("kustomize", "usr/bin/kustomize", suite=_SUITE)


def render_all(program: Path) -> Iterator[Rendered]:
    """Render the base, each overlay, and each overlay with each component and with all components."""
    yield render(program, FOLDER / "base")
    components = sorted(path.parent for path in (FOLDER / "components").glob("*/kustomization.yaml"))
    for overlay in sorted((FOLDER / "overlays").iterdir()):
        for selection in ([], *([component] for component in components), components):
            yield render(program, overlay, *selection)


def render(program: Path, folder: Path, *components: Path) -> Rendered:
    """Render a kustomization with components added as docs/deployment.md describes; raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(shutil.copytree(FOLDER, Path(name) / "k8s")) / folder.relative_to(FOLDER)
        file = top / "kustomization.yaml"
        kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
        kustomization["components"] = [os.path.relpath(component, folder) for component in components]
        file.write_text(yaml.safe_dump(kustomization), encoding="utf-8")
        done = subprocess.run([program, "build", top], check=True, capture_output=True, text=True, timeout=60)
    names = [str(folder.relative_to(FOLDER)), *(component.name for component in components)]
    return Rendered(" + ".join(names), tuple(yaml.safe_load_all(done.stdout)))


def find_inconsistencies(rendered: Rendered) -> list[str]:
    """Descriptions of all inconsistencies between the objects of one kustomization; empty if there are none."""
    found = [
        f"{item['apiVersion']} {item['kind']} is not in the list of known kinds"
        for item in rendered.objects
        if not _is_known(item)
    ]
    if rendered.of("ScaledObject") and rendered.of("HorizontalPodAutoscaler"):
        found.append("two autoscalers scale one Deployment")
    namespaces = {item["metadata"].get("namespace") for item in rendered.objects if item["kind"] not in _CLUSTER_WIDE}
    if len(namespaces) != 1 or {item["metadata"]["name"] for item in rendered.of("Namespace")} - namespaces:
        found.append(f"more than one namespace: {sorted(map(str, namespaces))}")
    (deployment,) = rendered.of("Deployment")
    pod = deployment["spec"]["template"]
    found += _find_dangling_references(rendered, pod["spec"])
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        *(item["spec"]["selector"] for item in rendered.of("Service")),
        *(item["spec"]["selector"]["matchLabels"] for item in rendered.of("PodDisruptionBudget")),
        *(item["spec"]["podSelector"]["matchLabels"] for item in rendered.of("NetworkPolicy")),
    ]
    pods = [pod, *(item["spec"]["template"] for item in rendered.of("StatefulSet"))]
    labels = [each["metadata"]["labels"].items() for each in pods]
    if not all(any(selector.items() <= own for own in labels) for selector in selectors):
        found.append("a selector does not match the pods")
    services = {
        item["metadata"]["name"]: {port["port"] for port in item["spec"]["ports"]} for item in rendered.of("Service")
    }
    for route in rendered.of("HTTPRoute"):
        backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
        if any(backend["port"] not in services.get(backend["name"], ()) for backend in backends):
            found.append("the HTTPRoute references a Service or a port that does not exist")
    for monitor in rendered.of("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        matching = [item for item in rendered.of("Service") if labels <= item["metadata"]["labels"].items()]
        if [item["metadata"]["name"] for item in matching] != ["realtime-relay-internal"]:
            found.append("the ServiceMonitor does not select exactly the internal Service")
        if "prometheus.io/scrape" in pod["metadata"].get("annotations", {}):
            found.append("Prometheus would scrape the pods twice")
    return found


def _is_known(item: Any) -> bool:
    return item["kind"] in (CORE_KINDS | EXTENSION_KINDS).get(item["apiVersion"], set())


def _find_dangling_references(rendered: Rendered, pod: Any) -> list[str]:
    """References to missing objects, and a fixed number of replicas beside an autoscaler."""
    found = []
    (container,) = pod["containers"]
    maps = {item["metadata"]["name"] for item in rendered.of("ConfigMap")}
    if {source["configMapRef"]["name"] for source in container["envFrom"]} != maps:
        found.append("the pod references a ConfigMap that does not exist")
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    if mounted != {volume["name"] for volume in pod.get("volumes", [])}:
        found.append("volumes and volume mounts differ")
    if rendered.of("HorizontalPodAutoscaler") and "replicas" in rendered.of("Deployment")[0]["spec"]:
        found.append("every apply would reset the number of replicas")
    return found
