"""Rules and alerts: promtool's own tests, and nothing in them that does not exist in the code or in the runbooks."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from monitoring import grafana_alerts, rules
from monitoring.alerts import ALERTS, GROUPS
from monitoring.promql import BILLING_CODES, CAUSED_BY_CLIENT, COUNTED_REASONS, ENDED_BY_PROVIDER, KEY_REASONS
from monitoring.recording import RECORDING_RULES, inline_records
from monitoring.rule import Alert
from service.failures import CATALOGUE, DIAL_FAILURES, REFUSALS
from service.settings.declared import SETTINGS
from tests.artefacts.promql_names import faults
from tools.alert_cases import CASES
from tools.generate import ROOT

FOLDER = ROOT / "monitoring"
RUNBOOK = ROOT / "docs" / "runbooks" / "alerts.md"
PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def loaded(path: Path) -> Any:
    """A YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def by_name(alert: Alert) -> str:
    """For the test's id."""
    return alert.name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="Debian's package prometheus has promtool")
@pytest.mark.timeout(180)
def test_promtool_agrees() -> None:
    """Each alert is silent just before its minute, fires in it and is over when it should be; noise wakes nobody."""
    folder = FOLDER / "prometheus"
    tests = [
        subprocess.Popen(
            ["promtool", "test", "rules", name], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for name in ("rules_test.yaml", "rules_slow_test.yaml")
    ]
    checked = subprocess.run(["promtool", "check", "rules", "rules.yaml"], cwd=folder, capture_output=True, check=False)

    for test in tests:
        said, _ = test.communicate()
        assert 0 == test.returncode, said
    assert 0 == checked.returncode, checked.stdout


@pytest.mark.skipif(shutil.which("amtool") is None, reason="Debian's package prometheus-alertmanager has amtool")
def test_amtool_agrees() -> None:
    """Alertmanager can read its configuration."""
    path = FOLDER / "alertmanager" / "alertmanager.yml"

    subprocess.run(["amtool", "check-config", path], check=True, capture_output=True)


def test_alertmanager_names_what_exists() -> None:
    """Alerts, labels and severities that routes and inhibitions name are those of the rules."""
    text = (FOLDER / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    names = {alert.name for alert in ALERTS}
    known = {"namespace", "job", "reason", "alertname", *ALERTS[0].labels}

    for pattern in re.findall(r'alertname(?:=~|=|!=)"([^"]+)"', text):
        for part in pattern.split("|"):
            assert [name for name in names if re.fullmatch(part, name)], part
    assert {"critical", "warning"} == set(re.findall(r'severity="(\w+)"', text)) == {alert.severity for alert in ALERTS}
    for labels in re.findall(r"(?:equal|group_by): \[([^]]+)\]", text):
        assert set(labels.split(", ")) <= known


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_alerts_name_what_exists(alert: Alert) -> None:
    """A renamed metric, label or label value fails here, in Prometheus' form and in Grafana's."""
    assert [] == faults(alert.expression)
    assert [] == faults(inline_records(alert.query))


@pytest.mark.parametrize("record", RECORDING_RULES, ids=lambda record: record.name)
def test_records_name_what_exists(record: Any) -> None:
    """The same for what is recorded."""
    assert [] == faults(record.query)


def test_a_renamed_metric_is_noticed() -> None:
    """Metric, label and value are each told by name."""
    told = faults(
        'sum by (colour) (rate(realtime_relay_gone_total[5m])) + realtime_relay_admissions_total{result="odd"}'
    )

    assert "no metric realtime_relay_gone_total" in told
    assert "realtime_relay_admissions_total has no result odd" in told
    assert any(fault.startswith("no label colour") for fault in told)
    assert [] != faults('realtime_relay_admissions_total{reason="relay_full"}')


def test_every_failure_is_somebodys() -> None:
    """Each reason counts against the objective or is the caller's own doing; the sets come from the catalogue's blame."""
    assert {*REFUSALS, *DIAL_FAILURES, "internal_error"} == {*COUNTED_REASONS, *CAUSED_BY_CLIENT}
    assert not {*COUNTED_REASONS} & {*CAUSED_BY_CLIENT}
    assert "client_left" in CAUSED_BY_CLIENT
    assert {"key_missing", "key_malformed", "key_rejected", "key_forbidden"} == set(KEY_REASONS)
    assert {"insufficient_quota", "credit_balance_exhausted"} <= set(BILLING_CODES)
    assert {"upstream_closed", "upstream_lost", "upstream_too_slow", "upstream_protocol_error"} == set(
        ENDED_BY_PROVIDER
    )


def test_every_alert_is_tried() -> None:
    """An alert without a case would be one that nobody has seen fire."""
    assert {alert.name for alert in ALERTS} == {case.alert for case in CASES}
    assert len(ALERTS) == len({alert.name for alert in ALERTS})


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_alerts_can_be_read(alert: Alert) -> None:
    """A sentence as summary, labels that the query yields, a remedy for each reason, numbers with a because."""
    annotations = alert.annotations()

    assert alert.summary.endswith(".")
    assert alert.rationale
    assert annotations["summary"].count("{{") == alert.summary.count("<")
    for reason in alert.reasons:
        assert CATALOGUE[reason].remedy in annotations["remedy"]
    assert ("reason" in re.findall(r"<(\w+)>", alert.summary + alert.description)) <= bool(alert.reasons)


def test_the_runbook_has_a_section_for_each_alert() -> None:
    """Each alert's link leads to a heading, with its four parts, and no heading is left of an alert that is gone."""
    text = RUNBOOK.read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]}

    assert {alert.name for alert in ALERTS} == sections.keys()
    for name, section in sections.items():
        assert PARTS == re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE), name
    for alert in ALERTS:
        page, anchor = alert.annotations(docs_url="docs")["runbook_url"].split("#")
        assert (ROOT / page).is_file()
        assert anchor in {"{{ $labels.reason }}", alert.name.lower()}


