"""The rule files for Prometheus and its operator, and an example configuration for Prometheus. Pure."""

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

import yaml

from monitoring.alerts import GROUPS
from monitoring.recording import RECORDING_RULES
from monitoring.rule import DOCS_URL, Alert, RecordingRule

RULES_FILE: Final = "/etc/prometheus/rules.yaml"
NAME: Final = "realtime-relay"
_HEAD: Final = "# Generated from monitoring/ by `make docs`; docs/monitoring.md explains the alerts.\n"
_DURATION: Final = re.compile(r"\[(\d+)([smhd])\]")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Scale = Callable[[int], int]
"""Maps a duration in seconds to another one; the end-to-end test shortens days to minutes with it."""


class Dumper(yaml.SafeDumper):
    """A YAML dumper without line folding and without anchors, which indents lists."""

    def ignore_aliases(self, _data: object) -> bool:
        """Never write anchors and aliases."""
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - its own
        """Indent list items below their key."""
        return super().increase_indent(flow, indentless=False)


def to_yaml(data: object) -> str:
    """The data as YAML, with keys in their given order."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def seconds(duration: str) -> int:
    """The seconds of a Prometheus duration such as `5m`."""
    return int(duration[:-1]) * _UNITS[duration[-1]]


def render_rules(docs_url: str = DOCS_URL) -> str:
    """The text of `monitoring/prometheus/rules.yaml`."""
    return _HEAD + to_yaml({"groups": groups(docs_url=docs_url)})


def render_prometheus_rule(docs_url: str = DOCS_URL) -> str:
    """The same rules as a `PrometheusRule` of Prometheus' operator."""
    return _HEAD + to_yaml({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": NAME, "labels": {"app.kubernetes.io/name": NAME}},
        "spec": {"groups": groups(docs_url=docs_url)},
    })  # fmt: skip


def groups(*, docs_url: str = DOCS_URL, scale: Scale | None = None) -> list[dict[str, Any]]:
    """All rules in groups: the recording rules first, then the alerts by area."""
    return [
        {"name": f"{NAME}-recording", "rules": [_record(record, scale) for record in RECORDING_RULES]},
        *(
            {"name": f"{NAME}-{area}", "rules": [_alert(alert, docs_url, scale) for alert in alerts]}
            for area, alerts in GROUPS.items()
        ),
    ]


def scale_windows(expression: str, scale: Scale | None) -> str:
    """The expression with every range duration scaled."""
    if scale is None:
        return expression
    return _DURATION.sub(lambda found: f"[{scale(int(found[1]) * _UNITS[found[2]])}s]", expression)


def _record(record: RecordingRule, scale: Scale | None) -> dict[str, Any]:
    return {"record": record.name, "expr": scale_windows(record.query, scale)}


def _alert(alert: Alert, docs_url: str, scale: Scale | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": alert.name, "expr": scale_windows(alert.expression, scale)}
    duration = seconds(alert.for_duration)
    if duration:
        rule["for"] = alert.for_duration if scale is None else f"{scale(duration)}s"
    return rule | {"labels": alert.labels, "annotations": alert.annotations(docs_url=docs_url)}


def render_config(
    *,
    targets: dict[str, Iterable[str]] | None = None,
    alertmanager: str = "alertmanager:9093",
    rules: str = RULES_FILE,
    interval: str = "15s",
) -> str:
    """The text of `monitoring/prometheus/prometheus.yml`: one job per deployment, by default that of docker-compose.yml."""
    jobs = targets or {NAME: ["relay:9464"]}
    return _HEAD + to_yaml({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [rules],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(hosts)}]} for job, hosts in jobs.items()
        ],
    })  # fmt: skip
