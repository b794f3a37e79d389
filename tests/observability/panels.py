"""Runs every dashboard query, recording rule and Grafana alert query on the Prometheus that scraped the scenarios."""

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
from tests.observability.notifications import ExpectationFailed
from tests.observability.testbed import Testbed

_STEP_SECONDS: Final = 2


def _queries_without_data() -> dict[str, str]:
    """Prefixes of queries that correctly return nothing on this machine, with the reason."""
    if memory_limit_bytes() is None:
        return {"min(realtime_relay_memory_limit_bytes{": "this machine has no memory limit, and none is drawn"}
    return {}


def substitute_variables(expression: str, jobs: str, seconds: int) -> str:
    """A panel's query with Grafana's variables replaced as by Grafana with all values selected.

    The steps of subqueries are shortened: Prometheus evaluates them at full minutes only, of which a test may have none.
    """
    values = {"namespace": ".*", "job": jobs, "instance": ".*", "__rate_interval": "6s", "__range": f"{seconds}s"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression.replace(":1m]", f":{_STEP_SECONDS}s]"))


async def check_dashboards(testbed: Testbed, started: float) -> tuple[int, list[str]]:
    """Run every panel query; returns their number, and an error for each without data or with a legend label missing."""
    end = time.time()
    jobs = "|".join(testbed.deployments)
    count, errors = 0, []
    for dashboard, render in DASHBOARDS.items():
        for panel in json.loads(render(DOCS_URL))["panels"]:
            for target in panel["targets"]:
                count += 1
                query = substitute_variables(target["expr"], jobs, round(end - started))
                name = f"{dashboard}, {panel['title']}, {target['refId']}"
                if any(target["expr"].startswith(prefix) for prefix in _queries_without_data()):
                    continue
                result = await testbed.query(query, start=started, end=end, step=_STEP_SECONDS)
                errors += [f"{name}: {error}" for error in _find_errors(result, target["legendFormat"])]
    return count, errors


def _find_errors(result: list[Any], legend: str) -> list[str]:
    if not _has_number(result):
        return ["no data"]
    labels = {label for series in result for label in series["metric"]}
    return [f"no label {label}" for label in re.findall(r"\{\{(\w+)\}\}", legend) if label not in labels]


def _has_number(result: list[Any]) -> bool:
    return any(math.isfinite(float(value)) for series in result for _, value in series["values"])


async def check_recording_rules(testbed: Testbed, started: float) -> list[str]:
    """An error for each recording rule that recorded no number."""
    errors = []
    for record in RECORDING_RULES:
        result = await testbed.query(record.name, start=started, end=time.time(), step=_STEP_SECONDS)
        if not _has_number(result):
            errors.append(f"{record.name} has recorded nothing")
    return errors


async def check_grafana_alerts(testbed: Testbed) -> list[str]:
    """An error for each Grafana alert query, with its original windows, that Prometheus rejects."""
    errors = []
    for alert in ALERTS:
        try:
            await testbed.query(inline_records(alert.query))
        except ExpectationFailed as exc:
            errors.append(str(exc))
    return errors
