"""Rules and alerts: promtool's tests, names that exist in the code, and sections in the runbook."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from monitoring import grafana_alerts, render, rules
from monitoring.alerts import ALERTS, GROUPS
from monitoring.promql import BILLING_CODES, CAUSED_BY_CLIENT, COUNTED_REASONS, ENDED_BY_PROVIDER, KEY_REASONS
from monitoring.recording import RECORDING_RULES, inline_records
from monitoring.rule import DOCS_URL, Alert, fill_placeholders
from service.failures import ADMISSION_FAILURES, CATALOGUE, DIAL_FAILURES, START_FAILURES, Blame, Row
from service.settings.declared import SETTINGS
from tests.artefacts.promql_names import unknown_names
from tools.alert_cases import CASES
from tools.generate import ROOT

FOLDER = ROOT / "monitoring"
RUNBOOK = ROOT / "docs" / "runbooks" / "alerts.md"
# What only the program or person that connects can do.
ADVICE_FOR_CALLERS = re.compile(
    r"\b(?:retry|try again|connect again|backoff|lower rate|recreate the conversation|Operator:)|Retry-After"
    r"|(?:^|[.:] )(?:Send (?!the process)|Close |Keep |Read )",
    re.IGNORECASE,
)
PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def loaded(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def by_name(alert: Alert) -> str:
    """The id of a test case."""
    return alert.name


def split_by_alert(name: str, folder: Path) -> list[Path]:
    """Write the cases of a file of tests into one file for each alert, beside a file with its rule and the records it needs.

    Prometheus evaluates every rule at every step of a case, so that cases with all rules take ten times as long. Cases
    without an alert of their own keep all rules.
    """
    groups = loaded(FOLDER / "prometheus" / "rules.yaml")["groups"]
    content = loaded(FOLDER / "prometheus" / name)
    written = []
    for alert, cases in itertools.groupby(sorted(content["tests"], key=alert_of), key=alert_of):
        own_rules = f"{alert}_rules_of_{name}"
        selected = [{**group, "rules": needed_rules(group["rules"], groups, alert)} for group in groups]
        (folder / own_rules).write_text(rules.to_yaml({"groups": selected}), encoding="utf-8")
        written.append(folder / f"{alert}_{name}")
        written[-1].write_text(
            rules.to_yaml(content | {"rule_files": [own_rules], "tests": list(cases)}), encoding="utf-8"
        )
    return written


def needed_rules(of_group: list[Any], groups: list[Any], alert: str) -> list[Any]:
    """The rules of a group that an alert needs: its own, and the records in its expression. Without an alert, all."""
    if not alert:
        return of_group
    (expression,) = (rule["expr"] for group in groups for rule in group["rules"] if rule.get("alert") == alert)
    for rule in reversed(groups[0]["rules"]):  # a record can use those before it
        expression += rule["expr"] if rule["record"] in expression else ""
    return [rule for rule in of_group if (rule["record"] in expression if "record" in rule else rule["alert"] == alert)]


def alert_of(case: Any) -> str:
    """The alert of a case for promtool; an empty text where no alert is to fire."""
    return str(case["alert_rule_test"][0]["alertname"]) if "alert_rule_test" in case else ""


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
@pytest.mark.timeout(180)
def test_promtool_accepts_rules(tmp_path: Path) -> None:
    """Each alert is silent before its minute, fires in it and resolves as expected; normal noise fires no alert."""
    environment = {**os.environ, "GOGC": "800", "GOMAXPROCS": "1"}  # Go's garbage collector takes half of the time else
    files = [
        str(path) for name in ("rules_test.yaml", "rules_slow_test.yaml") for path in split_by_alert(name, tmp_path)
    ]

    for command in (["test", "rules", *files], ["check", "rules", str(FOLDER / "prometheus" / "rules.yaml")]):
        done = subprocess.run(["promtool", *command], env=environment, capture_output=True, check=False)
        assert 0 == done.returncode, done


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="amtool is not installed (Debian package prometheus-alertmanager)"
)
def test_amtool_accepts_configuration() -> None:
    """Alertmanager can parse its configuration."""
    path = FOLDER / "alertmanager" / "alertmanager.yml"

    subprocess.run(["amtool", "check-config", path], check=True, capture_output=True)


def test_alertmanager_names_existing_alerts_and_labels() -> None:
    """Routes and inhibition rules name alerts, labels and severities of the rules."""
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
def test_alert_queries_name_existing_metrics(alert: Alert) -> None:
    """For Prometheus and for Grafana: metrics, labels and label values exist in the relay's registry."""
    assert [] == unknown_names(alert.expression)
    assert [] == unknown_names(inline_records(alert.query))


