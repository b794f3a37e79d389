"""Each reason is caused for real; client, log, metrics, health and documents report it alike."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.failures import ADMISSION_FAILURES, CATALOGUE, DIAL_FAILURES, ENDINGS, Row
from tests.failure_surfaces.failing_relays import PATH, FailingRelay, provider_scenario
from tests.failure_surfaces.failure_setups import FAILURE_SETUPS
from tests.support.harness import Relay, eventually, open_raw
from tests.support.remedies import as_operators_read

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = {"Origin": "http://localhost:3000"}
NOT_IN_HEALTH = {
    "call_not_found",
    "client_left",
    "policy_rejected",
    "session_rejected",
}  # of one client; health checks have no call_id, policy or client secret


def test_every_failure_has_a_setup() -> None:
    """All refusals and dial failures except `client_left`, which has its own test, and what no WebSocket can cause."""
    assert {*ADMISSION_FAILURES, *DIAL_FAILURES} - {"client_left", "too_many_secrets"} == set(FAILURE_SETUPS)


@pytest.mark.parametrize("reason", FAILURE_SETUPS)
async def test_all_surfaces_report_the_same_failure(reason: str) -> None:
    """HTTP body, error event and close frame, log lines, metrics, health and documents agree."""
    row = CATALOGUE[reason]
    async with FAILURE_SETUPS[reason]() as failing:
        plain_error = await connect_without_origin(failing, row)
        failing.relay.app.connector.breaker.reset()  # answers from memory: tests/upstream/test_breaker.py
        browser_error = await connect_as_browser(failing, row)

        assert without_session_id(plain_error) == without_session_id(browser_error)
        lines = check_log(failing, row, plain_error["remedy"])
        session_ids = {plain_error["session_id"], browser_error["session_id"]}
        assert session_ids == {line["session_id"] for line in lines}
        check_counts(failing, row)
        health = await check_health(failing.relay, row, plain_error["remedy"])
        output = (
            json.dumps([plain_error, browser_error, health], default=str)
            + str(failing.relay.logs)
            + failing.relay.used_series()
        )
    assert "CANARY" not in output
    check_documents(row)


async def connect_without_origin(failing: FailingRelay, row: Row) -> dict[str, Any]:
    """The error of a client that is not a browser: an HTTP status and a JSON body."""
    client = await open_raw(failing.port, failing.path, failing.headers)
    await client.close()
    answer, error = client.answer, dict(client.answer.error)

    assert row.http_status == answer.status
    assert ("Retry-After" in answer.headers) is (row.http_status in {402, 429, 503})
    check_error(error, row, failing.remedy)
    return error


async def connect_as_browser(failing: FailingRelay, row: Row) -> dict[str, Any]:
    """The error of a browser: an error event and a close frame, or an HTTP status if the reason has no close code."""
    client = await open_raw(failing.port, failing.path, ORIGIN | dict(failing.headers))
    if row.close_code is None:
        assert row.http_status == client.answer.status
        error = dict(client.answer.error)
    else:
        assert client.answer.status == 101
        event = await client.next_event()
        code, text = await client.until_close() or (None, "")
        assert "error" == event["type"]
        error = dict(event["error"])
        # Code and text are the catalogue's, or a private code of the provider with a reason of its shape.
        assert (row.close_code, row.close_text) == (code, text) or (
            code in range(3000, 5000) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", text)
        )
        assert len(text.encode()) <= 123
    await client.close()
    check_error(error, row, failing.remedy)
    return error


def check_error(error: dict[str, Any], row: Row, remedy: str | None) -> None:
    """The error has the catalogue's sentence and retry. Its remedy can be a hint, the same at every surface."""
    assert ("relay_error", row.reason, row.sentence, row.retry.value) == (
        error["type"], error["code"], error["message"], error["retry"]
    )  # fmt: skip
    assert re.fullmatch(r"[^{}]+\.", error["remedy"])
    assert remedy in {None, error["remedy"]}


def without_session_id(error: dict[str, Any]) -> dict[str, Any]:
    """The error without its session_id, which differs between connections."""
    return {name: value for name, value in error.items() if name != "session_id"}


def check_log(failing: FailingRelay, row: Row, remedy: str) -> list[Any]:
    """One log line for each of the two connections, with the catalogue's sentence and level; returns the lines."""
    names = {"admission.refused", "upstream.connect_failed"}
    lines = [line for line in failing.relay.logs if line["event"] in names][failing.earlier_failures :]

    assert 2 == len(lines)
    for line in lines:
        assert (row.reason, row.sentence, row.runbook) == (line["reason"], line["message"], line["runbook"])
        assert as_operators_read(row, remedy).fullmatch(line["remedy"])
        assert row.level.name.lower() == line["log_level"]
    return lines


def check_counts(failing: FailingRelay, row: Row) -> None:
    """Both connections are counted with the reason, and only the setup's own failures besides them."""
    family = next(iter(failing.relay.app.metrics.connection_failures.collect()))
    samples = [sample for sample in family.samples if sample.name.endswith("_total")]

    assert 2 == sum(sample.value for sample in samples if sample.labels["reason"] == row.reason)
    assert 2 + failing.earlier_failures == sum(sample.value for sample in samples)


async def check_health(relay: Relay, row: Row, remedy: str) -> Any:
    """Detailed health reports failures of the provider with the client's texts; returns its body."""
    await relay.app.monitor.wait_for_first_refresh(30)
    async with aiohttp.ClientSession() as session, session.get(f"{relay.internal_url}/healthz?verbose") as response:
        body = await response.json(content_type=None)
    if row.reason in DIAL_FAILURES and row.reason not in NOT_IN_HEALTH:
        entry = body["checks"]["upstream:handshake"][0]
        assert row.reason == entry["reason"]
        assert row.sentence in entry["output"]
        assert as_operators_read(row, remedy).search(entry["output"])
        assert row.runbook == entry["runbook"]
    return body


def check_documents(row: Row) -> None:
    """docs/failures.md has the catalogue's texts, and the runbook has a section for the reason."""
    text = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    section = text.split(f"### {row.reason}\n", 1)[1].split("\n### ", 1)[0]

    assert row.sentence in section
    assert row.remedy in section
    assert row.operator_action in section
    page, _, anchor = row.runbook.partition("#")
    assert f"\n### {anchor}\n" in (ROOT / page).read_text(encoding="utf-8")


async def test_client_left_is_logged_and_counted() -> None:
    """A client that disconnects during the dial receives nothing; log and metric report `client_left`."""
    async with provider_scenario("hang", RELAY_MAX_DIALS="5")() as failing:
        relay = failing.relay
        row = CATALOGUE["client_left"]
        attempt = asyncio.create_task(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: relay.simulator is not None and relay.simulator.open_count >= 2)
        attempt.cancel()
        await asyncio.wait([attempt])
        await eventually(lambda: bool(relay.events("upstream.connect_failed")))
        (line,) = relay.events("upstream.connect_failed")

        assert (row.reason, row.sentence, "info") == (line["reason"], line["message"], line["log_level"])
        family = next(iter(relay.app.metrics.connection_failures.collect()))
        counted_reasons = [
            sample.labels["reason"] for sample in family.samples if sample.value and sample.name.endswith("_total")
        ]
        assert ["client_left"] == counted_reasons


def test_every_ending_has_a_socket_test() -> None:
    """tests/relay names each ending; it checks what both sides receive, the metric and the log line."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "relay").glob("test_*.py"))

    assert [] == [reason for reason in ENDINGS if f'"{reason}"' not in texts]
    for row in ENDINGS.values():
        check_documents(row)
