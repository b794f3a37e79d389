"""What kustomize makes of the manifests, and what has to hold of it."""

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
from tools.manifests import EVERYWHERE, FOLDER, INSTALLED

_SUITE: Final = "trixie"  # the first with kustomize
_CLUSTER_WIDE: Final = {"Namespace"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A kustomization's objects."""

    name: str
    objects: tuple[Any, ...]

    @property
    def plain(self) -> list[Any]:
        """Those that every cluster knows."""
        return [one for one in self.objects if one["kind"] in EVERYWHERE.get(one["apiVersion"], set())]

    def of(self, kind: str) -> list[Any]:
        """Those of a kind."""
        return [one for one in self.objects if one["kind"] == kind]


def kustomize() -> Path:
    """The program: installed, or Debian's; raises NotToBeHad."""
    installed = shutil.which("kustomize")
    return Path(installed) if installed else unpack("kustomize", "usr/bin/kustomize", suite=_SUITE)


def render_all(program: Path) -> Iterator[Rendered]:
    """The base, each overlay, and each overlay with each component and with all of them."""
    yield render(program, FOLDER / "base")
    components = sorted(path.parent for path in (FOLDER / "components").glob("*/kustomization.yaml"))
    for overlay in sorted((FOLDER / "overlays").iterdir()):
        for chosen in ([], *([component] for component in components), components):
            yield render(program, overlay, *chosen)


def render(program: Path, folder: Path, *components: Path) -> Rendered:
    """One kustomization, with components added to it as docs/deployment.md says; raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(shutil.copytree(FOLDER, Path(name) / "k8s")) / folder.relative_to(FOLDER)
        file = top / "kustomization.yaml"
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        written["components"] = [os.path.relpath(component, folder) for component in components]
        file.write_text(yaml.safe_dump(written), encoding="utf-8")
        done = subprocess.run([program, "build", top], check=True, capture_output=True, text=True, timeout=60)
    words = [str(folder.relative_to(FOLDER)), *(component.name for component in components)]
    return Rendered(" + ".join(words), tuple(yaml.safe_load_all(done.stdout)))


def mistakes(rendered: Rendered) -> list[str]:
    """What is wrong between the objects of one kustomization, in words."""
    found = [f"{one['apiVersion']} {one['kind']} is unknown here" for one in rendered.objects if not _is_known(one)]
    if rendered.of("ScaledObject") and rendered.of("HorizontalPodAutoscaler"):
        found.append("two autoscalers pull at one Deployment")
    namespaces = {one["metadata"].get("namespace") for one in rendered.objects if one["kind"] not in _CLUSTER_WIDE}
    if len(namespaces) != 1 or {one["metadata"]["name"] for one in rendered.of("Namespace")} - namespaces:
        found.append(f"more than one namespace: {sorted(map(str, namespaces))}")
    (deployment,) = rendered.of("Deployment")
    pod = deployment["spec"]["template"]
    found += _dangling(rendered, pod["spec"])
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        *(one["spec"]["selector"] for one in rendered.of("Service")),
        *(one["spec"]["selector"]["matchLabels"] for one in rendered.of("PodDisruptionBudget")),
        *(one["spec"]["podSelector"]["matchLabels"] for one in rendered.of("NetworkPolicy")),
    ]
    if not all(selector.items() <= pod["metadata"]["labels"].items() for selector in selectors):
        found.append("a selector does not select the pods")
    for monitor in rendered.of("ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [one for one in rendered.of("Service") if wanted <= one["metadata"]["labels"].items()]
        if [one["metadata"]["name"] for one in chosen] != ["realtime-relay-internal"]:
            found.append("the ServiceMonitor does not select the internal Service alone")
        if "prometheus.io/scrape" in pod["metadata"].get("annotations", {}):
            found.append("pods would be scraped twice")
    return found


def _is_known(one: Any) -> bool:
    return one["kind"] in (EVERYWHERE | INSTALLED).get(one["apiVersion"], set())


def _dangling(rendered: Rendered, pod: Any) -> list[str]:
    """References to what is not there, and replicas where an autoscaler has the say."""
    found = []
    (container,) = pod["containers"]
    maps = {one["metadata"]["name"] for one in rendered.of("ConfigMap")}
    if {source["configMapRef"]["name"] for source in container["envFrom"]} != maps:
        found.append("the pod reads another ConfigMap than there is")
    mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
    if mounted != {volume["name"] for volume in pod.get("volumes", [])}:
        found.append("volumes and mounts differ")
    if rendered.of("HorizontalPodAutoscaler") and "replicas" in rendered.of("Deployment")[0]["spec"]:
        found.append("every apply would put back the number of pods")
    return found