@pytest.mark.parametrize("record", RECORDING_RULES, ids=lambda record: record.name)
def test_recording_rules_name_existing_metrics(record: Any) -> None:
    """Metrics, labels and label values exist in the relay's registry."""
    assert [] == unknown_names(record.query)


def test_unknown_names_are_found() -> None:
    """A wrong metric, label or label value is reported by name."""
    errors = unknown_names(
        'sum by (colour) (rate(realtime_relay_gone_total[5m])) + realtime_relay_admissions_total{result="odd"}'
    )

    assert "no metric realtime_relay_gone_total" in errors
    assert "realtime_relay_admissions_total has no result odd" in errors
    assert any(error.startswith("no label colour") for error in errors)
    assert [] != unknown_names('realtime_relay_admissions_total{reason="relay_full"}')


def test_failures_are_split_by_cause() -> None:
    """Each reason counts against the objective or never does, by the catalogue's blame."""
    assert {*ADMISSION_FAILURES, *DIAL_FAILURES, *START_FAILURES, "internal_error"} == {
        *COUNTED_REASONS,
        *CAUSED_BY_CLIENT,
    }
    assert not {*COUNTED_REASONS} & {*CAUSED_BY_CLIENT}
    assert "client_left" in CAUSED_BY_CLIENT
    assert {"key_missing", "key_malformed", "key_rejected", "key_forbidden"} == set(KEY_REASONS)
    assert {"insufficient_quota", "credit_balance_exhausted"} <= set(BILLING_CODES)
    assert {"upstream_closed", "upstream_lost", "upstream_too_slow", "upstream_protocol_error"} == set(
        ENDED_BY_PROVIDER
    )


def test_every_alert_has_a_case() -> None:
    """tools/alert_cases.py has at least one case for each alert."""
    assert {alert.name for alert in ALERTS} == {case.alert for case in CASES}
    assert len(ALERTS) == len({alert.name for alert in ALERTS})


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_alert_texts_are_complete(alert: Alert) -> None:
    """A sentence as summary, a rationale, known placeholders, and a remedy for each reason."""
    annotations = alert.annotations()

    assert alert.summary.endswith(".")
    assert alert.rationale
    assert annotations["summary"].count("$") == alert.summary.count("<")
    for reason in alert.reasons:
        assert CATALOGUE[reason].operator_action in annotations["remedy"]
    assert ("reason" in re.findall(r"<(\w+)>", alert.summary + alert.description)) <= bool(alert.reasons)


def test_runbook_has_a_section_for_each_alert() -> None:
    """Each runbook link leads to a heading with four parts, and no section exists without an alert."""
    text = RUNBOOK.read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]}

    assert {alert.name for alert in ALERTS} == sections.keys()
    for name, section in sections.items():
        assert PARTS == re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE), name


def test_every_runbook_url_leads_to_a_heading() -> None:
    """The section of the reason where the alert has one, else the alert's own. Only `promtool test` expands templates."""
    urls = re.findall(
        r"runbook_url: (\S+)$", (FOLDER / "prometheus" / "rules_test.yaml").read_text("utf-8"), re.MULTILINE
    )
    rows = {
        f"{DOCS_URL}/{CATALOGUE[reason].runbook.removeprefix('docs/')}" for alert in ALERTS for reason in alert.reasons
    }

    for url in {*urls, *rows}:
        page, anchor = url.removeprefix(f"{DOCS_URL}/").split("#")
        headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {heading.lower() for heading in headings}, url


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_alerts_give_the_operator_no_advice_for_callers(alert: Alert) -> None:
    """No text of an alert says to retry, reconnect or change a request."""
    texts = " ".join(alert.annotations().values())

    assert not ADVICE_FOR_CALLERS.search(texts), ADVICE_FOR_CALLERS.search(texts)


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: str(row.reason))
def test_operator_action_is_for_operators(row: Row) -> None:
    """A complete sentence without advice for callers. A fault of the client has an action of its own, or names a setting."""
    assert row.operator_action.endswith(".")
    assert not ADVICE_FOR_CALLERS.search(row.operator_action)
    assert row.for_operator != row.remedy
    if row.blame is Blame.CLIENT:
        assert row.for_operator or re.search(r"RELAY_|in front of", row.remedy)


