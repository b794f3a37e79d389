"""The same truth at every surface: each reason is provoked for real, and everybody is told the same."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.failures import CATALOGUE, DIAL_FAILURES, ENDINGS, REFUSALS, Row
from tests.failure_surfaces.provocations import PATH, PROVOCATIONS, Scene, by_key
from tests.support.harness import Relay, eventually, open_raw

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = {"Origin": "http://localhost:3000"}
NOT_OF_THE_PROVIDER = {"call_not_found", "client_left"}  # a caller's own; the health checks ask for no call


def test_every_failure_is_provoked() -> None:
    """A reason without a provocation fails here; the endings are provoked in tests/relay."""
    assert {*REFUSALS, *DIAL_FAILURES} - {"client_left"} == set(PROVOCATIONS)


@pytest.mark.parametrize("reason", PROVOCATIONS)
async def test_all_surfaces_agree(reason: str) -> None:
    """HTTP body, browser's event and close, log lines, counts, health and documents tell of one failure in one way."""
    row = CATALOGUE[reason]
    async with PROVOCATIONS[reason]() as scene:
        plain = await as_plain_client(scene, row)
        scene.relay.app.connector.breaker.succeeded()  # what is said from memory: tests/upstream/test_breaker.py
        seen = await as_browser(scene, row)

        assert without_id(plain) == without_id(seen)
        told = check_log(scene, row)
        assert {plain["session_id"], seen["session_id"]} == {line["session_id"] for line in told}
        check_counts(scene, row)
        health = await check_health(scene.relay, row)
        everything = json.dumps([plain, seen, health], default=str) + str(scene.relay.logs) + scene.relay.metrics_text()
    assert "CANARY" not in everything
    check_documents(row)


async def as_plain_client(scene: Scene, row: Row) -> dict[str, Any]:
    """What a program is told: a status, and the whole error."""
    client = await open_raw(scene.relay.app.public_port, scene.path, scene.headers)
    await client.close()
    answer, error = client.answer, dict(client.answer.error)

    assert row.http_status == answer.status
    assert ("Retry-After" in answer.headers) is (row.http_status in {429, 503})
    check_error(error, row)
    return error


async def as_browser(scene: Scene, row: Row) -> dict[str, Any]:
    """What a page is told: an event and a close, or a status where the reason has no close code."""
    client = await open_raw(scene.relay.app.public_port, scene.path, ORIGIN | dict(scene.headers))
    if row.close_code is None:
        assert row.http_status == client.answer.status
        error = dict(client.answer.error)
    else:
        assert client.answer.status == 101
        event = await client.next_event()
        code, text = await client.until_close() or (None, "")
        assert "error" == event["type"]
        error = dict(event["error"])
        # The provider's own code and the shape of its reason are kept, ours are the catalogue's.
        assert (row.close_code, row.close_text) == (code, text) or (
            code in range(3000, 5000) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", text)
        )
        assert len(text.encode()) <= 123
    await client.close()
    check_error(error, row)
    return error


def check_error(error: dict[str, Any], row: Row) -> None:
    """The error speaks with the catalogue's words."""
    assert ("relay_error", row.reason, row.sentence, row.remedy, row.retry.value) == (
        error["type"], error["code"], error["message"], error["remedy"], error["retry"]
    )  # fmt: skip


def without_id(error: dict[str, Any]) -> dict[str, Any]:
    """An error without what differs from attempt to attempt."""
    return {name: value for name, value in error.items() if name != "session_id"}


def check_log(scene: Scene, row: Row) -> list[Any]:
    """One line for each attempt, with the same words."""
    names = {"admission.refused", "upstream.connect_failed"}
    lines = [line for line in scene.relay.logs if line["event"] in names][scene.before :]

    assert 2 == len(lines)
    for line in lines:
        assert (row.reason, row.sentence, row.remedy, row.runbook) == (
            line["reason"], line["message"], line["remedy"], line["runbook"]
        )  # fmt: skip
        assert row.level.name.lower() == line["log_level"]
    return lines


def check_counts(scene: Scene, row: Row) -> None:
    """Both attempts are counted under the reason, and nothing else is but what the provocation did."""
    family = next(iter(scene.relay.app.metrics.connection_failures.collect()))
    samples = [sample for sample in family.samples if sample.name.endswith("_total")]

    assert 2 == sum(sample.value for sample in samples if sample.labels["reason"] == row.reason)
    assert 2 + scene.before == sum(sample.value for sample in samples)


async def check_health(relay: Relay, row: Row) -> Any:
    """Where the provider refuses, detailed health says so in the same words."""
    await relay.app.monitor.wait_for_first_refresh(5)
    async with aiohttp.ClientSession() as session, session.get(f"{relay.internal_url}/healthz?verbose") as response:
        body = await response.json(content_type=None)
    if row.reason in DIAL_FAILURES and row.reason not in NOT_OF_THE_PROVIDER:
        entry = body["checks"]["upstream:handshake"][0]
        assert row.reason == entry["reason"]
        assert f"{row.sentence} {row.remedy}" in entry["output"]
        assert row.runbook == entry["runbook"]
    return body


def check_documents(row: Row) -> None:
    """The reference has the same words."""
    text = (ROOT / "docs" / "failures.md").read_text(encoding="utf-8")
    part = text.split(f"### {row.reason}\n", 1)[1].split("\n### ", 1)[0]

    assert row.sentence in part
    assert row.remedy in part
    page, _, anchor = row.runbook.partition("#")
    assert f"\n### {anchor}\n" in (ROOT / page).read_text(encoding="utf-8")


async def test_a_client_that_gives_up_is_told_of_to_operators() -> None:
    """`client_left` has nobody to tell but the log and the count, and alerts nobody."""
    async with by_key("hang", RELAY_MAX_DIALS="5")() as scene:
        relay = scene.relay
        row = CATALOGUE["client_left"]
        attempt = asyncio.create_task(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: relay.simulator is not None and relay.simulator.open_count >= 2)
        attempt.cancel()
        await asyncio.wait([attempt])
        await eventually(lambda: bool(relay.events("upstream.connect_failed")))
        (line,) = relay.events("upstream.connect_failed")

        assert (row.reason, row.sentence, "info") == (line["reason"], line["message"], line["log_level"])
        family = next(iter(relay.app.metrics.connection_failures.collect()))
        counted = [
            sample.labels["reason"] for sample in family.samples if sample.value and sample.name.endswith("_total")
        ]
        assert ["client_left"] == counted


def test_every_ending_is_named_by_a_test_on_sockets() -> None:
    """Each ending is provoked in tests/relay, where what both sides are told, the count and the log line are checked."""
    texts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "relay").glob("test_*.py"))

    assert [] == [reason for reason in ENDINGS if f'"{reason}"' not in texts]
    for row in ENDINGS.values():
        check_documents(row)
