"""The dashboard `live`: starts, billed time, cost and latency of sessions of GPT-Live."""

from monitoring.dashboards.dashboard import render_dashboard
from monitoring.dashboards.panels import (
    COUNT,
    PER_MINUTE,
    RATIO,
    SECONDS,
    USD,
    PanelBuilder,
    Query,
    equals,
    graph_panel,
    per_minute,
    quantiles,
    rate,
    rate_by,
    series,
    stat_panel,
)
from monitoring.live_alerts import FAILED_STARTS
from service.realtime.events import Api
from service.realtime.pricing import LIVE_PRICES

_IS_LIVE = equals("api", Api.LIVE)
_PRICED = f'model=~"{"|".join(LIVE_PRICES)}"'


def render(docs_url: str) -> str:
    """`live.json`."""
    return render_dashboard(
        "live",
        "GPT-Live",
        "Do sessions of GPT-Live start, how do they end, and what do they cost?",
        (*_starts(), *_sessions(), *_cost(), *_backend()),
        docs_url,
    )


def _starts() -> tuple[PanelBuilder, ...]:
    attempts = f"(sum({rate('live_start_failures_total')}) + sum({rate('live_start_seconds_count')}) > 0)"
    failed = f"sum(increase({series('live_start_failures_total', FAILED_STARTS)}[$__range]))"
    return (
        stat_panel(
            "Failed starts",
            (
                "Sessions of admitted clients that did not start in the selected time range, without failures that the "
                "client caused."
            ),
            "none, or a few per thousand.",
            COUNT,
            Query(failed, "failed"),
            steps={0: "green", 1: "yellow", 10: "red"},
        ),
        stat_panel(
            "Open sessions",
            "Open sessions of GPT-Live.",
            "the number of callers, below your limit on concurrent sessions at the provider.",
            COUNT,
            Query(f"sum({series('sessions_active', _IS_LIVE)})", "open"),
            steps={0: "blue"},
        ),
        graph_panel(
            "Share of starts that fail, by reason",
            "Share of the requested sessions that did not start, by reason, including failures that the client caused.",
            "0; one reason at 100 % is the account: its access to GPT-Live, its credit or its model.",
            RATIO,
            Query(
                f"{rate_by('reason', 'live_start_failures_total')} / ignoring (reason) group_left () {attempts}",
                "{{reason}}",
            ),
            stacked=True,
        ),
        graph_panel(
            "Time to start",
            "Time from session.start to session.started.",
            "p50 below 0.7 s; above 1 s with a long history.",
            SECONDS,
            *quantiles("live_start_seconds", 0.5, 0.95),
        ),
    )


def _sessions() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Session ends by reason",
            "Ended sessions of GPT-Live by reason.",
            "client_closed and client_lost.",
            PER_MINUTE,
            Query(per_minute("sessions_ended_total", _IS_LIVE, by="reason"), "{{reason}}"),
            stacked=True,
        ),
        graph_panel(
            "Final usage",
            "Ended sessions by whether the provider confirmed their final usage. Unconfirmed ones may be billed for longer.",
            "confirmed; unconfirmed below 1 %.",
            PER_MINUTE,
            Query(per_minute("live_final_usage_total", by="result"), "{{result}}"),
            stacked=True,
        ),
        graph_panel(
            "End of speech to answer",
            "Time from the end of the user's speech to the start of the answer, by the times of the transcripts.",
            "p50 below 0.8 s; seconds where work is delegated.",
            SECONDS,
            *quantiles("live_speech_to_speech_seconds", 0.5, 0.95),
        ),
        graph_panel(
            "Used context window",
            "Greatest used share of the context window in an ended session.",
            "below 50 %; above 90 % the provider compacts the conversation, which loses details.",
            RATIO,
            *quantiles("live_context_ratio", 0.5, 0.95),
        ),
    )


def _cost() -> tuple[PanelBuilder, ...]:
    per_hour = f"{rate_by('model', 'estimated_cost_usd_total', _PRICED)} * 3600"
    return (
        stat_panel(
            "Estimated cost",
            "Cost of the billed seconds in the selected time range at the provider's public prices, without backend models.",
            "within your budget; the provider's usage page is authoritative.",
            USD,
            Query(f"sum(increase({series('estimated_cost_usd_total', _PRICED)}[$__range]))", "cost"),
            steps={0: "blue"},
        ),
        stat_panel(
            "Billed minutes",
            "Minutes that the provider reported as used in the selected time range, silence included.",
            "about the number of callers times their time; more means sessions that stay open without a caller.",
            COUNT,
            Query(f"sum(increase({series('billed_seconds_total')}[$__range])) / 60", "minutes"),
            steps={0: "blue"},
        ),
        graph_panel(
            "Billed minutes per hour",
            "Billed minutes per hour at the current rate, by model and kind; models without a known price are other.",
            "60 for each open session.",
            COUNT,
            Query(f"{rate_by('model, kind', 'billed_seconds_total')} * 60", "{{model}} {{kind}}"),
            stacked=True,
        ),
        graph_panel(
            "Cost per hour",
            "Estimated cost per hour at the current rate, by model, without backend models.",
            "$3 for each open session.",
            USD,
            Query(per_hour, "{{model}}"),
            stacked=True,
        ),
    )


def _backend() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Backend responses",
            "Ended responses and decisions of the models that GPT-Live delegates to, by event. They have no price here.",
            "response.completed and decision.completed; response.failed below 1 %.",
            PER_MINUTE,
            Query(per_minute("live_backend_responses_total", by="event"), "{{event}}"),
            stacked=True,
        ),
        graph_panel(
            "Backend tokens",
            "Tokens of backend models by kind. Multiply them with the price of the model to which your clients delegate.",
            "follows the backend responses; a rise without more responses means longer conversations.",
            PER_MINUTE,
            Query(per_minute("live_backend_tokens_total", by="kind"), "{{kind}}"),
            stacked=True,
        ),
    )
