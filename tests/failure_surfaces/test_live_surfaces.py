"""Each failure of GPT-Live, caused by the simulator: client, log, metrics and documents report it alike, and once."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.failures import CATALOGUE
from service.simulator import SimulatorOptions
from tests.failure_surfaces.test_surfaces import check_documents
from tests.support.harness import RawClient, Relay, eventually, open_raw, simulated_relay
from tests.support.live_client import quick_live
from tests.support.live_upstream import MODEL, PATH, START, counted_failures
from tests.support.remedies import as_operators_read

ORIGIN = {"Origin": "http://localhost:3000"}
NAMES = ("admission.refused", "upstream.connect_failed")
AT_UPGRADE = [
    ("key-rejected", "key_rejected", "401"),
    ("key-missing", "key_missing", "401"),
    ("http-403", "key_forbidden", "403"),
    ("http-403-geo", "region_blocked", "403"),
    ("http-404", "wrong_base_url", "404"),
    ("http-429", "rate_limited", "429"),
    ("http-429-quota", "quota_exhausted", "429"),
    ("http-500", "upstream_error", "500"),
    ("http-503", "upstream_overloaded", "503"),
    ("redirect", "redirect_refused", "302"),
]
AT_START = [
    ("quota-exhausted", "quota_exhausted", "credit_balance_exhausted"),
    ("invalid-model", "model_not_found", "invalid_model"),
    ("model-not-found", "model_not_found", "invalid_model"),
    ("key-forbidden", "key_forbidden", "forbidden"),
    ("rate-limited-inband", "rate_limited", "rate_limit_exceeded"),
]


@asynccontextmanager
async def failing_relay(scenario: str) -> AsyncIterator[Relay]:
    """A relay whose provider behaves by a scenario, which the key selects."""
    options = SimulatorOptions(pace=0, live=quick_live(abort_seconds=5))
    async with simulated_relay(options, OPENAI_API_KEY=f"sk-sim-{scenario}-CANARY0key1234567890") as relay:
        yield relay


def check_report(relay: Relay, error: dict[str, Any], reason: str, phase: str, status: str) -> None:
    """The error of the client, one log line and one count agree; no secret is shown."""
    row = CATALOGUE[reason]
    (line,) = [line for name in NAMES for line in relay.events(name)]
    assert ("relay_error", reason, row.sentence) == (error["type"], error["code"], error["message"])
    assert (reason, row.sentence, row.runbook, phase) == (
        line["reason"],
        line["message"],
        line["runbook"],
        line["phase"],
    )
    assert line["session_id"] == error["session_id"]
    assert as_operators_read(row, error["remedy"]).fullmatch(line["remedy"])
    assert {(phase, reason, status): 1} == counted_failures(relay)
    assert [] == relay.events("session.started") + relay.events("session.ended")
    assert "CANARY" not in json.dumps([error, relay.logs], default=str) + relay.used_series()
    check_documents(row)


@pytest.mark.parametrize(("scenario", "reason", "status"), AT_UPGRADE)
@pytest.mark.parametrize("is_browser", [False, True])
async def test_refusal_of_the_upgrade_is_reported_alike(
    scenario: str, reason: str, status: str, is_browser: bool
) -> None:
    """By an HTTP status and a body; a browser gets an event and a close code."""
    async with failing_relay(scenario) as relay:
        client = await open_raw(relay.app.public_port, PATH, ORIGIN if is_browser else {})
        if is_browser:
            error = (await client.next_event())["error"]
            assert CATALOGUE[reason].close_code == (await client.until_close() or (None,))[0]
        else:
            error = client.answer.error
            assert CATALOGUE[reason].http_status == client.answer.status
        await client.close()
        check_report(relay, error, reason, "upgrade", status)


@pytest.mark.parametrize(("scenario", "reason", "code"), AT_START)
async def test_refusal_of_the_start_is_reported_alike(scenario: str, reason: str, code: str) -> None:
    """By the provider's event, then the relay's, then a close code."""
    async with failing_relay(scenario) as relay:
        client = await open_raw(relay.app.public_port, PATH)
        error = await start_that_fails(client, code)
        await client.close()
        await eventually(lambda: bool(counted_failures(relay)))
        assert code == error["upstream_code"]
        check_report(relay, error, reason, "session_start", "none")


async def start_that_fails(client: RawClient, code: str) -> dict[str, Any]:
    """The relay's error after the provider's."""
    client.send_event(**START)
    assert code == (await client.next_event())["error"]["code"]
    error: dict[str, Any] = (await client.next_event())["error"]
    assert CATALOGUE[error["code"]].close_code == (await client.until_close() or (None,))[0]
    return error


@pytest.mark.parametrize(
    ("scenario", "reason", "status"),
    [
        ("drop", "dropped_early", "none"),
        ("reset", "dropped_early", "none"),
        ("overloaded", "upstream_overloaded", "1013"),
    ],
)
async def test_end_of_the_connection_at_the_start_is_reported_alike(scenario: str, reason: str, status: str) -> None:
    """Without an event of the provider."""
    async with failing_relay(scenario) as relay:
        client = await open_raw(relay.app.public_port, PATH)
        client.send_event(**START)
        events = []
        while (event := await client.next_event()) is not None:
            events.append(event["error"])
        await client.close()
        assert CATALOGUE[reason].close_code == (await client.until_close() or (None,))[0]
        await eventually(lambda: bool(counted_failures(relay)))
        check_report(relay, events[-1], reason, "session_start", status)


@pytest.mark.parametrize(
    ("path", "start", "route"),
    [
        (f"/v1/realtime?model={MODEL}", None, "/v1/live/sessions"),
        (PATH, START | {"session": {"model": "gpt-realtime"}}, "/v1/realtime"),
    ],
)
async def test_model_of_the_other_api_is_sent_to_its_route(path: str, start: dict[str, Any] | None, route: str) -> None:
    """Both are `model_not_found`, with a remedy that names the right route."""
    async with failing_relay("good") as relay:
        client = await open_raw(relay.app.public_port, path)
        error = client.answer.error if start is None else await other_model(client, start)
        await client.close()
        assert "model_not_found" == error["code"]
        assert route in error["remedy"]


async def other_model(client: RawClient, start: dict[str, Any]) -> dict[str, Any]:
    """The relay's error for a start with a model that GPT-Live does not have."""
    client.send_event(**start)
    await client.next_event()
    error: dict[str, Any] = (await client.next_event())["error"]
    return error


async def test_attach_to_an_unknown_session_is_reported() -> None:
    """The provider answers 404 to the upgrade."""
    async with failing_relay("good") as relay:
        client = await open_raw(relay.app.public_port, f"{PATH}/live_u1_ABCDEFGHIJKLMNOPQRSTU/attach")
        await client.close()
        assert 404 == client.answer.status
        check_report(relay, client.answer.error, "call_not_found", "upgrade", "404")