@pytest.mark.parametrize("alert", ALERTS, ids=by_name)
def test_texts_are_sentences_with_and_without_labels(alert: Alert) -> None:
    """Only RelayAbsent fires without labels; no text has empty quotation marks, and no word is missing in its text."""
    labels = {"job": "voice", "instance": "a", "check": "key", "resource": "dials"}
    label_sets = [labels, {}] if alert.name == "RelayAbsent" else [labels]
    for text, labels in itertools.product((alert.summary, alert.description), label_sets):
        filled = fill_placeholders(text, labels | {"reason": "key_rejected"}, "1")
        assert not re.search(r"''|  | [.,:;]|[<>\[\]{}]|\b(?:of|on|job|with) ?[.,:]", filled), filled


def test_monitoring_page_lists_alerts() -> None:
    """The table in docs/monitoring.md has severity, `for` duration and rationale of every alert."""
    text = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/alerts\.md#(\w+)\) \| (\w+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)

    assert [(a.name, a.name.lower(), a.severity, a.for_duration, a.rationale) for a in ALERTS] == rows


def test_prometheus_rule_has_the_same_groups() -> None:
    """The PrometheusRule contains the groups of rules.yaml."""
    rule = loaded(ROOT / "k8s/components/prometheus-operator/prometheusrule.yaml")

    assert loaded(FOLDER / "prometheus" / "rules.yaml")["groups"] == rule["spec"]["groups"]


def test_grafana_rules_match_alerts() -> None:
    """The same names, labels, `for` durations and thresholds, without recording rules, on the provisioned data source."""
    groups = loaded(FOLDER / "grafana/provisioning/alerting/realtime-relay.yaml")["groups"]
    source = loaded(FOLDER / "grafana/provisioning/datasources/prometheus.yaml")["datasources"][0]
    found = {rule["title"]: rule for group in groups for rule in group["rules"]}

    assert [f"realtime-relay-{area}" for area in GROUPS] == [group["name"] for group in groups]
    assert [alert.name for alert in ALERTS] == list(found)
    assert len({rule["uid"] for rule in found.values()}) == len(ALERTS)
    for alert in ALERTS:
        rule = found[alert.name]
        query, threshold = rule["data"]
        condition = threshold["model"]["conditions"][0]["evaluator"]
        assert (source["uid"], True, "C") == (query["datasourceUid"], query["model"]["instant"], rule["condition"])
        assert inline_records(alert.query) == query["model"]["expr"]
        assert "realtime_relay:" not in query["model"]["expr"]
        assert ({">": "gt", "<": "lt"}[alert.operator], [alert.threshold]) == (condition["type"], condition["params"])
        assert (alert.for_duration, alert.labels) == (rule["for"], rule["labels"])
        assert (alert.annotations(grafana=True), "OK") == (rule["annotations"], rule["noDataState"])
        assert "$value " not in str(rule["annotations"])


def test_prometheus_scrapes_internal_port() -> None:
    """The example configuration names the default internal port and the file of the rules."""
    config = loaded(FOLDER / "prometheus" / "prometheus.yml")
    port = next(setting.default for setting in SETTINGS if setting.name == "RELAY_INTERNAL_PORT")

    assert [f"relay:{port}"] == config["scrape_configs"][0]["static_configs"][0]["targets"]
    assert [rules.RULES_FILE] == config["rule_files"]


def test_windows_are_scaled() -> None:
    """The end-to-end test shortens days to minutes; the scaled expressions are valid."""
    scaled = rules.groups(scale=lambda seconds: seconds // 60)

    assert "[1440s]" not in str(rules.groups())
    assert "[1440s]" in str(scaled)
    for group in scaled:
        for rule in group["rules"]:
            promql_parser.parse(rule["expr"])


def test_grafana_rules_round_trip() -> None:
    """Grafana's models parse each rule and serialize it unchanged."""
    for alert in ALERTS:
        rule = grafana_alerts.rule(alert)
        assert rule == grafana_alerts.read_back(rule)


def test_base_of_runbook_links_needs_a_scheme(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one, the links of a notification would be relative to the page that shows it."""
    with pytest.raises(SystemExit):
        render.main(["--runbooks", "wiki.example.com/relay", "--into", str(tmp_path)])
    assert "write https://wiki.example.com/relay" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())

    render.main(["--runbooks", "https://wiki.example.com/relay", "--into", str(tmp_path)])
    rendered = (tmp_path / "monitoring/prometheus/rules.yaml").read_text(encoding="utf-8")
    assert "runbook_url: https://wiki.example.com/relay/runbooks/" in rendered
