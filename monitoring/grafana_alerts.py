"""The alerts as Grafana evaluates them itself, made with its typed builders: `provisioning/alerting/realtime-relay.yaml`.

Rules of this file:

* The same query and threshold as in Prometheus, but apart: A asks, C compares.
* No recording rules are needed: what Prometheus records stands in full in each query.
* No data is well: a query is silent, or below its threshold, while all is well; `RelayAbsent` answers when no other does.
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
from monitoring.recording import inlined
from monitoring.rule import RUNBOOKS, Alert
from monitoring.rules import dumped

DATASOURCE: Final = "realtime-relay-prometheus"
FOLDER: Final = "Realtime relay"
_EXPRESSIONS: Final = "__expr__"
_OPERATORS: Final[dict[str, str]] = {">": "gt", "<": "lt"}
_HEAD: Final = (
    "# Generated from monitoring/ by `make docs`. Use it or Prometheus' rules: with both, alerts come twice.\n"
)


def render(runbooks: str = RUNBOOKS) -> str:
    """The provisioning file."""
    groups = [
        {
            "orgId": 1,
            "name": f"realtime-relay-{area}",
            "folder": FOLDER,
            "interval": "1m",
            "rules": [rule(alert, runbooks) for alert in alerts],
        }
        for area, alerts in GROUPS.items()
    ]
    return _HEAD + dumped({"apiVersion": 1, "groups": groups})


def rule(alert: Alert, runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """One rule, as plain data; its folder and group stand around it in a provisioning file."""
    built = (
        build.Rule(alert.name)
        .uid(alert.name.lower())
        .condition("C")
        .with_query(_asking(alert))
        .with_query(_comparing(alert))
        .no_data_state("OK")
        .exec_err_state("Error")
        .for_val(alert.hold)
        .annotations(alert.annotations(grafana=True, runbooks=runbooks))
        .labels(alert.labels)
        .is_paused(is_paused=False)
        .build()
    )
    return _plain(built)


def read_back(data: dict[str, Any]) -> dict[str, Any]:
    """A rule as Grafana's models understand it: the same, if it is one. They know queries only where told of their kind."""
    read = models.Rule.from_json({**data, "data": []})
    asks, compares = data["data"]
    read.data = [_read_query(asks), _read_query(compares)]
    read.data[0].model = Dataquery.from_json(asks["model"])
    read.data[1].model = TypeThreshold.from_json(compares["model"])
    return _plain(read)


def _read_query(data: dict[str, Any]) -> models.Query:
    return models.Query.from_json({name: part for name, part in data.items() if name != "model"})


def _plain(built: models.Rule) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(built, cls=JSONEncoder))
    return {name: value for name, value in plain.items() if name not in {"folderUID", "orgID", "ruleGroup"}}


def _asking(alert: Alert) -> build.Query:
    query = build_prometheus.Dataquery().ref_id("A").expr(inlined(alert.query)).instant()
    # An instant query has no range; Grafana asks for one all the same.
    span = RelativeTimeRange(from_val=600, to=0)
    return build.Query("A").datasource_uid(DATASOURCE).relative_time_range(span).model(query)


def _comparing(alert: Alert) -> build.Query:
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
