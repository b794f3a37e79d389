"""service/telemetry/metrics.py: closed label sets, and series that exist before their first increment."""

import pytest
from prometheus_client import generate_latest

from service.failures import CATALOGUE, DIAL_FAILURES, Failure, Phase
from service.realtime.events import Api
from service.telemetry.metrics import CLOSE_CODES, HTTP_STATUSES, Metrics, status_label
from tests.support.harness import open_raw, simulated_relay
from tests.support.series import text_of_used_series


def test_series_of_failures_start_at_zero() -> None:
    """Each reason of a failed dial, of a refusal and of an ending has a series before it occurs."""
    text = generate_latest(Metrics("openai").registry).decode()

    for reason in DIAL_FAILURES:
        assert f'reason="{reason}"' in text, reason
    assert 'realtime_relay_admissions_total{result="internal_error"} 0.0' in text
    assert 'phase="access",reason="internal_error",status="500",upstream="openai"} 0.0' in text
    for reason in ("upstream_lost", "relay_draining"):
        for api in Api:
            assert f'realtime_relay_sessions_ended_total{{api="{api}",reason="{reason}"}} 0.0' in text


def test_reason_of_a_health_check_replaces_the_one_before() -> None:
    """Every reason of a check has a series, and at most one is 1, between scrapes and before the first as well."""
    metrics = Metrics("openai")

    def shown() -> dict[str, float]:
        (family,) = metrics.registry.restricted_registry(["realtime_relay_health_check_reason"]).collect()
        assert {(check, reason) for check in ("key", "live") for reason in DIAL_FAILURES} == {
            (sample.labels["check"], sample.labels["reason"]) for sample in family.samples
        }
        return {f"{sample.labels['check']} {sample.labels['reason']}": 1 for sample in family.samples if sample.value}

    metrics.set_check_status("live", "pass")
    metrics.set_check_status("key", "fail", "bad_reply")
    metrics.set_check_status("key", "fail", "key_rejected")
    assert shown() == {"key key_rejected": 1}
    metrics.set_check_status("key", "warn", "bad_reply")
    assert shown() == {"key bad_reply": 1}
    metrics.set_check_status("key", "pass")
    assert shown() == {}


def test_used_series_hold_every_label_that_was_written() -> None:
    """What other tests search for secrets: before and after a scrape, and as often as a scrape shows it."""
    metrics = Metrics("openai")
    metrics.budget_used.labels("CANARY0")
    metrics.upstream_connects.labels("CANARY1", "ok").inc()
    metrics.connect_duration.labels("openai", "CANARY2").observe(1)

    for _ in range(2):
        text = text_of_used_series(metrics.registry)
        scrape = generate_latest(metrics.registry).decode()
        assert [scrape.count(f"CANARY{number}") for number in range(3)] == [
            text.count(f"CANARY{number}") for number in range(3)
        ]
        assert text.count("CANARY2") > 10


@pytest.mark.parametrize(
    ("http", "close", "label"),
    [
        (401, None, "401"),
        (418, None, "other_http"),
        (None, 3000, "3000"),
        (None, 4999, "other_close"),
        (None, None, "none"),
    ],
)
def test_status_label_is_a_closed_set(http: int | None, close: int | None, label: str) -> None:
    """A status that is not published is counted as `other_http` or `other_close`."""
    assert label == status_label(http, close)
    assert len(HTTP_STATUSES | CLOSE_CODES) < 60


def test_codes_of_the_catalogue_have_labels() -> None:
    """A row with another status or close code would be counted as `other_http` or `other_close`."""
    rows = CATALOGUE.values()

    assert {row.http_status for row in rows if row.http_status is not None} <= HTTP_STATUSES
    assert {row.close_code for row in rows if row.close_code is not None} <= CLOSE_CODES


def test_dial_failure_of_every_reason_is_counted() -> None:
    """A failure of any reason adds one to its series, also with a status that is not published."""
    metrics = Metrics("azure")
    for reason in CATALOGUE:
        metrics.count_dial_failure(Failure(reason, Phase.UPGRADE, http_status=599))

    labels = {"upstream": "azure", "phase": "upgrade", "status": "other_http", "reason": "bad_reply"}
    assert metrics.registry.get_sample_value("realtime_relay_connection_failures_total", labels) == 1


async def test_client_input_never_becomes_a_label() -> None:
    """Unknown models, parameters and event types of 30 clients create no series, and a scrape stays below 200 kB."""
    async with simulated_relay() as relay:
        first = await open_raw(relay.app.public_port)
        await first.next_event()
        before = {line.rsplit(" ", 1)[0] for line in relay.metrics_text().splitlines() if not line.startswith("#")}
        for number in range(30):
            client = await open_raw(relay.app.public_port, f"/v1/realtime?model=odd-{number}&x{number}=y")
            await client.close()
            first.send_event(type=f"odd.event.{number}")
            await first.next_event()
        await first.close()
        after = {line.rsplit(" ", 1)[0] for line in relay.metrics_text().splitlines() if not line.startswith("#")}

    assert set() == after - before
    assert len(relay.metrics_text()) < 200_000
