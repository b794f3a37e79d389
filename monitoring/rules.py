"""The rules as Prometheus and its operator read them, and a configuration to start from. Pure."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import yaml

from monitoring.alerts import GROUPS
from monitoring.recording import RECORDS
from monitoring.rule import RUNBOOKS, Alert, Record

RULES_FILE: Final = "/etc/prometheus/rules.yaml"
NAME: Final = "realtime-relay"
_HEAD: Final = "# Generated from monitoring/ by `make docs`; docs/monitoring.md says how the alerts are chosen.\n"
_DURATION: Final = re.compile(r"\[(\d+)([smhd])\]")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Scale = Callable[[int], int]
"""From seconds to seconds: how the end-to-end test makes days last minutes."""


class Dumper(yaml.SafeDumper):
    """Long texts on one line, nothing shared, lists indented."""

    def ignore_aliases(self, _data: object) -> bool:
        """Say everything in full."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - its own
        """Indent lists as everybody writes them."""
        return super().increase_indent(flow, indentless=False)


def dumped(data: object) -> str:
    """YAML as a person would lay it out."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def seconds(duration: str) -> int:
    """A duration such as 5m."""
    return int(duration[:-1]) * _UNITS[duration[-1]]


def render_rules(runbooks: str = RUNBOOKS) -> str:
    """`monitoring/prometheus/rules.yaml`."""
    return _HEAD + dumped({"groups": groups(runbooks=runbooks)})


def render_prometheus_rule(runbooks: str = RUNBOOKS) -> str:
    """The same for Prometheus' operator."""
    return _HEAD + dumped({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}},
        "spec": {"groups": groups(runbooks=runbooks)},
    })  # fmt: skip


def groups(*, runbooks: str = RUNBOOKS, scale: Scale | None = None) -> list[dict[str, Any]]:
    """All rules, in groups: what is recorded first, then the alerts by area."""
    return [
        {"name": f"{NAME}-recording", "rules": [_record(record, scale) for record in RECORDS]},
        *(
            {"name": f"{NAME}-{area}", "rules": [_alert(alert, runbooks, scale) for alert in alerts]}
            for area, alerts in GROUPS.items()
        ),
    ]


def scaled(expression: str, scale: Scale | None) -> str:
    """An expression with every window scaled."""
    if scale is None:
        return expression
    return _DURATION.sub(lambda found: f"[{scale(int(found[1]) * _UNITS[found[2]])}s]", expression)


def _record(record: Record, scale: Scale | None) -> dict[str, Any]:
    return {"record": record.name, "expr": scaled(record.query, scale)}


def _alert(alert: Alert, runbooks: str, scale: Scale | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": scaled(alert.expression, scale)}
    hold = seconds(alert.hold)
    if hold:
        rule["for"] = alert.hold if scale is None else f"{scale(hold)}s"
    return rule | {"labels": alert.labels, "annotations": alert.annotations(runbooks=runbooks)}


def render_config(
    *,
    targets: dict[str, Iterable[str]] | None = None,
    alertmanager: str = "alertmanager:9093",
    rules: str = RULES_FILE,
    interval: str = "15s",
) -> str:
    """`monitoring/prometheus/prometheus.yml`: one job for each deployment, by default the relay of the compose file."""
    jobs = targets or {NAME: ["relay:9464"]}
    return _HEAD + dumped({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(hosts)}]} for job, hosts in jobs.items()
        ],
    })  # fmt: skip
