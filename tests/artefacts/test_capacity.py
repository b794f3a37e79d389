"""How many calls a pod holds: the page, the manifests, the autoscalers and the program reckon the same."""

import re
from pathlib import Path
from typing import Any, Final

import pytest

from service import machine
from service.telemetry.metrics import PREFIX, Metrics
from tests.artefacts import capacity
from tools import generated
from tools.manifests import (
    ADAPTER,
    BASE,
    DEV,
    KEDA,
    PRODUCTION,
    documents,
    env_file,
    load,
    mebibytes,
    millicores,
    text_of,
)

METRIC: Final = f"{PREFIX}_sessions_active"
PAGE: Final = text_of("docs/capacity.md")
MAX_SESSIONS: Final = int(env_file(f"{BASE}/settings.env")["RELAY_MAX_SESSIONS"])
HPA: Final = documents(PRODUCTION)["HorizontalPodAutoscaler"][0]["spec"]
SCALED: Final = documents(KEDA)["ScaledObject"][0]["spec"]
POD: Final = documents(BASE)["Deployment"][0]["spec"]["template"]["spec"]
RESOURCES: Final = POD["containers"][0]["resources"]
PLAN: Final = capacity.plan(1000)
DEV_RESOURCES: Final = load(f"{DEV}/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]["resources"]


def row(callers: int) -> list[str]:
    """A row of the page's table of settings."""
    found = re.findall(rf"^\| {callers:,} \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(found) == 1, callers
    return [cell.strip() for cell in found[0].split("|")]


def test_the_page_reckons_as_the_program_does(tmp_path: Path) -> None:
    """A pod with the memory that the arithmetic gives it lowers its sessions no further."""
    for sessions in (1, 100, 1000, 1500):
        file = tmp_path / "memory.max"
        file.write_text(str(capacity.memory_mebibytes(sessions) << 20))
        assert (machine.max_sessions_by_memory([file]) or 0) >= sessions
        file.write_text(str((capacity.PROCESS_MIB << 20) + sessions * (capacity.SESSION_KIB << 10)))
        assert machine.max_sessions_by_memory([file]) == sessions
    assert machine.SPARE_DESCRIPTORS == capacity.SPARE_DESCRIPTORS


@pytest.mark.parametrize(
    ("resources", "sessions"),
    [(RESOURCES, MAX_SESSIONS), (DEV_RESOURCES, int(generated.dev_settings()["RELAY_MAX_SESSIONS"]))],
    ids=["base", "dev"],
)
def test_a_pod_has_the_memory_of_its_sessions(resources: Any, sessions: int) -> None:
    """The limit is what RELAY_MAX_SESSIONS needs, and all of it is asked for."""
    assert capacity.memory_mebibytes(sessions) == mebibytes(resources["limits"]["memory"])
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "cpu" not in resources["limits"]


def test_the_manifests_are_the_row_for_a_thousand() -> None:
    """The base and the overlay `production` carry 1,000 callers as they stand, and `maxReplicas` 10,000."""
    assert PLAN.max_sessions == MAX_SESSIONS
    assert PLAN.millicores == millicores(RESOURCES["requests"]["cpu"])
    assert PLAN.pods == HPA["minReplicas"] == documents(BASE)["Deployment"][0]["spec"]["replicas"]
    assert capacity.plan(10_000).pods < HPA["maxReplicas"]


@pytest.mark.parametrize("callers", [100, 1000, 10_000])
def test_the_table_follows_from_the_arithmetic(callers: int) -> None:
    """Each row says what the plan says, and all callers still fit when one pod is lost."""
    plan = capacity.plan(callers)

    assert [
        f"{plan.max_sessions:,}",
        f"{plan.target}",
        f"{plan.pods}",
        f"{plan.millicores}m",
        f"{plan.mebibytes}Mi",
        f"{plan.open_files:,}",
        f"{plan.cores:.1f} cores, {plan.gibibytes:.1f} GiB",
    ] == row(callers)
    assert (plan.pods - 1) * plan.max_sessions >= callers
    assert plan.pods * plan.target >= callers


def test_the_page_says_what_a_core_and_a_hundred_megabytes_hold() -> None:
    """The four figures follow from the measured ones."""
    for figure in (
        f"{capacity.sessions_a_core():,.0f}",
        f"{capacity.sessions_a_core(capacity.SPEAKING):,.0f}",
        f"{100_000 // 82:,}",
        f"{100_000 // 29:,}",
        f"{100_000_000 // (capacity.SESSION_KIB << 10):,}",
    ):
        assert re.search(rf"(?<![\d,]){figure}(?![\d,])", PAGE), figure


def test_the_measured_figures_are_the_benchmarks() -> None:
    """Microseconds for each message and kilobytes for each session stand in docs/benchmarks.md, give or take a sixth."""
    benchmarks = text_of("docs/benchmarks.md")
    cost = re.findall(r"^\| tls \| relay \|.*\| ([\d.]+) \([\d.-]+\) \|$", benchmarks, re.MULTILINE)
    memory = {
        upstream: float(
            re.findall(rf"^\| {upstream} \| 500 \| relay \| ([\d.]+) \| [\d.]+ \|", benchmarks, re.MULTILINE)[0]
        )
        for upstream in ("tls", "plain")
    }

    assert float(cost[0]) == pytest.approx(capacity.MICROSECONDS_A_MESSAGE, rel=1 / 6)
    assert memory == {"tls": pytest.approx(82, rel=1 / 6), "plain": pytest.approx(29, rel=1 / 6)}
    assert (memory["tls"] * 1000) < capacity.SESSION_KIB * 1024


def test_both_autoscalers_have_the_same_target() -> None:
    """HPA and ScaledObject keep a pod at the plan's share of RELAY_MAX_SESSIONS, within the same bounds, equally slowly."""
    target = HPA["metrics"][0]["pods"]["target"]
    trigger = SCALED["triggers"][0]

    assert target == {"type": "AverageValue", "averageValue": str(PLAN.target)}
    assert trigger["metricType"] == target["type"]
    assert trigger["metadata"]["threshold"] == target["averageValue"]
    assert (SCALED["minReplicaCount"], SCALED["maxReplicaCount"]) == (HPA["minReplicas"], HPA["maxReplicas"])
    assert SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == HPA["behavior"]
    assert HPA["scaleTargetRef"]["name"] == SCALED["scaleTargetRef"]["name"] == "realtime-relay"


def test_both_autoscalers_ask_for_metrics_that_exist() -> None:
    """A metric that the program does not have would keep the number of pods for ever."""
    metrics = {sample.name for family in Metrics("openai").registry.collect() for sample in family.samples}
    rule = load(f"{ADAPTER}/values.yaml")["rules"]["custom"][0]
    query = SCALED["triggers"][0]["metadata"]["query"]
    namespace = load(f"{PRODUCTION}/kustomization.yaml")["namespace"]

    assert METRIC in metrics
    assert METRIC == HPA["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith(METRIC + "{")
    assert rule["name"]["matches"] == f"^{METRIC}$"
    assert {METRIC, f"{PREFIX}_draining"} == set(re.findall(rf"{PREFIX}_\w+", query))
    assert {namespace} == set(re.findall(r'namespace="([^"]+)"', query))
    assert metrics >= set(re.findall(rf"{PREFIX}_\w+", query))


def test_pods_go_one_at_a_time() -> None:
    """No second pod is taken away before the calls of the first have had their whole grace."""
    down = HPA["behavior"]["scaleDown"]

    assert [("Pods", 1)] == [(policy["type"], policy["value"]) for policy in down["policies"]]
    assert down["policies"][0]["periodSeconds"] >= POD["terminationGracePeriodSeconds"]
    assert down["stabilizationWindowSeconds"] >= down["policies"][0]["periodSeconds"]


def test_the_two_never_stand_together() -> None:
    """The component with the ScaledObject takes the overlay's HPA away."""
    patches = load(f"{KEDA}/kustomization.yaml")["patches"]

    assert [("HorizontalPodAutoscaler", "realtime-relay")] == [
        (patch["target"]["kind"], patch["target"]["name"]) for patch in patches if "$patch: delete" in patch["patch"]
    ]
