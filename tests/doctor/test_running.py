"""The relay that already runs here: its upstream, its troubles, and whether it has seen the newest settings."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from service.doctor.running import RunningRelay, judge, query_relay
from service.settings import Settings
from tests.support.doctor_chain import answering, bare_server, run_provider_chain
from tests.support.harness import running_relay, simulated_relay


async def test_a_relay_that_runs_is_recognised(tmp_path: Path) -> None:
    """A relay on the internal port is told with version, upstream and age; with the same settings nothing is odd."""
    async with simulated_relay() as relay:
        assert relay.simulator is not None
        environ = {
            "OPENAI_API_KEY": "sk-sim-good",
            "OPENAI_BASE_URL": relay.simulator.url,
            "RELAY_INTERNAL_PORT": str(relay.app.internal_port),
        }
        report = await run_provider_chain(environ, tmp_path)

    assert "ok" == report["running"].status
    assert report["running"].finding.startswith("a relay 0.")
    assert "upstream compatible, started " in report["running"].finding


async def test_a_file_newer_than_the_relay(tmp_path: Path) -> None:
    """A .env that was changed after the relay's start warns that it has to be restarted."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-sim-good\n")
    future = time.time() + 3600
    os.utime(tmp_path / ".env", (future, future))
    async with running_relay(RELAY_UPSTREAM="simulator") as relay:
        port = str(relay.app.internal_port)
        report = await run_provider_chain({"RELAY_UPSTREAM": "simulator", "RELAY_INTERNAL_PORT": port}, tmp_path)

    assert "warn" == report["running"].status
    assert ".env was changed after that relay started. Restart it" in report.notes("running")
    assert report.failed_step is None


async def test_another_upstream_and_its_troubles() -> None:
    """A relay with another upstream than the settings name, and one whose health fails, are told."""
    async with running_relay(RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-quota-exhausted") as relay:
        settings = Settings(internal_port=relay.app.internal_port)
        found = judge(await query_relay(settings), settings, "openai", [])

    assert "warn" == found.status
    assert "That relay uses simulator, but the settings here name openai" in found.notes[0]
    assert "Its own health check says handshake: fail (quota_exhausted)." in found.notes


@pytest.mark.parametrize(
    "body",
    ["hello", "[]", "{}", json.dumps({"serviceId": "another"}), json.dumps({"serviceId": 7}), "\ud83d\ude00"[:0]],
)
async def test_another_program_on_the_port(body: str) -> None:
    """Whatever else answers there is not taken for a relay."""
    async with bare_server(answering("200 OK", body)) as port:
        settings = Settings(internal_port=port)
        found = judge(await asyncio.wait_for(query_relay(settings), 5), settings, "openai", [])

    assert ("skipped", f"no relay answers on 127.0.0.1 port {port}") == (found.status, found.finding)


def test_ages_are_told_in_words() -> None:
    """Seconds, minutes, hours and days."""
    now = time.time()
    for age, words in ((5, "s ago"), (180, "3 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")):
        found = judge(RunningRelay("openai", "1", now - age), Settings(), "openai", [])
        assert words in found.finding
