"""The alerts as Grafana-managed rules, built with its typed builders: `provisioning/alerting/realtime-relay.yaml`.

Rules of this file:

* Query and threshold are those of Prometheus, in two steps: A is the query, C compares it with the threshold.
* Recording rules are inlined, so that Grafana does not depend on Prometheus' rules.
* "No data" means OK: in the good case a query returns nothing or a value below its threshold. `RelayAbsent` covers the
  case in which no metric arrives.
"""

import json
from typing import Any, Final

from grafana_foundation_sdk.builders import alerting as build
from grafana_foundation_sdk.builders import expr as build_expr
from grafana_foundation_sdk.builders import prometheus as build_prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import alerting as models
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.dashboard import DataSourceRef
from grafana_foundation_sdk.models.expr import TypeThreshold
from grafana_foundation_sdk.models.prometheus import Dataquery

from monitoring.alerts import GROUPS
from monitoring.recording import inline_records
from monitoring.rule import DOCS_URL, Alert
from monitoring.rules import to_yaml

DATASOURCE: Final = "realtime-relay-prometheus"
FOLDER: Final = "Realtime relay"
_EXPRESSIONS: Final = "__expr__"
_OPERATORS: Final[dict[str, str]] = {">": "gt", "<": "lt"}
_HEAD: Final = (
    "# Generated from monitoring/ by `make docs`. Use this or Prometheus' rules; with both, alerts fire twice.\n"
)


def render(docs_url: str = DOCS_URL) -> str:
    """The text of the provisioning file."""
    groups = [
        {
            "orgId": 1,
            "name": f"realtime-relay-{area}",
            "folder": FOLDER,
            "interval": "1m",
            "rules": [rule(alert, docs_url) for alert in alerts],
        }
        for area, alerts in GROUPS.items()
    ]
    return _HEAD + to_yaml({"apiVersion": 1, "groups": groups})


def rule(alert: Alert, docs_url: str = DOCS_URL) -> dict[str, Any]:
    """One rule as plain data, without folder and group, which the provisioning file adds."""
    built = (
        build.Rule(alert.name)
        .uid(alert.name.lower())
        .condition("C")
        .with_query(_query(alert))
        .with_query(_threshold(alert))
        .no_data_state("OK")
        .exec_err_state("Error")
        .for_val(alert.for_duration)
        .annotations(alert.annotations(grafana=True, docs_url=docs_url))
        .labels(alert.labels)
        .is_paused(is_paused=False)
        .build()
    )
    return _plain(built)


def read_back(data: dict[str, Any]) -> dict[str, Any]:
    """A rule parsed and serialized again by Grafana's models: equal to the input if valid. Query types are set by hand."""
    read = models.Rule.from_json({**data, "data": []})
    query, threshold = data["data"]
    read.data = [_read_query(query), _read_query(threshold)]
    read.data[0].model = Dataquery.from_json(query["model"])
    read.data[1].model = TypeThreshold.from_json(threshold["model"])
    return _plain(read)


def _read_query(data: dict[str, Any]) -> models.Query:
    return models.Query.from_json({name: part for name, part in data.items() if name != "model"})


def _plain(built: models.Rule) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(built, cls=JSONEncoder))
    return {name: value for name, value in plain.items() if name not in {"folderUID", "orgID", "ruleGroup"}}


def _query(alert: Alert) -> build.Query:
    query = build_prometheus.Dataquery().ref_id("A").expr(inline_records(alert.query)).instant()
    # An instant query has no range, but Grafana requires one.
    span = RelativeTimeRange(from_val=600, to=0)
    return build.Query("A").datasource_uid(DATASOURCE).relative_time_range(span).model(query)


def _threshold(alert: Alert) -> build.Query:
    evaluator = build_expr.ExprTypeThresholdConditionsEvaluator()
    evaluator.type(_OPERATORS[alert.operator]).params([alert.threshold])  # type: ignore[arg-type]  # one of its literals
    threshold = (
        build_expr.TypeThreshold()
        .ref_id("C")
        .expression("A")
        .datasource(DataSourceRef(type_val=_EXPRESSIONS, uid=_EXPRESSIONS))
        .conditions([build_expr.ExprTypeThresholdConditions().evaluator(evaluator)])
    )
    return (
        build.Query("C")
        .datasource_uid(_EXPRESSIONS)
        .relative_time_range(RelativeTimeRange(from_val=0, to=0))
        .model(threshold)
    )
