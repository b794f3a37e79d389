"""service/telemetry/live_calls.py: the metrics of GPT-Live."""

import pytest
from prometheus_client import generate_latest

from service.failures import Phase
from service.realtime.events import ERROR_CODES
from service.realtime.live_events import (
    RESPONSE_ENDS,
    RESPONSE_FAILED,
    BackendResponse,
    Decision,
    LiveEvent,
    SessionUsage,
)
from service.realtime.live_usage import LiveMeter
from service.realtime.pricing import LIVE_MODELS, OTHER, live_model_label
from service.realtime.usage import Tokens, Usage
from service.telemetry.metrics import Metrics
from tests.support.series import sum_of_series

PREFIX = "realtime_relay"
USAGE = Usage(Tokens(100), Tokens(7), Tokens(40))


@pytest.fixture
def metrics() -> Metrics:
    """The metrics of a relay that has served nothing."""
    return Metrics("openai")


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the series with these labels."""
    return sum_of_series(metrics.registry, f"{PREFIX}_{name}", **labels)


def measure(metrics: Metrics, model: str, *events: LiveEvent) -> LiveMeter:
    """Count the charges of events as a session does."""
    meter = LiveMeter()
    for event in events:
        metrics.live.count_charge(model, meter.add(event))
    return meter


def test_series_of_live_start_at_zero(metrics: Metrics) -> None:
    """An alert sees the first failure as an increase."""
    text = generate_latest(metrics.registry).decode()

    def exists(name: str, labels: str) -> bool:
        return f"{PREFIX}_{name}{{{labels}}} 0.0\n" in text

    for model in LIVE_MODELS:
        assert exists("billed_seconds_total", f'kind="active",model="{model}"')
        assert exists("billed_seconds_total", f'kind="paused",model="{model}"')
        assert exists("estimated_cost_usd_total", f'model="{model}"') == (model != OTHER)
    for result in ("confirmed", "unconfirmed"):
        assert exists("live_final_usage_total", f'result="{result}"')
    for event in (*RESPONSE_ENDS, "decision.completed"):
        assert exists("live_backend_responses_total", f'event="{event}"')
    for code in ERROR_CODES:
        assert exists("session_incidents_total", f'code="{code}",event="response.event"')
    for reason in ("quota_exhausted", "model_not_found", "key_forbidden", "request_rejected"):
        for status in ("none", "4000"):
            labels = f'phase="{Phase.SESSION_START}",reason="{reason}",status="{status}",upstream="openai"'
            assert exists("connection_failures_total", labels)
    for reason in ("dropped_early", "first_event_timeout", "client_left"):
        labels = f'phase="{Phase.SESSION_START}",reason="{reason}",status="none",upstream="openai"'
        assert exists("connection_failures_total", labels)


def test_seconds_and_cost_rise_with_the_reports(metrics: Metrics) -> None:
    """The sum is that of the greatest report: 120 s active at $0.05 and 60 s paused at $0.02 a minute."""
    reports = (SessionUsage(60), SessionUsage(60), SessionUsage(180, 120, 60), SessionUsage(90))
    measure(metrics, "gpt-live-1.1", *(LiveEvent(usage=report) for report in reports))

    assert value(metrics, "billed_seconds_total", model="gpt-live-1.1", kind="active") == 120
    assert value(metrics, "billed_seconds_total", model="gpt-live-1.1", kind="paused") == 60
    assert value(metrics, "estimated_cost_usd_total", model="gpt-live-1.1") == pytest.approx(0.12)


def test_seconds_without_a_price_count_as_other(metrics: Metrics) -> None:
    """A deployment can have any name; no cost is invented for it."""
    measure(metrics, live_model_label("my-deployment"), LiveEvent(usage=SessionUsage(30)))

    assert value(metrics, "billed_seconds_total", model=OTHER) == 30
    assert value(metrics, "estimated_cost_usd_total") == 0


def test_backend_responses_count_without_a_price(metrics: Metrics) -> None:
    """Each has its tokens counted. A failed one without usage costs nothing."""
    ends = [
        *(BackendResponse(f"resp_{event}", "gpt-5-mini", event, USAGE) for event in RESPONSE_ENDS),
        BackendResponse("resp_1", None, RESPONSE_FAILED, None),
        BackendResponse("resp_2", None, "response.completed", None),
    ]
    repeated = [LiveEvent(response=end) for end in ends] * 2
    measure(
        metrics,
        "gpt-live-1",
        *repeated,
        LiveEvent(decision=Decision("m", USAGE)),
        LiveEvent(decision=Decision("m", None)),
    )

    assert {"response.completed": 2, "response.incomplete": 1, RESPONSE_FAILED: 2, "decision.completed": 2} == {
        event: value(metrics, "live_backend_responses_total", event=event)
        for event in (*RESPONSE_ENDS, "decision.completed")
    }
    assert [4 * 60, 4 * 40, 4 * 7] == [
        value(metrics, "live_backend_tokens_total", kind=kind) for kind in ("input", "cached_input", "output")
    ]
    assert value(metrics, "unpriced_responses_total") == 6
    assert value(metrics, "tokens_total") == value(metrics, "responses_total") == 0


def test_end_counts_final_usage_and_context(metrics: Metrics) -> None:
    """A session whose final usage never came is unconfirmed; one without a ratio observes none."""
    closed = LiveEvent(usage=SessionUsage(9), usage_ratio=0.6, closed_reason="expired")
    for events in ((LiveEvent(usage_ratio=0.95), closed), (LiveEvent(usage=SessionUsage(9)),), ()):
        metrics.live.count_end(measure(metrics, "gpt-live-1", *events))

    assert value(metrics, "live_final_usage_total", result="confirmed") == 1
    assert value(metrics, "live_final_usage_total", result="unconfirmed") == 2
    assert value(metrics, "live_context_ratio_count") == 1
    assert value(metrics, "live_context_ratio_sum") == pytest.approx(0.95)
