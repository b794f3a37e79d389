"""The dashboard `conversations`: response latency, session ends, tokens and cost."""

from monitoring.dashboards.dashboard import render_dashboard
from monitoring.dashboards.panels import (
    COUNT,
    PER_MINUTE,
    RATIO,
    SECONDS,
    USD,
    PanelBuilder,
    Query,
    graph_panel,
    per_minute,
    quantiles,
    rate_by,
    series,
    stat_panel,
)


def render(docs_url: str) -> str:
    """`conversations.json`."""
    return render_dashboard(
        "conversations",
        "conversations and cost",
        "Do users get answers, and what do the answers cost?",
        (*_answers(), *_sessions(), *_continuity(), *_cost(), *_provider()),
        docs_url,
    )


def _answers() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "End of speech to first audio",
            "Time from the end of the user's speech to the first audio of the response.",
            "p50 below 0.8 s; above 2 s a conversation feels like a bad line.",
            SECONDS,
            *quantiles("speech_to_audio_seconds", 0.5, 0.95),
        ),
        graph_panel(
            "response.create to first delta",
            "Time until the provider starts a response that the client requested.",
            "p50 below 0.5 s; much more with tools or long instructions.",
            SECONDS,
            *quantiles("response_first_delta_seconds", 0.5, 0.95),
        ),
        graph_panel(
            "Responses by status",
            "Ended responses: completed, cancelled (the user spoke or the client cancelled), failed, incomplete.",
            "completed and cancelled; failed below 1 %.",
            PER_MINUTE,
            Query(per_minute("responses_total", by="status"), "{{status}}"),
            stacked=True,
        ),
        graph_panel(
            "Interruptions",
            "Interrupted responses by cause: the user spoke (turn_detected), or the client cancelled.",
            "some; more than a third of the responses means too long answers, or noise detected as speech.",
            PER_MINUTE,
            Query(per_minute("interruptions_total", by="reason"), "{{reason}}"),
        ),
    )


def _sessions() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Session duration",
            "Median and 95th percentile of the duration of ended sessions.",
            "minutes; a median of seconds means users who hang up, or clients that reconnect.",
            SECONDS,
            *quantiles("session_duration_seconds", 0.5, 0.95),
        ),
        graph_panel(
            "Session ends by reason",
            "Ended sessions by reason.",
            "client_closed and client_lost; single upstream_lost and upstream_closed.",
            PER_MINUTE,
            Query(per_minute("sessions_ended_total", by="reason"), "{{reason}}"),
            stacked=True,
        ),
    )


def _continuity() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Replaced upstream connections",
            (
                "Upstream connections of open sessions replaced, or not, before the provider's limit or after "
                "a loss; turns of users that the new connection does not have, by reason."
            ),
            "ok. failed: sessions end at the provider's limit; no lost turns.",
            PER_MINUTE,
            Query(per_minute("swaps_total", by="cause, result"), "{{cause}} {{result}}"),
            Query(per_minute("lost_turns_total", by="reason"), "lost turns: {{reason}}"),
        ),
    )


def _cost() -> tuple[PanelBuilder, ...]:
    return (
        stat_panel(
            "Estimated cost",
            (
                "Cost of responses and of seconds of GPT-Live in the selected time range at the provider's public prices, "
                "without input transcription and backend models."
            ),
            "within your budget; the provider's usage page is authoritative.",
            USD,
            Query(f"sum(increase({series('estimated_cost_usd_total')}[$__range]))", "cost"),
            steps={0: "blue"},
        ),
        stat_panel(
            "Responses without a price",
            (
                "Responses in the selected time range that the estimate omits: the model has no known price, or the "
                "usage cannot be parsed. Backend models of GPT-Live have none."
            ),
            "0, or the number of backend responses; otherwise the estimate is too low.",
            COUNT,
            Query(f"sum(increase({series('unpriced_responses_total')}[$__range]))", "unpriced"),
            steps={0: "green", 1: "yellow"},
        ),
        graph_panel(
            "Cost per hour",
            "Estimated cost per hour at the current rate, by model.",
            "follows the sessions; a rise without more sessions means longer answers or fewer cached tokens.",
            USD,
            Query(f"{rate_by('model', 'estimated_cost_usd_total')} * 3600", "{{model}}"),
            stacked=True,
        ),
        graph_panel(
            "Tokens by kind",
            (
                "Tokens of responses by kind (input; cached input, which costs a tenth or less; output) and modality "
                "(text, audio, image)."
            ),
            "far more audio than text, and most of the input cached after the first turns.",
            PER_MINUTE,
            Query(per_minute("tokens_total", by="kind, modality"), "{{kind}} {{modality}}"),
            stacked=True,
        ),
        graph_panel(
            "Tokens by model",
            "Tokens of responses by model; models without a known price are counted as other.",
            "only the models that you intend to use.",
            PER_MINUTE,
            Query(per_minute("tokens_total", by="model"), "{{model}}"),
        ),
    )


def _provider() -> tuple[PanelBuilder, ...]:
    return (
        graph_panel(
            "Remaining provider rate limit",
            "Remaining share of each rate limit of the provider, on the instance with the lowest value.",
            "above 20 %; at 0 responses fail. No line: the provider has not reported the limit yet.",
            RATIO,
            Query(f"min by (limit) ({series('rate_limit_remaining_ratio')})", "{{limit}}"),
        ),
        graph_panel(
            "Error events in open sessions",
            "Error events by the provider's code; most report a mistake of the client and do not end the session.",
            "few; one code that rises with the sessions is a bug in a client.",
            PER_MINUTE,
            Query(per_minute("upstream_error_events_total", by="code"), "{{code}}"),
        ),
        graph_panel(
            "Incidents in open sessions",
            (
                "Failures that the provider reports by events other than error: failed responses, failed transcriptions, "
                "exhausted rate limits."
            ),
            "empty; insufficient_quota means an account without credit.",
            PER_MINUTE,
            Query(per_minute("session_incidents_total", by="event, code"), "{{event}}: {{code}}"),
        ),
    )
