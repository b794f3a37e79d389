"""Test cases of the alerts for `promtool test rules`: input series, the minute of firing, the minute of resolution.

Series use promtool's notation: `0+3x20` grows by 3 in each of 20 minutes, `_` is a missing sample, `stale` ends a series.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from monitoring.alerts import ALERTS
from monitoring.rule import DOCS_URL, Alert, fill_placeholders
from monitoring.rules import groups, to_yaml
from service.failures import CATALOGUE
from service.realtime.incidents import RESPONSE_DONE
from service.realtime.live import RESPONSE_EVENT

SLOW_STEP: Final = 15
NEVER: Final = 10_000
DEPLOYMENT: Final = {"namespace": "voice", "job": "relay"}
_BY_NAME: Final = {alert.name: alert for alert in ALERTS}


@dataclass(frozen=True, slots=True)
class Case:
    """One alert and one cause.

    `series` maps a metric with labels to values; the labels of `deployment` are added. `fires` and `resolves` count steps of
    `step` minutes: the alert is silent one step before `fires`, and resolved from `resolves` on. `value` is the formatted
    value in the texts when the alert fires, `last_value` the one before it resolves, if different.
    """

    alert: str
    name: str
    series: Mapping[str, str]
    fires: int
    resolves: int
    labels: Mapping[str, str] = field(default_factory=dict)
    value: str = ""
    last_value: str | None = None
    step: int = 1
    deployment: Mapping[str, str] = field(default_factory=lambda: DEPLOYMENT)


def _failures(reason: str, values: str, phase: str = "upgrade", status: str = "503") -> dict[str, str]:
    return {f'connection_failures_total{{phase="{phase}",status="{status}",reason="{reason}",instance="a"}}': values}


def _live_failures(reason: str, values: str) -> dict[str, str]:
    return {f'live_start_failures_total{{reason="{reason}",instance="a"}}': values}


def _connects(values: str) -> dict[str, str]:
    return {'upstream_connects_total{result="ok",instance="a"}': values}


def _lag(all_samples: str, fast_samples: str) -> dict[str, str]:
    return {
        'event_loop_lag_seconds_bucket{instance="a",le="0.05"}': fast_samples,
        'event_loop_lag_seconds_bucket{instance="a",le="0.1"}': fast_samples,
        'event_loop_lag_seconds_bucket{instance="a",le="0.25"}': all_samples,
        'event_loop_lag_seconds_bucket{instance="a",le="+Inf"}': all_samples,
    }


def _waits(slow: str, fast: str) -> dict[str, str]:
    return {
        'time_to_first_event_seconds_bucket{instance="a",le="3"}': fast,
        'time_to_first_event_seconds_bucket{instance="a",le="4"}': slow,
        'time_to_first_event_seconds_bucket{instance="a",le="+Inf"}': slow,
        'time_to_first_event_seconds_count{instance="a"}': slow,
    }


def _handshakes(first: str, second: str, reason: str) -> dict[str, str]:
    series = {}
    for instance, values in (("a", first), ("b", second)):
        series[f'health_check_status{{check="handshake",status="fail",instance="{instance}"}}'] = values
        series[f'health_check_reason{{check="handshake",reason="{reason}",instance="{instance}"}}'] = values
    return series


_BUILD_INFO: Final = 'build_info{version="0.1.0",instance="a"}'

CASES: Final = (
    # 10 % of 60 per minute: the tenth failure occurs in the second minute, but 7.2 % of an hour only after 45 minutes.
    Case("RelayConnectFailures1h", "10 % of the connections fail",
         _connects("0+60x60 3654+54x60 6954+60x60") | _failures("upstream_overloaded", "0x60 6+6x60 366x60"),
         104, 123, {"reason": "upstream_overloaded"}, "7.333%", "9.833%"),
    Case("RelayConnectFailures1h", "all connections fail at a low rate",
         _connects("0x180") | _failures("connect_timeout", "0x9 0+1x20 20x100", "connect", "none"),
         20, 35, {"reason": "connect_timeout"}, "100%"),
    Case("RelayConnectFailures1h", "all connections fail in one of two deployments",
         _connects("0x180") | _failures("tls_failed", "0x9 0+1x20 20x100", "connect", "none")
         | {'upstream_connects_total{result="ok",namespace="voice",job="other"}': "0+600x180",
            'connection_failures_total{reason="tls_failed",namespace="voice",job="other"}': "0x180"},
         20, 35, {"reason": "tls_failed"}, "100%"),
    Case("RelayConnectFailures6h", "4 % of the connections fail",
         _connects("0+1500x24 37440+1440x20 67740+1500x20")
         | _failures("first_event_timeout", "0x24 60+60x20 1260x20", "first_event", "none"),
         43, 46, {"reason": "first_event_timeout"}, "3.167%", "3.5%", step=SLOW_STEP),
    Case("RelayConnectFailures1d", "2 % of the connections fail",
         _connects("0+1500x96 145470+1470x92 280740+1500x20")
         | _failures("rate_limited", "0x96 30+30x92 2790x20", "upgrade", "429"),
         169, 192, {"reason": "rate_limited"}, "1.521%", "1.957%", step=SLOW_STEP),
    Case("RelayConnectFailures3d", "1 % of the connections fail",
         _connects("0+1500x288 433485+1485x288 862650+1500x40")
         | _failures("relay_full", "0x288 15+15x288 4335x40", "access"),
         433, 590, {"reason": "relay_full"}, "0.5035%", "0.9584%", step=SLOW_STEP),
    Case("RelayKeyRejected", "a connection fails",
         _failures("key_rejected", "0x9 1x30", "first_event", "3000"), 10, 15, {"reason": "key_rejected"}),
    Case("RelayKeyRejected", "no client connects, the check fails",
         {'health_check_reason{check="key",reason="key_forbidden",instance="a"}': "0x9 1x4 0x20"},
         10, 15, {"reason": "key_forbidden"}),
    Case("RelayQuotaExhausted", "a connection fails",
         _failures("quota_exhausted", "0x9 1x30", "first_event", "1013"), 10, 15, {"reason": "quota_exhausted"}),
    Case("RelayQuotaExhausted", "the check fails",
         {'health_check_reason{check="turn",reason="quota_exhausted",instance="a"}': "0x9 1x4 0x20"},
         10, 15, {"reason": "quota_exhausted"}),
    Case("RelayQuotaExhausted", "responses fail in open sessions",
         {f'session_incidents_total{{event="{RESPONSE_DONE}",code="insufficient_quota",instance="a"}}': "0x9 1x30"},
         10, 15, {"reason": "quota_exhausted"}),
    Case("RelayHandshakeFailing", "the check fails on both instances",
         _handshakes("0x5 1x30 0x20", "0x9 1x20 0x20", "dns_failed"), 11, 31, {"reason": "dns_failed"}),
    Case("RelayInstanceCheckFailing", "the check fails on one of two instances",
         _handshakes("0x9 1x20 0x20", "0x50", "tls_untrusted"), 15, 31,
         {"reason": "tls_untrusted", "check": "handshake", "instance": "a"}),
    Case("RelaySlowConnects", "10 % of the clients wait longer than 3 seconds",
         _waits("0+20x90", "0+20x30 618+18x30 1178+20x30"), 41, 66, {}, "3.5s", "3.167s"),
    Case("RelayAbsent", "the last instance stops",
         {_BUILD_INFO: "1x9 stale _x20 1x20"}, 12, 31),
    Case("RelayAbsent", "no instance was ever scraped", {}, 2, NEVER + 1, deployment={}),
    Case("RelayInstanceDown", "one of two instances stops",
         {_BUILD_INFO: "1x60", 'up{instance="b"}': "1x9 0x20 1x20", 'up{instance="a"}': "1x60"}, 15, 31, {"instance": "b"}),
    Case("RelaySessionsEndedByProvider", "half of the sessions are ended by the provider",
         {'sessions_ended_total{api="realtime",reason="client_closed",instance="a"}': "0+2x90",
          'sessions_ended_total{api="realtime",reason="upstream_lost",instance="a"}': "0x29 0+2x20 40x60"},
         40, 61, {}, "40%", "25%"),
    Case("RelayResponsesFailing", "half of the responses fail",
         {'responses_total{status="completed",instance="a"}': "0+4x90",
          'responses_total{status="failed",instance="a"}': "0x29 0+4x20 80x60"}, 38, 58, {}, "44.44%", "23.08%"),
    Case("RelayLiveStartsFailing", "half of the starts fail, and far more sessions of the Realtime API start",
         _live_failures("key_forbidden", "0x29 0+2x20 40x60") | _connects("0+1000x120")
         | {'live_start_seconds_count{instance="a"}': "0+2x120"}, 40, 56, {}, "50%", "33.33%"),
    Case("RelayLiveStartsFailing", "half of the dials for GPT-Live fail, the breaker refuses, and clients leave",
         _live_failures("key_rejected", "0x29 0+2x20 40x60") | _live_failures("client_left", "0+100x120")
         | {'live_start_seconds_count{instance="a"}': "0+2x120"}, 40, 56, {}, "50%", "33.33%"),
    Case("RelayLiveUsageUnconfirmed", "half of the sessions end without final usage",
         {'live_final_usage_total{result="confirmed",instance="a"}': "0+2x180",
          'live_final_usage_total{result="unconfirmed",instance="a"}': "0x29 0+2x20 40x120"}, 40, 104, {}, "20%", "10.45%"),
    Case("RelayQuotaExhausted", "a start of GPT-Live fails",
         _failures("quota_exhausted", "0x9 1x30", "session_start", "none"), 10, 15, {"reason": "quota_exhausted"}),
    Case("RelayQuotaExhausted", "a backend response of GPT-Live fails",
         {f'session_incidents_total{{event="{RESPONSE_EVENT}",code="insufficient_quota",instance="a"}}': "0x9 1x30"},
         10, 15, {"reason": "quota_exhausted"}),
    Case("RelayLoopLag", "2 % of the measurements are late",
         _lag("0+120x90", "0+120x30 3718+118x30 7378+120x30"), 39, 63, {"instance": "a"}, "160ms", "137.5ms"),
    Case("RelayNearCapacity", "both instances are nearly full",
         {'sessions_active{api="realtime",instance="a"}': "5x9 45x20 5x20",
          'sessions_active{api="live",instance="a"}': "5x9 50x20 5x20",
          'sessions_active{api="realtime",instance="b"}': "10x9 85x20 10x20",
          'sessions_limit{instance="a"}': "100x60", 'sessions_limit{instance="b"}': "100x60",
          'draining{instance="a"}': "0x60", 'draining{instance="b"}': "0x60"}, 15, 31, {}, "90%"),
    Case("RelayNearCapacity", "one of two instances drains",
         {'sessions_active{api="realtime",instance="a"}': "10x9 95x20 10x20",
          'sessions_active{api="realtime",instance="b"}': "10x60",
          'sessions_limit{instance="a"}': "100x60", 'sessions_limit{instance="b"}': "100x60",
          'draining{instance="a"}': "0x60", 'draining{instance="b"}': "1x60"}, 15, 31, {}, "95%"),
    Case("RelayInstanceNearLimit", "open files",
         {_BUILD_INFO: "1x60", 'process_open_fds{instance="a"}': "100x9 920x20 100x20",
          'process_max_fds{instance="a"}': "1024x60"}, 15, 31, {"instance": "a", "resource": "open files"}, "89.84%"),
    Case("RelayInstanceNearLimit", "memory",
         {_BUILD_INFO: "1x60", 'process_resident_memory_bytes{instance="a"}': "1e8x9 5e8x20 1e8x20",
          'memory_limit_bytes{instance="a"}': "536870912x60"}, 15, 31, {"instance": "a", "resource": "memory"}, "93.13%"),
    Case("RelayInstanceNearLimit", "dials",
         {_BUILD_INFO: "1x60", 'dials_active{instance="a"}': "1x9 90x20 1x20", 'dials_limit{instance="a"}': "100x60"},
         15, 31, {"instance": "a", "resource": "dials"}, "90%"),
    Case("RelayKeyRotationRefused", "the file contains a rejected key",
         {'key_file_refused{instance="a"}': "0x9 1x30 0x20"}, 10, 41, {"instance": "a"}),
    Case("RelayClientsFileRefused", "the file has a mistake",
         {'clients_file_refused{instance="a"}': "0x9 1x30 0x20"}, 10, 41, {"instance": "a"}),
    Case("RelayBudgetNearlyUsed", "a client has used 85 % of its day",
         {'client_budget_used_ratio{instance="a",client="kiosk"}': "0.5x9 0.85x30 0x20"}, 10, 41, {"client": "kiosk"}, "85%"),
    Case("RelayRenewalsFailing", "the renewals of a deployment fail",
         {'swaps_total{cause="renewal",result="failed",instance="a"}': "0x9 3x60",
          'swaps_total{cause="renewal",result="ok",instance="a"}': "0x70"}, 15, 25, {}, "3"),
    Case("RelayTurnsLost", "two turns are lost",
         {'lost_turns_total{reason="no_transcript",instance="a"}': "0x9 2x90"}, 10, 70, {}, "2"),
    Case("RelayInternalErrors", "a session fails",
         {'sessions_ended_total{api="realtime",reason="internal_error",instance="a"}': "0x9 1x60",
          'background_task_crashes_total{instance="a"}': "0x60"}, 10, 25, {}, "1"),
    Case("RelayJwksFailing", "the key set of one instance is not fetched",
         {'jwks_failing{instance="a"}': "0x9 1x30 0x20"}, 15, 41, {"instance": "a"}),
    Case("RelayStoreFailing", "the store of one instance fails",
         {'store_up{instance="a"}': "1x9 0x20 1x20"}, 11, 31, {"instance": "a"}),
    Case("RelayInternalErrors", "a request fails",
         {'admissions_total{result="internal_error",instance="a"}': "0x9 1x60"}, 10, 25, {}, "1"),
    Case("RelayLogLinesDropped", "lines are dropped",
         {'log_lines_dropped_total{instance="a"}': "0x9 150x60"}, 10, 25, {"instance": "a"}, "150"),
    Case("RelayDrainHangs", "the process does not exit",
         {'draining{instance="a"}': "0x9 1x30 stale"}, 25, 41, {"instance": "a"}),
)  # fmt: skip

SILENT_CASES: Final[Mapping[str, Mapping[str, str]]] = {
    "renewals wait for the approvals of tools": {
        'swaps_total{cause="renewal",result="postponed",instance="a"}': "0x9 3x60",
    },
    "one renewal of several fails": {
        'swaps_total{cause="renewal",result="failed",instance="a"}': "0x9 1x60",
        'swaps_total{cause="renewal",result="ok",instance="a"}': "0+1x69",
    },
    "one of few connections fails": _connects("0+1x90") | _failures("upstream_error", "0x29 1x60"),
    "the only connection of the day fails": _connects("0x90")
    | _failures("connect_timeout", "0x29 1x60", "connect", "none"),
    "one client fails and retries three times": _connects("0x90") | _failures("dropped_early", "0x29 2 4x60"),
    "clients cause many failures themselves": _connects("0+1x90")
    | _failures("token_invalid", "0+20x90", "access", "401"),
    "one of three sessions is ended by the provider": {
        'sessions_ended_total{api="realtime",reason="client_closed",instance="a"}': "0x29 2x60",
        'sessions_ended_total{api="realtime",reason="upstream_lost",instance="a"}': "0x29 1x60",
    },
    "the only response fails": {'responses_total{status="failed",instance="a"}': "0x29 1x60"},
    "the only session of GPT-Live ends without final usage": {
        'live_final_usage_total{result="unconfirmed",instance="a"}': "0x29 1x60"
    },
    "one client waits long": _waits("0x29 1x60", "0x90"),
    "the handshake check fails once": {
        'health_check_status{check="handshake",status="warn",instance="a"}': "0x29 1 0x60",
        'health_check_reason{check="handshake",reason="connect_timeout",instance="a"}': "0x29 1 0x60",
    },
    "one client starts GPT-Live with an unknown voice": _connects("0+1x90")
    | _failures("key_forbidden", "0x29 1x60", "session_start", "none")
    | _live_failures("key_forbidden", "0x29 1x60"),
    "a scrape fails": {'up{instance="a"}': "1x29 0 1x60", _BUILD_INFO: "1x29 stale 1x60"},
    "nothing fails": _connects("0+60x90") | _failures("upstream_error", "0x90"),
}
"""Cases in which no alert fires at any minute."""

WARNING_CASES: Final[Mapping[str, Mapping[str, str]]] = {
    "a bad key stops a rollout": _connects("0+60x90") | {
        f'health_check_reason{{check="{check}",reason="key_rejected",instance="{instance}"}}':
            "0x29 1x60" if instance == "new" else "0x90"
        for check in ("key", "handshake") for instance in ("a", "b", "new")
    } | {
        f'health_check_status{{check="{check}",status="fail",instance="{instance}"}}':
            "0x29 1x60" if instance == "new" else "0x90"
        for check in ("key", "handshake") for instance in ("a", "b", "new")
    },
    "the check of GPT-Live fails everywhere": _connects("0+60x90") | {
        'health_check_reason{check="live",reason="key_forbidden",instance="a"}': "0x29 1x60",
        'health_check_status{check="live",status="fail",instance="a"}': "0x29 1x60",
    },
    "the only instance restarts, and a client retries repeatedly": _connects("0+1x90")
    | _failures("relay_draining", "0x29 12 24x60", "access", "503"),
}  # fmt: skip
"""Cases in which a warning may fire, but no critical alert."""


def render() -> str:
    """The text of `monitoring/prometheus/rules_test.yaml`."""
    return _file(1, _silent_test())


def render_slow() -> str:
    """The text of `monitoring/prometheus/rules_slow_test.yaml`: windows of days with longer steps, to limit the run time."""
    return _file(SLOW_STEP)


def _file(step: int, *silent_tests: dict[str, Any]) -> str:
    return "# Generated from tools/alert_cases.py by `make docs`; run it with `promtool test rules`.\n" + to_yaml({
        "rule_files": ["rules.yaml"],
        "evaluation_interval": f"{step}m",
        # Recording rules are evaluated before alerts, so that the minute of firing is deterministic.
        "group_eval_order": [group["name"] for group in groups()],
        "tests": [*(_test(case) for case in CASES if case.step == step), *silent_tests],
    })  # fmt: skip


def _test(case: Case) -> dict[str, Any]:
    alert = _BY_NAME[case.alert]
    return {
        "name": f"{case.alert}: {case.name}",
        "interval": f"{case.step}m",
        "input_series": _input(case.series, case.deployment),
        "alert_rule_test": [
            {"eval_time": f"{at * case.step}m", "alertname": case.alert, "exp_alerts": expected}
            for at, expected in (
                (case.fires - 1, []),
                (case.fires, [_expected(alert, case, case.value)]),
                (case.resolves - 1, [_expected(alert, case, case.value if case.last_value is None else case.last_value)]),
                (case.resolves, []),
            )
            if at < NEVER
        ],
    }  # fmt: skip


def _silent_test() -> dict[str, Any]:
    """All cases in one test, each of them a deployment: promtool takes as long for one deployment as for all of them."""
    cases = {**SILENT_CASES, **WARNING_CASES}
    return {
        "name": "no alert, and no critical alert of the deployments in which a warning may fire",
        "interval": "1m",
        "input_series": [
            series for name, values in cases.items() for series in _input(_with_relay(values), _deployment_of(name))
        ],
        # At every minute, not only at the evaluation time. The job of an alert that fires is the name of its case.
        "promql_expr_test": [
            {
                "expr": f'count_over_time(ALERTS{{alertstate="firing", {matchers}}}[90m])',
                "eval_time": "90m",
                "exp_samples": [],
            }
            for matchers in (f'job!~"{"|".join(WARNING_CASES)}"', 'severity="critical"')
        ],
    }


def _with_relay(series: Mapping[str, str]) -> Mapping[str, str]:
    # A scraped relay, so that RelayAbsent is silent too.
    return series if _BUILD_INFO in series else {_BUILD_INFO: "1x90", 'up{instance="a"}': "1x90", **series}


def _deployment_of(case: str) -> dict[str, str]:
    return {**DEPLOYMENT, "job": case}


def _expected(alert: Alert, case: Case, value: str) -> dict[str, Any]:
    labels = {**case.deployment, **case.labels}
    annotations = {
        "summary": fill_placeholders(alert.summary, labels, value),
        "description": fill_placeholders(alert.description, labels, value),
    }
    if alert.reasons:
        row = CATALOGUE[labels["reason"]]
        annotations |= {"runbook_url": f"{DOCS_URL}/{row.runbook.removeprefix('docs/')}", "remedy": row.operator_action}
    else:
        annotations["runbook_url"] = f"{DOCS_URL}/runbooks/alerts.md#{alert.name.lower()}"
    return {"exp_labels": {**labels, **alert.labels}, "exp_annotations": annotations}


def _input(series: Mapping[str, str], deployment: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"series": _series_name(name, deployment), "values": values} for name, values in series.items()]


def _series_name(name: str, deployment: Mapping[str, str]) -> str:
    metric, _, labels = name.removesuffix("}").partition("{")
    if not metric.startswith(("up", "process_")) or metric.startswith("upstream"):
        metric = f"realtime_relay_{metric}"
    added = "" if "job=" in labels else ",".join(f'{label}="{value}"' for label, value in deployment.items())
    return f"{metric}{{{','.join(filter(None, (labels, added)))}}}"
