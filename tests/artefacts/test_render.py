"""tools/kustomize.py: the check of rendered objects finds the inconsistencies that it is for."""

import copy

import pytest

from tools.kustomize import Rendered, find_inconsistencies
from tools.manifests import BASE, KEDA, OPERATOR, PRODUCTION, documents

CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "realtime-relay"}}


def unpatched(*folders: str) -> Rendered:
    """The objects of several folders as their files contain them, without the patches of any kustomization."""
    objects = [item for folder in folders for items in documents(folder).values() for item in items]
    for item in objects:
        item["metadata"]["namespace"] = "realtime-relay"
    config_map = copy.deepcopy(CONFIG_MAP)
    config_map["metadata"]["namespace"] = "realtime-relay"  # type: ignore[index]
    return Rendered("x", (*objects, config_map))


def test_base_is_consistent() -> None:
    """The base needs no patch."""
    assert find_inconsistencies(unpatched(BASE)) == []


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ((BASE, PRODUCTION), "reset the number of replicas"),
        ((BASE, PRODUCTION, KEDA), "two autoscalers"),
        ((BASE, OPERATOR), "scrape the pods twice"),
    ],
)
def test_missing_patch_is_found(folders: tuple[str, ...], expected: str) -> None:
    """Without the patches of the overlay and of the components, the objects are inconsistent."""
    assert expected in " ".join(find_inconsistencies(unpatched(*folders)))


def test_broken_references_are_found() -> None:
    """A missing ConfigMap, a missing volume, a second namespace, other labels, an unknown kind."""
    rendered = unpatched(BASE)
    pod = rendered.of("Deployment")[0]["spec"]["template"]
    pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] = "another"
    pod["spec"]["volumes"] = []
    pod["metadata"]["labels"] = {}
    rendered.of("Service")[0]["metadata"]["namespace"] = "another"
    rendered.of("PodDisruptionBudget")[0]["apiVersion"] = "policy/v1beta1"
    text = " ".join(find_inconsistencies(rendered))

    for expected in (
        "a ConfigMap that does not exist",
        "volumes and volume mounts",
        "namespace",
        "selector",
        "policy/v1beta1",
    ):
        assert expected in text
