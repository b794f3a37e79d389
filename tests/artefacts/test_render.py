"""The check of what kustomize renders notices what it is for."""

import copy
from typing import Any

import pytest

from tools.kustomize import Rendered, find_inconsistencies
from tools.manifests import BASE, KEDA, OPERATOR, PRODUCTION, documents

SETTINGS = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "realtime-relay"}}


def rendered(*folders: str) -> Rendered:
    """The objects of some folders, as their files have them."""
    objects = [one for folder in folders for several in documents(folder).values() for one in several]
    for one in objects:
        one["metadata"]["namespace"] = "realtime-relay"
    settings = copy.deepcopy(SETTINGS)
    settings["metadata"]["namespace"] = "realtime-relay"  # type: ignore[index]
    return Rendered("x", (*objects, settings))


def pod_of(one: Rendered) -> Any:
    """The pod's template."""
    return one.of("Deployment")[0]["spec"]["template"]


def test_nothing_is_wrong_with_the_files() -> None:
    """The base as it stands passes."""
    assert find_inconsistencies(rendered(BASE)) == []


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        ((BASE, PRODUCTION), "reset the number of replicas"),
        ((BASE, PRODUCTION, KEDA), "two autoscalers"),
        ((BASE, OPERATOR), "scrape the pods twice"),
    ],
)
def test_what_a_patch_is_there_for_is_missed_without_it(folders: tuple[str, ...], found: str) -> None:
    """The files alone, without the overlay's and the components' patches, are not right."""
    assert found in " ".join(find_inconsistencies(rendered(*folders)))


def test_a_broken_reference_is_found() -> None:
    """A ConfigMap of another name, a volume that is not there, a namespace apart, labels apart, an unknown kind."""
    one = rendered(BASE)
    pod = pod_of(one)
    pod["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] = "another"
    pod["spec"]["volumes"] = []
    pod["metadata"]["labels"] = {}
    one.of("Service")[0]["metadata"]["namespace"] = "another"
    one.of("PodDisruptionBudget")[0]["apiVersion"] = "policy/v1beta1"
    text = " ".join(find_inconsistencies(one))

    for words in ("another ConfigMap", "volumes and mounts", "namespace", "selector", "policy/v1beta1"):
        assert words in text
