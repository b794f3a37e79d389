"""Dashboards: units, descriptions, a grid without overlaps, and queries with names that exist."""

import json
import re
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from monitoring import provisioning, rules
from monitoring.dashboards import DASHBOARDS
from monitoring.dashboards.panels import UNITS, WIDTH
from monitoring.rule import DOCS_URL
from service.failures import CATALOGUE, RUNBOOK_PAGES
from tests.artefacts.promql_names import SCRAPED, exposed, unknown_names
from tools.generate import ROOT

FOLDER = ROOT / "monitoring" / "grafana"
MAX_PANELS = 15
VARIABLES = {"datasource", "namespace", "job", "instance"}


def loaded(name: str) -> Any:
    """The committed JSON of a dashboard."""
    return json.loads((FOLDER / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))


def without_variables(expression: str) -> str:
    """A query with Grafana's interval variables replaced."""
    return expression.replace("$__rate_interval", "5m").replace("$__range", "6h")


PANELS = [(name, panel) for name in DASHBOARDS for panel in loaded(name)["panels"]]
NAMES = [f"{name}-{panel['title']}" for name, panel in PANELS]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_round_trips(name: str) -> None:
    """Grafana's models parse each dashboard and serialize it unchanged."""
    plugins.register_default_plugins()
    data = loaded(name)

    assert data == json.loads(json.dumps(Dashboard.from_json(data), cls=JSONEncoder))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_dashboard_layout_is_valid(name: str) -> None:
    """Unique ids and titles, all variables, no overlapping panels, none beyond the grid, at most MAX_PANELS."""
    data = loaded(name)
    panels = data["panels"]
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"].get("x", 0), panel["gridPos"].get("x", 0) + panel["gridPos"]["w"])
        for y in range(panel["gridPos"].get("y", 0), panel["gridPos"].get("y", 0) + panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert len(panels) <= MAX_PANELS
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < WIDTH
    assert {variable["name"] for variable in data["templating"]["list"]} == VARIABLES
    assert data["uid"] == f"realtime-relay-{name}"


def test_dashboards_are_distinct_and_provisioned() -> None:
    """The uids differ, and the provider names the folder of the files."""
    provider = yaml.safe_load((FOLDER / "provisioning/dashboards/realtime-relay.yaml").read_text(encoding="utf-8"))

    assert len({loaded(name)["uid"] for name in DASHBOARDS}) == len(DASHBOARDS)
    assert {path.stem for path in (FOLDER / "dashboards").glob("*.json")} == DASHBOARDS.keys()
    assert provisioning.DASHBOARDS_FOLDER == provider["providers"][0]["options"]["path"]


def test_compose_mounts_monitoring_files() -> None:
    """Dashboards, rules and configurations are mounted at the paths that Grafana and Prometheus read."""
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    mounted = {
        volume["source"]: volume["target"]
        for name in ("prometheus", "alertmanager", "grafana")
        for volume in services[name]["volumes"]
        if isinstance(volume, dict)
    }

    assert all((ROOT / source).exists() for source in mounted)
    assert provisioning.DASHBOARDS_FOLDER == mounted["./monitoring/grafana/dashboards"]
    assert rules.RULES_FILE == mounted["./monitoring/prometheus/rules.yaml"]
    assert provisioning.PROMETHEUS_URL == "http://prometheus:9090"


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=NAMES)
def test_panel_has_unit_and_normal_value(board: str, panel: Any) -> None:
    """A unit, a sentence on what the panel shows, and one on the normal value."""
    shows, normal = panel["description"].split(" Normal: ")

    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert shows.endswith(".")
    assert normal.endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=NAMES)
def test_panel_queries_name_existing_metrics(board: str, panel: Any) -> None:
    """Metrics, labels and values exist, selectors use the dashboard's variables, and legends name known labels."""
    known = SCRAPED | {label for labels in exposed().values() for label in labels}
    for target in panel["targets"]:
        expression = without_variables(target["expr"])
        assert [] == unknown_names(expression)
        for selector in re.findall(r"(?:realtime_relay|process)_\w+(\{[^}]*\})?", target["expr"]):
            assert 'namespace=~"$namespace", job=~"$job", instance=~"$instance"' in selector
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known
        assert set(re.findall(r"\$(\w+)", target["expr"])) <= VARIABLES | {"__rate_interval", "__range"}


def test_variables_query_existing_labels() -> None:
    """Each variable lists a label of a metric that every relay exposes."""
    for variable in loaded("callers")["templating"]["list"][1:]:
        selector = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
        assert selector is not None
        assert selector[1] in exposed()
        assert selector[2] in SCRAPED


def test_links_lead_to_documents() -> None:
    """A series of failures links to the section of its reason; linked files exist."""
    board = loaded("callers")
    panel = next(panel for panel in board["panels"] if panel["title"] == "Failures by reason")
    link = panel["fieldConfig"]["defaults"]["links"][0]["url"]
    text = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")

    assert f"{DOCS_URL}/failures.md#${{__field.labels.reason}}" == link
    assert all(f"### {reason}\n" in text for reason in CATALOGUE)
    for name in DASHBOARDS:
        url = loaded(name)["links"][1]["url"]
        assert (ROOT / "docs" / url.removeprefix(f"{DOCS_URL}/")).is_file()


def test_callers_begins_with_the_causes_and_the_operator_actions() -> None:
    """Reason, since when, failures and share, and each reason of a failed connection with action and runbook page."""
    panel = loaded("callers")["panels"][0]
    organized = panel["transformations"][1]["options"]
    order = sorted(organized["indexByName"], key=organized["indexByName"].__getitem__)
    properties = {
        override["matcher"]["options"]: {item["id"]: item["value"] for item in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    actions = properties["What to do"]["mappings"][0]["options"]

    assert panel["type"] == "table"
    assert all((target["format"], target["instant"]) == ("table", True) for target in panel["targets"])
    assert [organized["renameByName"][field] for field in order] == list(properties)
    assert ["Reason", "Since", "Failures in 15 min", "Share of requests", "What to do", "Runbook"] == list(properties)
    assert {reason: row.operator_action for reason, row in CATALOGUE.items()} == {
        reason: shown["text"] for reason, shown in actions.items()
    }
    for reason, page in RUNBOOK_PAGES.items():
        assert re.search(rf'"runbook", "{page}", "reason", "[^"]*\b{reason}\b', panel["targets"][0]["expr"])
    assert "#one-client-or-all" in properties["Reason"]["links"][0]["url"]
    assert "\n## One client or all\n" in (ROOT / "docs/runbooks/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("board", "panel"), PANELS, ids=NAMES)
def test_rates_of_events_are_per_minute(board: str, panel: Any) -> None:
    """Failures, sessions and responses are rare: 0.003 per second is hard to read."""
    unit = panel["fieldConfig"]["defaults"]["unit"]

    assert unit != "cps"
    assert unit != "cpm" or all(target["expr"].startswith("60 * ") for target in panel["targets"])
