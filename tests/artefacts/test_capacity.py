"""Capacity: docs/capacity.md, the manifests, the autoscalers and the program use the same numbers."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

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
(_PATCH,) = load(f"{ADAPTER}/kustomization.yaml")["patches"]
SESSIONS_METRIC: Final = yaml.safe_load(_PATCH["patch"])[0]["value"]
POD: Final = documents(BASE)["Deployment"][0]["spec"]["template"]["spec"]
RESOURCES: Final = POD["containers"][0]["resources"]
PLAN: Final = capacity.plan(1000)
DEV_RESOURCES: Final = load(f"{DEV}/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]["resources"]


def row(sessions: int) -> list[str]:
    """The cells of a row in the page's table of settings."""
    found = re.findall(rf"^\| {sessions:,} \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(found) == 1, sessions
    return [cell.strip() for cell in found[0].split("|")]


def test_capacity_model_matches_program(tmp_path: Path) -> None:
    """With the memory of the model, the program does not lower the number of sessions."""
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
def test_pod_memory_fits_max_sessions(resources: Any, sessions: int) -> None:
    """The memory limit is that of the model for RELAY_MAX_SESSIONS, the request equals it, and no CPU limit is set."""
    assert capacity.memory_mebibytes(sessions) == mebibytes(resources["limits"]["memory"])
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert "cpu" not in resources["limits"]


def test_manifests_match_plan_for_1000_sessions() -> None:
    """The base and the overlay `production` support 1,000 sessions as shipped, and `maxReplicas` 10,000."""
    assert PLAN.max_sessions == MAX_SESSIONS
    assert PLAN.millicores == millicores(RESOURCES["requests"]["cpu"])
    assert PLAN.pods == HPA["minReplicas"] == documents(BASE)["Deployment"][0]["spec"]["replicas"]
    assert capacity.plan(10_000).pods < HPA["maxReplicas"]


@pytest.mark.parametrize("sessions", [100, 1000, 10_000])
def test_table_matches_plan(sessions: int) -> None:
    """Each row has the values of the plan, and all sessions fit if one pod is lost."""
    plan = capacity.plan(sessions)

    assert [
        f"{plan.max_sessions:,}",
        f"{plan.target_sessions}",
        f"{plan.pods}",
        f"{plan.millicores}m",
        f"{plan.mebibytes}Mi",
        f"{plan.open_files:,}",
        f"{plan.cores:.1f} cores, {plan.gibibytes:.1f} GiB",
    ] == row(sessions)
    assert (plan.pods - 1) * plan.max_sessions >= sessions
    assert plan.pods * plan.target_sessions >= sessions


def test_page_states_sessions_per_core_and_per_100_mb() -> None:
    """The page has the numbers that follow from the measurements."""
    for figure in (
        f"{capacity.sessions_per_core():,.0f}",
        f"{capacity.sessions_per_core(capacity.SPEAKING_SHARE):,.0f}",
        f"{100_000 // 82:,}",
        f"{100_000 // 29:,}",
        f"{100_000_000 // (capacity.SESSION_KIB << 10):,}",
    ):
        assert re.search(rf"(?<![\d,]){figure}(?![\d,])", PAGE), figure


def test_model_matches_benchmarks() -> None:
    """CPU time per message and memory per session match docs/benchmarks.md within a sixth."""
    benchmarks = text_of("docs/benchmarks.md")
    cost = re.findall(r"^\| tls \| relay \|.*\| ([\d.]+) \([\d.-]+\) \|$", benchmarks, re.MULTILINE)
    memory = {
        upstream: float(
            re.findall(rf"^\| {upstream} \| 500 \| relay \| ([\d.]+) \| [\d.]+ \|", benchmarks, re.MULTILINE)[0]
        )
        for upstream in ("tls", "plain")
    }

    assert float(cost[0]) == pytest.approx(capacity.MICROSECONDS_PER_MESSAGE, rel=1 / 6)
    assert memory == {"tls": pytest.approx(82, rel=1 / 6), "plain": pytest.approx(29, rel=1 / 6)}
    assert (memory["tls"] * 1000) < capacity.SESSION_KIB * 1024


def test_shipped_autoscaler_needs_no_adapter() -> None:
    """It scales on CPU, within the request for the plan's target."""
    (metric,) = HPA["metrics"]

    assert ("Resource", "cpu") == (metric["type"], metric["resource"]["name"])
    percent = metric["resource"]["target"]["averageUtilization"]
    assert 50 <= percent <= 100
    assert f"{percent} % of the CPU request" in text_of("docs/capacity.md")
    assert f"{percent} % of it are {PLAN.target_sessions * percent // 100}." in text_of(
        f"{PRODUCTION}/horizontalpodautoscaler.yaml"
    )


def test_autoscalers_have_the_same_target() -> None:
    """With prometheus-adapter, HPA and ScaledObject have the plan's target, the same bounds and the same behavior."""
    target = SESSIONS_METRIC["pods"]["target"]
    trigger = SCALED["triggers"][0]

    assert target == {"type": "AverageValue", "averageValue": str(PLAN.target_sessions)}
    assert trigger["metricType"] == target["type"]
    assert trigger["metadata"]["threshold"] == target["averageValue"]
    assert (SCALED["minReplicaCount"], SCALED["maxReplicaCount"]) == (HPA["minReplicas"], HPA["maxReplicas"])
    assert SCALED["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == HPA["behavior"]
    assert HPA["scaleTargetRef"]["name"] == SCALED["scaleTargetRef"]["name"] == "realtime-relay"


def test_autoscalers_use_existing_metrics() -> None:
    """With an unknown metric, the number of pods would never change."""
    metrics = {sample.name for family in Metrics("openai").registry.collect() for sample in family.samples}
    rule = load(f"{ADAPTER}/values.yaml")["rules"]["custom"][0]
    query = SCALED["triggers"][0]["metadata"]["query"]
    namespace = load(f"{PRODUCTION}/kustomization.yaml")["namespace"]

    assert METRIC in metrics
    assert METRIC == SESSIONS_METRIC["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["seriesQuery"].startswith(METRIC + "{")
    assert rule["name"]["matches"] == f"^{METRIC}$"
    assert {METRIC, f"{PREFIX}_draining"} == set(re.findall(rf"{PREFIX}_\w+", query))
    assert {namespace} == set(re.findall(r'namespace="([^"]+)"', query))
    assert metrics >= set(re.findall(rf"{PREFIX}_\w+", query))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_keda_query_counts_sessions_of_serving_pods(tmp_path: Path) -> None:
    """The sessions of both APIs count, those of a draining pod do not."""
    query = SCALED["triggers"][0]["metadata"]["query"]
    labels = 'namespace="realtime-relay",job="relay",instance='
    values = {
        f'{METRIC}{{api="realtime",{labels}"a"}}': "100x9",
        f'{METRIC}{{api="live",{labels}"a"}}': "20x9",
        f'{METRIC}{{api="live",{labels}"b"}}': "7x9",
        f'{PREFIX}_draining{{{labels}"a"}}': "0x9",
        f'{PREFIX}_draining{{{labels}"b"}}': "1x9",
    }
    case = {
        "input_series": [{"series": series, "values": value} for series, value in values.items()],
        "promql_expr_test": [
            {"expr": query, "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 120}]},
        ],
    }
    file = tmp_path / "keda_test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))

    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, check=False)

    assert 0 == done.returncode, done.stdout.decode() + done.stderr.decode()


def test_autoscaler_removes_one_pod_per_grace_period() -> None:
    """A second pod is removed only after the grace period of the first."""
    down = HPA["behavior"]["scaleDown"]

    assert [("Pods", 1)] == [(policy["type"], policy["value"]) for policy in down["policies"]]
    assert down["policies"][0]["periodSeconds"] >= POD["terminationGracePeriodSeconds"]
    assert down["stabilizationWindowSeconds"] >= down["policies"][0]["periodSeconds"]


def test_keda_component_deletes_hpa() -> None:
    """The component with the ScaledObject deletes the overlay's HPA."""
    patches = load(f"{KEDA}/kustomization.yaml")["patches"]

    assert [("HorizontalPodAutoscaler", "realtime-relay")] == [
        (patch["target"]["kind"], patch["target"]["name"]) for patch in patches if "$patch: delete" in patch["patch"]
    ]
