"""Every query of every board, and every recording rule, on the Prometheus that has watched the trials."""

import json
import math
import re
import time
from typing import Any, Final

from monitoring.alerts import ALERTS
from monitoring.dashboards import DASHBOARDS
from monitoring.recording import RECORDING_RULES, inline_records
from monitoring.rule import DOCS_URL
from service.machine import memory_limit_bytes
from tests.observability.receiver import Missing
from tests.observability.stage import Stage

_STEP: Final = 2


def _without_data() -> dict[str, str]:
    """Queries that return nothing here, and why."""
    if memory_limit_bytes() is None:
        return {"min(realtime_relay_memory_limit_bytes{": "this machine gives no limit on memory, and none is drawn"}
    return {}


def substituted(expression: str, jobs: str, seconds: int) -> str:
    """A panel's query with Grafana's variables filled in, as Grafana fills them in when all is chosen."""
    values = {"namespace": ".*", "job": jobs, "instance": ".*", "__rate_interval": "6s", "__range": f"{seconds}s"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


async def faults_of_boards(stage: Stage, started: float) -> tuple[int, list[str]]:
    """How many queries were executed, and what is wrong: no data, NaN alone, a legend's label that is not there."""
    end = time.time()
    jobs = "|".join(stage.deployments)
    count, found = 0, []
    for board, render in DASHBOARDS.items():
        for panel in json.loads(render(DOCS_URL))["panels"]:
            for target in panel["targets"]:
                count += 1
                query = substituted(target["expr"], jobs, round(end - started))
                what = f"{board}, {panel['title']}, {target['refId']}"
                if any(target["expr"].startswith(known) for known in _without_data()):
                    continue
                series = await stage.query(query, start=started, end=end, step=_STEP)
                found += [f"{what}: {fault}" for fault in _faults(series, target["legendFormat"])]
    return count, found


def _faults(series: list[Any], legend: str) -> list[str]:
    if not any(_is_number(value) for each in series for _, value in each["values"]):
        return ["no data"]
    labels = {label for each in series for label in each["metric"]}
    return [f"no label {label}" for label in re.findall(r"\{\{(\w+)\}\}", legend) if label not in labels]


def _is_number(value: str) -> bool:
    return math.isfinite(float(value))


async def faults_of_records(stage: Stage, started: float) -> list[str]:
    """Recording rules that have recorded nothing."""
    found = []
    for record in RECORDING_RULES:
        series = await stage.query(record.name, start=started, end=time.time(), step=_STEP)
        if not any(_is_number(value) for each in series for _, value in each["values"]):
            found.append(f"{record.name} has recorded nothing")
    return found


async def faults_of_grafana(stage: Stage) -> list[str]:
    """Grafana's queries that Prometheus does not execute, with their real windows."""
    found = []
    for alert in ALERTS:
        try:
            await stage.query(inline_records(alert.query))
        except Missing as exc:
            found.append(str(exc))
    return found
