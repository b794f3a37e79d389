"""The dashboard `callers`: whether client connections succeed, and if not, why."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as build

from monitoring.dashboards.dashboard import render_dashboard
from monitoring.dashboards.panels import (
    COUNT,
    DATE,
    PER_MINUTE,
    RATIO,
    SECONDS,
    WINDOW,
    Column,
    PanelBuilder,
    Query,
    equals,
    graph_panel,
    per_minute,
    quantiles,
    series,
    stat_panel,
    table_panel,
    timeline_panel,
)
from monitoring.promql import one_of
from monitoring.recording import COUNTED_FAILURES, OBJECTIVE, SUCCESSES
from service.failures import CATALOGUE, RUNBOOK_PAGES

_STATUSES: Final = {0: ("pass", "green"), 1: ("warn", "yellow"), 2: ("unknown", "blue"), 3: ("fail", "red")}


def render(docs_url: str) -> str:
    """`callers.json`."""
    return render_dashboard(
        "callers",
        "callers",
        "Do client connections succeed? First the causes of failures with what to do, then success ratio, failures, latency.",
        _panels(docs_url),
        docs_url,
    )


def _success_ratio(window: str) -> str:
    bad = f"sum(increase({series('connection_failures_total', COUNTED_FAILURES)}[{window}]))"
    good = f"sum(increase({series('upstream_connects_total', SUCCESSES)}[{window}]))"
    return f"{good} / ({bad} + {good})"


def _panels(docs_url: str) -> tuple[PanelBuilder, ...]:
    return (_causes(docs_url), *_success(), *_failures(docs_url), *_latency(), *_checks())


def _causes(docs_url: str) -> PanelBuilder:
    """The table that an operator reads first."""
    failures = f"sum by (reason) (increase({series('connection_failures_total')}[15m])) > 0"
    attempts = f"sum(increase({series('admissions_total')}[15m]))"
    is_failing = f"(sum by (reason) (increase({series('connection_failures_total')}[5m])) > 0)"
    with_texts = f'label_join(round({failures}), "action", "", "reason")'
    pages: dict[str, list[str]] = {}
    for reason, page in RUNBOOK_PAGES.items():
        pages.setdefault(page, []).append(reason)
    for name, reasons in pages.items():
        with_texts = f'label_replace({with_texts}, "runbook", "{name}", "reason", "{one_of(reasons)}")'
    return table_panel(
        "Why connections fail",
        (
            "The reasons of the last 15 minutes, with the operator's action. The share is that of all client requests: near "
            "100 % every client fails with this reason. Click the reason to count its failures by client in the log, the "
            "runbook to open its section. Since is the first failure in the selected time range."
        ),
        "no rows, or single failures; scanners of the address cause token, origin and path refusals.",
        (
            Column(
                "reason",
                "Reason",
                width=190,
                link=("One client or all", f"{docs_url}/runbooks/README.md#one-client-or-all"),
            ),
            Column("Value #C", "Since", DATE, 130),
            Column("Value #A", "Failures in 15 min", COUNT, 130),
            Column("Value #B", "Share of requests", RATIO, 130),
            Column("action", "What to do", texts={reason: row.operator_action for reason, row in CATALOGUE.items()}),
            Column(
                "runbook",
                "Runbook",
                width=110,
                link=("Runbook", f"{docs_url}/runbooks/${{__value.raw}}.md#${{__data.fields.Reason}}"),
            ),
        ),
        Query(with_texts, "{{reason}}"),
        Query(f"({failures}) / on () group_left () {attempts}", "{{reason}}"),
        Query(
            f"1000 * min_over_time(timestamp({is_failing})[$__range:1m]) and on (reason) ({failures})",
            "{{reason}}",
        ),
    )


def _success() -> tuple[PanelBuilder, ...]:
    good = {0: "red", 0.98: "orange", OBJECTIVE: "green"}
    return (
        stat_panel(
            "Connection success ratio",
            (
                "Share of the connection attempts in the selected time range that reached the provider's first event. "
                "Failures that the client caused are excluded."
            ),
            "at least 99.5 %.",
            RATIO,
            Query(_success_ratio("$__range"), "successful"),
            steps=good,
        ),
        stat_panel(
            "Failed connections",
            "Connection attempts in the selected time range that failed, without failures that the client caused.",
            "none, or a few per thousand.",
            COUNT,
            Query(f"sum(increase({series('connection_failures_total', COUNTED_FAILURES)}[$__range]))", "failed"),
            steps={0: "green", 1: "yellow", 10: "red"},
        ),
        graph_panel(
            "Connection success ratio over time",
            "The same ratio over time.",
            "a line at 100 %; a dip of less than a minute usually comes from the provider.",
            RATIO,
            Query(_success_ratio(WINDOW), "successful"),
        ),
        graph_panel(
            "Connection requests",
            "Client requests by result of admission: admitted, or the reason for which the relay refused them.",
            "follows the number of clients; admitted far above every other result.",
            PER_MINUTE,
            Query(per_minute("admissions_total", by="result"), "{{result}}"),
            stacked=True,
        ),
    )


def _failures(docs_url: str) -> tuple[PanelBuilder, ...]:
    by_reason = graph_panel(
        "Failures by reason",
        "Failed connections by reason, including failures that the client caused. Click a series to open its remedy.",
        "empty except for single failures; scanners of the address cause token and origin refusals.",
        PER_MINUTE,
        Query(per_minute("connection_failures_total", by="reason"), "{{reason}}"),
        span=12,
        stacked=True,
    )
    link = f"{docs_url}/failures.md#${{__field.labels.reason}}"
    by_reason.data_links([build.DashboardLink("Remedy").url(link).target_blank(target_blank=True)])
    return (
        by_reason,
        graph_panel(
            "Failures by phase and status",
            "Failed connections by the phase in which they failed and the HTTP status or close code received.",
            (
                "empty; a single phase points to one cause: dns and connect to the network, upgrade and "
                "first_event to the provider."
            ),
            PER_MINUTE,
            Query(per_minute("connection_failures_total", by="phase, status"), "{{phase}} {{status}}"),
            span=12,
            stacked=True,
        ),
    )


def _latency() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Time to first event",
            "Time from a client's request to the provider's first event, for connections that succeeded.",
            "p50 below 0.5 s, p95 below 1 s; above 3 s users hang up.",
            SECONDS,
            *quantiles("time_to_first_event_seconds", 0.5, 0.95, 0.99),
        ),
        graph_panel(
            "Connection time by phase",
            "95th percentile of the duration of each phase of a dial.",
            "a few milliseconds for dns and connect, a few hundred for upgrade and first_event.",
            SECONDS,
            *quantiles("upstream_connect_duration_seconds", 0.95, by="phase"),
        ),
        graph_panel(
            "Dial retries and open breakers",
            (
                "Dials that were retried, and instances with an open circuit breaker, which answer from memory because "
                "the provider has just refused."
            ),
            "no open breaker; retries for at most 10 % of the dials.",
            COUNT,
            Query(f"sum(increase({series('upstream_retries_total')}[{WINDOW}]))", "retries"),
            Query(f"sum by (upstream) ({series('breaker_open')})", "open breakers ({{upstream}})"),
        ),
    )


def _checks() -> tuple[PanelBuilder, ...]:
    values = " or ".join(
        f"{series('health_check_status', equals('status', name))} * {value}" for value, (name, _) in _STATUSES.items()
    )
    return (
        timeline_panel(
            "Health checks",
            "Status of each instance's checks: key verifies the provider key, handshake verifies that a session opens.",
            "all green; a short yellow band is a single temporary failure.",
            Query(f"max by (instance, check) ({values})", "{{instance}} {{check}}"),
            _STATUSES,
        ),
        timeline_panel(
            "Reasons of checks that do not pass",
            "The catalogue's reason of each check that does not pass, while it applies.",
            "empty.",
            Query(
                f"max by (instance, check, reason) ({series('health_check_reason')}) > 0",
                "{{instance}} {{check}}: {{reason}}",
            ),
            {1: ("not passing", "red")},
        ),
        graph_panel(
            "Time since the last success of a check",
            "Seconds since each check last passed on any instance.",
            "a sawtooth of about a minute; the check `turn` runs only RELAY_HEALTH_TURNS_PER_DAY times a day.",
            SECONDS,
            Query(
                f"time() - max by (check) ({series('health_check_last_success_timestamp_seconds')} > 0)", "{{check}}"
            ),
            span=12,
        ),
        graph_panel(
            "Reconnect loops",
            "Clients detected opening one short session after another, and connections refused because of it.",
            "none; a loop is a bug in a client, and each of its iterations costs a session.",
            PER_MINUTE,
            Query(per_minute("reconnect_loops_total"), "loops detected"),
            Query(per_minute("admissions_total", equals("result", "too_many_connects")), "refused"),
            span=12,
        ),
    )
