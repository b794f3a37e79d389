"""What each alert is tried with by `promtool test rules`: series, the minute it fires, the minute it is over.

Series are written as promtool reads them: `0+3x20` grows by 3 in each of 20 minutes, `_` is no sample, `stale` ends one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from monitoring.alerts import ALERTS
from monitoring.rule import DOCS_URL, Alert, fill_placeholders
from monitoring.rules import groups, to_yaml
from service.failures import CATALOGUE
from service.realtime.incidents import RESPONSE_DONE

SLOW_STEP: Final = 15
NEVER: Final = 10_000
DEPLOYMENT: Final = {"namespace": "voice", "job": "relay"}
_BY_NAME: Final = {alert.name: alert for alert in ALERTS}


@dataclass(frozen=True, slots=True)
class Case:
    """One alert and one cause. `series` maps a metric with its own labels to values; the deployment's labels are added.

    Times are counted in steps of so many minutes. The alert is silent until the step before `fires`, and over from `over` on.
    `value` is what the texts say when it begins, `last` what they say at the end if that is another.
    """

    alert: str
    name: str
    series: Mapping[str, str]
    fires: int
    over: int
    labels: Mapping[str, str] = field(default_factory=dict)
    value: str = ""
    last: str | None = None
    step: int = 1
    deployment: Mapping[str, str] = field(default_factory=lambda: DEPLOYMENT)


def _failures(reason: str, values: str, phase: str = "upgrade", status: str = "503") -> dict[str, str]:
    return {f'connection_failures_total{{phase="{phase}",status="{status}",reason="{reason}",instance="a"}}': values}


def _connects(values: str) -> dict[str, str]:
    return {'upstream_connects_total{result="ok",instance="a"}': values}


def _lag(late: str, in_time: str) -> dict[str, str]:
    return {
        'event_loop_lag_seconds_bucket{instance="a",le="0.05"}': in_time,
        'event_loop_lag_seconds_bucket{instance="a",le="0.1"}': in_time,
        'event_loop_lag_seconds_bucket{instance="a",le="0.25"}': late,
        'event_loop_lag_seconds_bucket{instance="a",le="+Inf"}': late,
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


_BUILT: Final = 'build_info{version="0.1.0",instance="a"}'

CASES: Final = (
    # 10 % of 60 a minute: 10 failures are together in the second minute, but 7.2 % of an hour only after 45 minutes.
    Case("RelayConnectFailures1h", "a tenth of the callers fails",
         _connects("0+60x60 3654+54x60 6954+60x60") | _failures("upstream_overloaded", "0x60 6+6x60 366x60"),
         104, 123, {"reason": "upstream_overloaded"}, "7.333%", "9.833%"),
    Case("RelayConnectFailures1h", "all fail on a quiet day",
         _connects("0x180") | _failures("connect_timeout", "0x9 0+1x20 20x100", "connect", "none"),
         20, 35, {"reason": "connect_timeout"}, "100%"),
    Case("RelayConnectFailures1h", "all fail in one of two deployments",
         _connects("0x180") | _failures("tls_failed", "0x9 0+1x20 20x100", "connect", "none")
         | {'upstream_connects_total{result="ok",namespace="voice",job="other"}': "0+600x180",
            'connection_failures_total{reason="tls_failed",namespace="voice",job="other"}': "0x180"},
         20, 35, {"reason": "tls_failed"}, "100%"),
    Case("RelayConnectFailures6h", "four in a hundred fail",
         _connects("0+1500x24 37440+1440x20 67740+1500x20")
         | _failures("first_event_timeout", "0x24 60+60x20 1260x20", "first_event", "none"),
         43, 46, {"reason": "first_event_timeout"}, "3.167%", "3.5%", step=SLOW_STEP),
    Case("RelayConnectFailures1d", "two in a hundred fail",
         _connects("0+1500x96 145470+1470x92 280740+1500x20")
         | _failures("rate_limited", "0x96 30+30x92 2790x20", "upgrade", "429"),
         169, 192, {"reason": "rate_limited"}, "1.521%", "1.957%", step=SLOW_STEP),
    Case("RelayConnectFailures3d", "one in a hundred fails",
         _connects("0+1500x288 433485+1485x288 862650+1500x40")
         | _failures("relay_full", "0x288 15+15x288 4335x40", "access"),
         433, 590, {"reason": "relay_full"}, "0.5035%", "0.9584%", step=SLOW_STEP),
    Case("RelayKeyRejected", "a caller is refused",
         _failures("key_rejected", "0x9 1x30", "first_event", "3000"), 10, 15, {"reason": "key_rejected"}),
    Case("RelayKeyRejected", "nobody calls, the check is refused",
         {'health_check_reason{check="key",reason="key_forbidden",instance="a"}': "0x9 1x4 0x20"},
         10, 15, {"reason": "key_forbidden"}),
    Case("RelayQuotaExhausted", "a caller is refused",
         _failures("quota_exhausted", "0x9 1x30", "first_event", "1013"), 10, 15, {"reason": "quota_exhausted"}),
    Case("RelayQuotaExhausted", "the check is refused",
         {'health_check_reason{check="turn",reason="quota_exhausted",instance="a"}': "0x9 1x4 0x20"},
         10, 15, {"reason": "quota_exhausted"}),
    Case("RelayQuotaExhausted", "open sessions fall silent",
         {f'session_incidents_total{{event="{RESPONSE_DONE}",code="insufficient_quota",instance="a"}}': "0x9 1x30"},
         10, 15, {"reason": "quota_exhausted"}),
    Case("RelayHandshakeFailing", "on both instances",
         _handshakes("0x5 1x30 0x20", "0x9 1x20 0x20", "dns_failed"), 11, 31, {"reason": "dns_failed"}),
    Case("RelayInstanceCheckFailing", "on one of two instances",
         _handshakes("0x9 1x20 0x20", "0x50", "tls_untrusted"), 15, 31,
         {"reason": "tls_untrusted", "check": "handshake", "instance": "a"}),
    Case("RelaySlowConnects", "one in ten waits for more than 3 seconds",
         _waits("0+20x90", "0+20x30 618+18x30 1178+20x30"), 41, 66, {}, "3.5s", "3.167s"),
    Case("RelayAbsent", "the last instance is gone",
         {_BUILT: "1x9 stale _x20 1x20"}, 12, 31),
    Case("RelayAbsent", "there never was one", {}, 2, NEVER + 1, deployment={}),
    Case("RelayInstanceDown", "one of two is gone",
         {_BUILT: "1x60", 'up{instance="b"}': "1x9 0x20 1x20", 'up{instance="a"}': "1x60"}, 15, 31, {"instance": "b"}),
    Case("RelaySessionsEndedByProvider", "half are cut",
         {'sessions_ended_total{reason="client_closed",instance="a"}': "0+2x90",
          'sessions_ended_total{reason="upstream_lost",instance="a"}': "0x29 0+2x20 40x60"}, 40, 61, {}, "40%", "25%"),
    Case("RelayResponsesFailing", "half fail",
         {'responses_total{status="completed",instance="a"}': "0+4x90",
          'responses_total{status="failed",instance="a"}': "0x29 0+4x20 80x60"}, 38, 58, {}, "44.44%", "23.08%"),
    Case("RelayLoopLag", "late once in fifty times",
         _lag("0+120x90", "0+120x30 3718+118x30 7378+120x30"), 39, 63, {"instance": "a"}, "160ms", "137.5ms"),
    Case("RelayNearCapacity", "both instances together",
         {'sessions_active{instance="a"}': "10x9 95x20 10x20", 'sessions_active{instance="b"}': "10x9 85x20 10x20",
          'sessions_limit{instance="a"}': "100x60", 'sessions_limit{instance="b"}': "100x60",
          'draining{instance="a"}': "0x60", 'draining{instance="b"}': "0x60"}, 15, 31, {}, "90%"),
    Case("RelayNearCapacity", "one is shutting down and has no room for anybody",
         {'sessions_active{instance="a"}': "10x9 95x20 10x20", 'sessions_active{instance="b"}': "10x60",
          'sessions_limit{instance="a"}': "100x60", 'sessions_limit{instance="b"}': "100x60",
          'draining{instance="a"}': "0x60", 'draining{instance="b"}': "1x60"}, 15, 31, {}, "95%"),
    Case("RelayInstanceNearLimit", "open files",
         {_BUILT: "1x60", 'process_open_fds{instance="a"}': "100x9 920x20 100x20",
          'process_max_fds{instance="a"}': "1024x60"}, 15, 31, {"instance": "a", "resource": "open files"}, "89.84%"),
    Case("RelayInstanceNearLimit", "memory",
         {_BUILT: "1x60", 'process_resident_memory_bytes{instance="a"}': "1e8x9 5e8x20 1e8x20",
          'memory_limit_bytes{instance="a"}': "536870912x60"}, 15, 31, {"instance": "a", "resource": "memory"}, "93.13%"),
    Case("RelayInstanceNearLimit", "dials",
         {_BUILT: "1x60", 'dials_active{instance="a"}': "1x9 90x20 1x20", 'dials_limit{instance="a"}': "100x60"},
         15, 31, {"instance": "a", "resource": "dials"}, "90%"),
    Case("RelayKeyRotationRefused", "a wrong key in the file",
         {'key_file_refused{instance="a"}': "0x9 1x30 0x20"}, 10, 41, {"instance": "a"}),
    Case("RelayInternalErrors", "a session fails",
         {'sessions_ended_total{reason="internal_error",instance="a"}': "0x9 1x60",
          'background_task_crashes_total{instance="a"}': "0x60"}, 10, 25, {}, "1"),
    Case("RelayInternalErrors", "a request fails",
         {'admissions_total{result="internal_error",instance="a"}': "0x9 1x60"}, 10, 25, {}, "1"),
    Case("RelayLogLinesDropped", "lines are lost",
         {'log_lines_dropped_total{instance="a"}': "0x9 150x60"}, 10, 25, {"instance": "a"}, "150"),
    Case("RelayDrainHangs", "it does not end",
         {'draining{instance="a"}': "0x9 1x30 stale"}, 25, 41, {"instance": "a"}),
)  # fmt: skip

NOISE: Final[Mapping[str, Mapping[str, str]]] = {
    "a single call fails among few": _connects("0+1x90") | _failures("upstream_error", "0x29 1x60"),
    "the only call of the day fails": _connects("0x90") | _failures("connect_timeout", "0x29 1x60", "connect", "none"),
    "one caller fails and tries three times more": _connects("0x90") | _failures("dropped_early", "0x29 2 4x60"),
    "many callers bring it about themselves": _connects("0+1x90")
    | _failures("token_invalid", "0+20x90", "access", "401"),
    "one session of three is cut": {
        'sessions_ended_total{reason="client_closed",instance="a"}': "0x29 2x60",
        'sessions_ended_total{reason="upstream_lost",instance="a"}': "0x29 1x60",
    },
    "the only response fails": {'responses_total{status="failed",instance="a"}': "0x29 1x60"},
    "one caller waits for long": _waits("0x29 1x60", "0x90"),
    "the handshake fails once": {
        'health_check_status{check="handshake",status="warn",instance="a"}': "0x29 1 0x60",
        'health_check_reason{check="handshake",reason="connect_timeout",instance="a"}': "0x29 1 0x60",
    },
    "a scrape is missed": {'up{instance="a"}': "1x29 0 1x60", _BUILT: "1x29 stale 1x60"},
    "all is well": _connects("0+60x90") | _failures("upstream_error", "0x90"),
}
"""What must wake nobody: at no minute does any alert fire."""

WAKES_NOBODY: Final[Mapping[str, Mapping[str, str]]] = {
    "a rollout is stopped by a bad key": _connects("0+60x90") | {
        f'health_check_reason{{check="{check}",reason="key_rejected",instance="{instance}"}}':
            "0x29 1x60" if instance == "new" else "0x90"
        for check in ("key", "handshake") for instance in ("a", "b", "new")
    } | {
        f'health_check_status{{check="{check}",status="fail",instance="{instance}"}}':
            "0x29 1x60" if instance == "new" else "0x90"
        for check in ("key", "handshake") for instance in ("a", "b", "new")
    },
    "the only instance is restarted, and a caller asks again and again": _connects("0+1x90")
    | _failures("relay_draining", "0x29 12 24x60", "access", "503"),
}  # fmt: skip
"""What may wait until morning: a warning, perhaps, but nothing critical."""


def render() -> str:
    """`monitoring/prometheus/rules_test.yaml`."""
    return _file(
        1,
        *(_noise(name, series) for name, series in NOISE.items()),
        *(_noise(name, series, 'severity="critical"') for name, series in WAKES_NOBODY.items()),
    )


def render_slow() -> str:
    """`monitoring/prometheus/rules_slow_test.yaml`: windows of days, looked at in longer steps so that it takes seconds."""
    return _file(SLOW_STEP)


def _file(step: int, *more: dict[str, Any]) -> str:
    return "# Generated from tools/alert_cases.py by `make docs`; run it with `promtool test rules`.\n" + to_yaml({
        "rule_files": ["rules.yaml"],
        "evaluation_interval": f"{step}m",
        # What is recorded is there before an alert looks at it, so that the minute is the same each time.
        "group_eval_order": [group["name"] for group in groups()],
        "tests": [*(_test(case) for case in CASES if case.step == step), *more],
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
                (case.over - 1, [_expected(alert, case, case.value if case.last is None else case.last)]),
                (case.over, []),
            )
            if at < NEVER
        ],
    }  # fmt: skip


def _noise(name: str, series: Mapping[str, str], which: str = "") -> dict[str, Any]:
    # A relay that is there and well, so that RelayAbsent is silent, too.
    alive = series if _BUILT in series else {_BUILT: "1x90", 'up{instance="a"}': "1x90", **series}
    return {
        "name": f"nobody is woken: {name}",
        "interval": "1m",
        "input_series": _input(alive, DEPLOYMENT),
        # Over the whole time, not only where one happens to look.
        "promql_expr_test": [
            {
                "expr": f'count_over_time(ALERTS{{alertstate="firing",{which}}}[90m])',
                "eval_time": "90m",
                "exp_samples": [],
            }
        ],
    }


def _expected(alert: Alert, case: Case, value: str) -> dict[str, Any]:
    labels = {**case.deployment, **case.labels}
    annotations = {
        "summary": fill_placeholders(alert.summary, labels, value),
        "description": fill_placeholders(alert.description, labels, value),
    }
    if alert.reasons:
        reason = labels["reason"]
        annotations |= {"runbook_url": f"{DOCS_URL}/failures.md#{reason}", "remedy": CATALOGUE[reason].remedy}
    else:
        annotations["runbook_url"] = f"{DOCS_URL}/runbooks/alerts.md#{alert.name.lower()}"
    return {"exp_labels": {**labels, **alert.labels}, "exp_annotations": annotations}


def _input(series: Mapping[str, str], deployment: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"series": _named(name, deployment), "values": values} for name, values in series.items()]


def _named(name: str, deployment: Mapping[str, str]) -> str:
    metric, _, labels = name.removesuffix("}").partition("{")
    if not metric.startswith(("up", "process_")) or metric.startswith("upstream"):
        metric = f"realtime_relay_{metric}"
    own = "job=" in labels  # another deployment's
    more = "" if own else ",".join(f'{label}="{value}"' for label, value in deployment.items())
    return f"{metric}{{{','.join(filter(None, (labels, more)))}}}"
