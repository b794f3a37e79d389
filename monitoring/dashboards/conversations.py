"""The third board: how conversations go, and what they cost."""

from monitoring.dashboards.board import board
from monitoring.dashboards.panels import (
    COUNT,
    PER_SECOND,
    RATIO,
    SECONDS,
    USD,
    AnyPanel,
    Query,
    number,
    over_time,
    quantiles,
    rate_by,
    series,
)


def render(runbooks: str) -> str:
    """`conversations.json`."""
    return board(
        "conversations",
        "conversations and cost",
        "Do people get answers, and what does it cost?",
        (*_answers(), *_sessions(), *_cost(), *_provider()),
        runbooks,
    )


def _answers() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "From the end of speech to the first sound",
            "How long people wait for an answer in speech.",
            "half below 0.8 s; from 2 s on a talk feels like a bad line.",
            SECONDS,
            *quantiles("speech_to_audio_seconds", 0.5, 0.95),
        ),
        over_time(
            "From response.create to the first delta",
            "How long the provider takes to begin a response that the client asked for.",
            "half below 0.5 s; far more with tools or long instructions.",
            SECONDS,
            *quantiles("response_first_delta_seconds", 0.5, 0.95),
        ),
        over_time(
            "Responses by status",
            "Responses that ended: completed, cancelled because somebody spoke, failed at the provider, cut short.",
            "completed and cancelled; failed below 1 %.",
            PER_SECOND,
            Query(rate_by("status", "responses_total"), "{{status}}"),
            stacked=True,
        ),
        over_time(
            "Interruptions",
            "Responses that were cut off, by who did it: the user's voice, or the client.",
            "some; more than every third response says that answers are too long, or that noise counts as speech.",
            PER_SECOND,
            Query(rate_by("reason", "interruptions_total"), "{{reason}}"),
        ),
    )


def _sessions() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "How long sessions last",
            "Median and 95th percentile of the sessions that ended.",
            "minutes; medians of seconds are callers that hang up, or clients that reconnect.",
            SECONDS,
            *quantiles("session_duration_seconds", 0.5, 0.95),
        ),
        over_time(
            "How sessions end",
            "Sessions that ended, by reason.",
            "client_closed and client_lost; upstream_lost and upstream_closed in ones.",
            PER_SECOND,
            Query(rate_by("reason", "sessions_ended_total"), "{{reason}}"),
            stacked=True,
        ),
    )


def _cost() -> tuple[AnyPanel, ...]:
    return (
        number(
            "Cost of the chosen time",
            "What the responses cost by the provider's public prices, without the transcription of the input.",
            "what the budget says; compare it with the provider's own page, which is right.",
            USD,
            Query(f"sum(increase({series('estimated_cost_usd_total')}[$__range]))", "cost"),
            steps={0: "blue"},
        ),
        number(
            "Responses without a price",
            (
                "Responses of the chosen time that the cost leaves out: a model without a known price, or a "
                "usage that cannot be read."
            ),
            "0; more says that the estimate is too low.",
            COUNT,
            Query(f"sum(increase({series('unpriced_responses_total')}[$__range]))", "unpriced"),
            steps={0: "green", 1: "yellow"},
        ),
        over_time(
            "Cost per hour",
            "What an hour at this pace would cost, by model.",
            "follows the calls; a rise without more calls is longer answers or less that was cached.",
            USD,
            Query(f"{rate_by('model', 'estimated_cost_usd_total')} * 3600", "{{model}}"),
            stacked=True,
        ),
        over_time(
            "Tokens by kind",
            (
                "Tokens of the responses: input, input that was cached and costs a tenth or less, output; "
                "text, audio or image."
            ),
            "audio far above text, and much of the input cached after the first turns.",
            PER_SECOND,
            Query(rate_by("kind, modality", "tokens_total"), "{{kind}} {{modality}}"),
            stacked=True,
        ),
        over_time(
            "Tokens by model",
            "The same by model; other has no known price.",
            "the models that you meant to use, and no other.",
            PER_SECOND,
            Query(rate_by("model", "tokens_total"), "{{model}}"),
        ),
    )


def _provider() -> tuple[AnyPanel, ...]:
    return (
        over_time(
            "Head room under the rate limits",
            "What is left of each limit, of the instance where it is least.",
            "above 20 %; at 0 responses fail. Without a line the provider has not told yet.",
            RATIO,
            Query(f"min by (limit) ({series('rate_limit_remaining_ratio')})", "{{limit}}"),
        ),
        over_time(
            "The provider's errors in open sessions",
            "Error events by the provider's code; most are a client's mistake and end nothing.",
            "few; one code that rises with the calls is a client's bug.",
            PER_SECOND,
            Query(rate_by("code", "upstream_error_events_total"), "{{code}}"),
        ),
        over_time(
            "Failures within sessions",
            (
                "What the provider told by other events: failed responses, failed transcriptions, rate limits "
                "with nothing left."
            ),
            "empty; insufficient_quota is an account without credit.",
            PER_SECOND,
            Query(rate_by("event, code", "session_incidents_total"), "{{event}}: {{code}}"),
        ),
    )
