"""The first board: whether callers get through, and if not, why."""

from typing import Final

from grafana_foundation_sdk.builders import dashboard as build

from monitoring.dashboards.board import board
from monitoring.dashboards.panels import (
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    WINDOW,
    AnyPanel,
    Query,
    is_,
    number,
    over_time,
    quantiles,
    rate,
    rate_by,
    series,
    states,
)
from monitoring.recording import COUNTED_FAILURES, OBJECTIVE, SUCCESSES

_STATUSES: Final = {0: ("pass", "green"), 1: ("warn", "yellow"), 2: ("unknown", "blue"), 3: ("fail", "red")}


def render(runbooks: str) -> str:
    """`callers.json`."""
    return board(
        "callers",
        "callers",
        "Are callers getting through? Left to right: whether, why not, how soon.",
        _panels(runbooks),
        runbooks,
    )


def _share(window: str) -> str:
    bad = f"sum(increase({series('connection_failures_total', COUNTED_FAILURES)}[{window}]))"
    good = f"sum(increase({series('upstream_connects_total', SUCCESSES)}[{window}]))"
    return f"{good} / ({bad} + {good})"


def _panels(runbooks: str) -> tuple[AnyPanel, ...]:
    return (*_whether(), *_why(runbooks), *_how_soon(), *_checks())


def _whether() -> tuple[AnyPanel, ...]:
    good = {0: "red", 0.98: "orange", OBJECTIVE: "green"}
    return (
        number(
            "Callers that got through",
            (
                "Connects of the chosen time that ended with the provider's first event, without what callers "
                "brought about themselves."
            ),
            "at least 99.5 %.",
            RATIO,
            Query(_share("$__range"), "got through"),
            steps=good,
        ),
        number(
            "Failed connects",
            "Connects of the chosen time that failed and were not the caller's own doing.",
            "none, or a few in a thousand.",
            COUNT,
            Query(f"sum(increase({series('connection_failures_total', COUNTED_FAILURES)}[$__range]))", "failed"),
            steps={0: "green", 1: "yellow", 10: "red"},
        ),
        over_time(
            "Callers that got through, over time",
            "The same share as it went.",
            "a line at 100 %; a dip that ends by itself within a minute is the provider's.",
            RATIO,
            Query(_share(WINDOW), "got through"),
        ),
        over_time(
            "Calls",
            "Requests by what became of them: admitted, or refused by the relay itself.",
            "as many as there are callers; admitted far above everything else.",
            PER_SECOND,
            Query(rate_by("result", "admissions_total"), "{{result}}"),
            stacked=True,
        ),
    )


def _why(runbooks: str) -> tuple[AnyPanel, ...]:
    by_reason = over_time(
        "Failures by reason",
        "Every failure to connect, those of callers' own doing too; a click on a series opens what to do about it.",
        "empty but for single ones; token and origin refusals come from whoever tries the address.",
        PER_SECOND,
        Query(rate_by("reason", "connection_failures_total"), "{{reason}}"),
        span=12,
        stacked=True,
    )
    link = f"{runbooks}/failures.md#${{__field.labels.reason}}"
    by_reason.data_links([build.DashboardLink("What to do").url(link).target_blank(target_blank=True)])
    return (
        by_reason,
        over_time(
            "Failures by phase and wire status",
            "How far the failed connects came, and the HTTP status or close code that the wire said.",
            (
                "empty; one phase alone points at one party: dns and connect at the network, upgrade and "
                "first_event at the provider."
            ),
            PER_SECOND,
            Query(rate_by("phase, status", "connection_failures_total"), "{{phase}} {{status}}"),
            span=12,
            stacked=True,
        ),
    )


def _how_soon() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "Time to first event",
            "From a caller's request to the provider's first event, of the calls that got through.",
            "half of them below 0.5 s, 95 % below 1 s; from 3 s on people hang up.",
            SECONDS,
            *quantiles("time_to_first_event_seconds", 0.5, 0.95, 0.99),
        ),
        over_time(
            "Phases of a connect",
            "Where the time goes, 95th percentile of each phase.",
            "dns and connect some milliseconds, upgrade and first_event some hundred.",
            SECONDS,
            *quantiles("upstream_connect_duration_seconds", 0.95, by="phase"),
        ),
        over_time(
            "Second attempts and open breakers",
            (
                "Dials that were tried once more, and instances that answer from memory because the provider "
                "has just refused."
            ),
            "no breaker open; second attempts at most a tenth of the calls.",
            COUNT,
            Query(f"sum(increase({series('upstream_retries_total')}[{WINDOW}]))", "second attempts"),
            Query(f"sum by (upstream) ({series('breaker_open')})", "open breakers ({{upstream}})"),
        ),
    )


def _checks() -> tuple[AnyPanel, ...]:
    values = " or ".join(
        f"{series('health_check_status', is_('status', name))} * {value}" for value, (name, _) in _STATUSES.items()
    )
    return (
        states(
            "Health checks",
            "Each instance's checks: key asks whether the key serves, handshake whether a session opens.",
            "all green; a single yellow band is one failure that passed.",
            Query(f"max by (instance, check) ({values})", "{{instance}} {{check}}"),
            _STATUSES,
        ),
        states(
            "Why a check does not pass",
            "The catalogue's reason, for as long as it holds.",
            "empty.",
            Query(
                f"max by (instance, check, reason) ({series('health_check_reason')}) > 0",
                "{{instance}} {{check}}: {{reason}}",
            ),
            {1: ("not passing", "red")},
        ),
        over_time(
            "Since the last success of a check",
            "How long ago each check last passed on any instance.",
            "a saw of about a minute; the deep check `turn` passes as seldom as it is asked.",
            SECONDS,
            Query(
                f"time() - max by (check) ({series('health_check_last_success_timestamp_seconds')} > 0)", "{{check}}"
            ),
            span=12,
        ),
        over_time(
            "Clients that reconnect in a loop",
            "Clients noticed for opening one short session after another, and calls refused for it.",
            "none; one is a client's bug, and costs a session for each turn of its loop.",
            PER_SECOND,
            Query(f"sum({rate('reconnect_loops_total')})", "loops noticed"),
            Query(f"sum({rate('admissions_total', is_('result', 'too_many_connects'))})", "refused"),
            span=12,
        ),
    )