def test_the_table_of_alerts_is_in_step() -> None:
    """`docs/monitoring.md` lists every alert with its severity, its threshold's because and how long it has to hold."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/alerts\.md#(\w+)\) \| (\w+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)

    assert [(a.name, a.name.lower(), a.severity, a.for_duration, a.rationale) for a in ALERTS] == rows


def test_the_operator_gets_the_same_rules() -> None:
    """PrometheusRule holds the groups of rules.yaml."""
    rule = loaded(ROOT / "k8s/components/prometheus-operator/prometheusrule.yaml")

    assert loaded(FOLDER / "prometheus" / "rules.yaml")["groups"] == rule["spec"]["groups"]


def test_grafana_gets_the_same_alerts() -> None:
    """The same names, labels, `for` and thresholds, without any recording rule, from the data source that is provisioned."""
    groups = loaded(FOLDER / "grafana/provisioning/alerting/realtime-relay.yaml")["groups"]
    source = loaded(FOLDER / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    found = {rule["title"]: rule for group in groups for rule in group["rules"]}

    assert [f"realtime-relay-{area}" for area in GROUPS] == [group["name"] for group in groups]
    assert [alert.name for alert in ALERTS] == list(found)
    assert len({rule["uid"] for rule in found.values()}) == len(ALERTS)
    for alert in ALERTS:
        rule = found[alert.name]
        ask, compare = rule["data"]
        condition = compare["model"]["conditions"][0]["evaluator"]
        assert (source["uid"], True, "C") == (ask["datasourceUid"], ask["model"]["instant"], rule["condition"])
        assert inline_records(alert.query) == ask["model"]["expr"]
        assert "realtime_relay:" not in ask["model"]["expr"]
        assert ({">": "gt", "<": "lt"}[alert.operator], [alert.threshold]) == (condition["type"], condition["params"])
        assert (alert.for_duration, alert.labels) == (rule["for"], rule["labels"])
        assert (alert.annotations(grafana=True), "OK") == (rule["annotations"], rule["noDataState"])
        assert "$value " not in str(rule["annotations"])


def test_prometheus_scrapes_the_internal_port() -> None:
    """The configuration to start from names the port that the settings have by default, and the file of the rules."""
    config = loaded(FOLDER / "prometheus" / "prometheus.yml")
    port = next(setting.default for setting in SETTINGS if setting.name == "RELAY_INTERNAL_PORT")

    assert [f"relay:{port}"] == config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert [rules.RULES_FILE] == config["rule_files"]


def test_windows_can_be_scaled() -> None:
    """The end-to-end test turns days into minutes; nothing but windows and `for` changes."""
    scaled = rules.groups(scale=lambda seconds: seconds // 60)

    assert "[1440s]" not in str(rules.groups())
    assert "[1440s]" in str(scaled)
    for group in scaled:
        for rule in group["rules"]:
            promql_parser.parse(rule["expr"])


def test_grafana_rules_round_trip() -> None:
    """Grafana's own models read each rule."""
    for alert in ALERTS:
        rule = grafana_alerts.rule(alert)
        assert rule == grafana_alerts.read_back(rule)
