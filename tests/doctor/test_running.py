"""The step `running`: a relay on this machine, its upstream, its health, and settings that changed after its start."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from service.doctor import running
from service.doctor.running import RunningRelay, compare, query_relay
from service.settings import Settings
from tests.support.doctor_chain import http_response, run_provider_chain, tcp_server
from tests.support.harness import running_relay, simulated_relay, within


async def test_running_relay_with_the_same_settings_passes(tmp_path: Path) -> None:
    """The finding has version, upstream and age."""
    async with simulated_relay() as relay:
        assert relay.simulator is not None
        environ = {
            "OPENAI_API_KEY": "sk-sim-good",
            "OPENAI_BASE_URL": relay.simulator.url,
            "RELAY_INTERNAL_PORT": str(relay.app.internal_port),
        }
        report = await run_provider_chain(environ, tmp_path)

    assert "ok" == report["running"].status
    assert report["running"].finding.startswith("relay 0.")
    assert "is running, upstream compatible, started " in report["running"].finding


async def test_relay_on_any_free_port_is_not_asked(tmp_path: Path) -> None:
    """The finding names the setting, and what makes a relay known."""
    report = await run_provider_chain({"RELAY_UPSTREAM": "simulator", "RELAY_INTERNAL_PORT": "0"}, tmp_path)

    assert "skipped" == report["running"].status
    assert "RELAY_INTERNAL_PORT is 0" in report["running"].finding
    assert "set RELAY_INTERNAL_PORT to a fixed port" in report.text("running")


async def test_env_file_newer_than_running_relay_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay reads its settings only at startup, so that a later change has no effect until a restart."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-sim-good\n")
    # In place of a process that started long ago.
    monkeypatch.setattr(running, "_START_TIME_ERROR_SECONDS", -100_000_000)
    async with running_relay(RELAY_UPSTREAM="simulator") as relay:
        port = str(relay.app.internal_port)
        report = await run_provider_chain({"RELAY_UPSTREAM": "simulator", "RELAY_INTERNAL_PORT": port}, tmp_path)

    assert "warn" == report["running"].status
    assert re.search(
        r"\.env was changed at 20.*, after the running relay started \(20.*\)\. Restart", report.text("running")
    )
    assert report.failed_step is None


@pytest.mark.parametrize("offset", [-3600, 0, 1, 3600, 1_000_000])
def test_env_file_of_the_same_time_or_of_the_future_is_not_newer(tmp_path: Path, offset: int) -> None:
    """A file that was written before the start, whatever its modification time is: archives and other clocks set it."""
    (tmp_path / ".env").write_text("RELAY_MODEL=m\n")
    now = time.time()
    os.utime(tmp_path / ".env", (now + offset, now + offset))
    relay = RunningRelay("openai", "1", now - 1)  # the start time of a process is known to the second

    assert () == tuple(compare(relay, Settings(), "openai", [tmp_path / ".env"]).notes)


def test_written_env_file_is_newer_than_a_relay_of_yesterday(tmp_path: Path) -> None:
    """Both times of the file are later."""
    (tmp_path / ".env").write_text("RELAY_MODEL=m\n")
    [note] = compare(RunningRelay("openai", "1", time.time() - 86_400), Settings(), "openai", [tmp_path / ".env"]).notes

    assert note.startswith(".env was changed at ")


async def test_port_in_use_is_reported_with_the_process() -> None:
    """Where no relay answers, the doctor names what a start would fail with."""
    async with tcp_server(http_response("200 OK", "hello")) as port:
        settings = Settings(port=port, internal_port=0)
        finding = compare(None, settings, "openai", [])

    assert "warn" == finding.status
    assert (
        f"RELAY_PORT: cannot listen on 127.0.0.1 port {port}: Address already in use by process {os.getpid()}"
        in finding.notes[0]
    )
    assert f"Stop process {os.getpid()}, or set RELAY_PORT to another port." in finding.notes[0]


async def test_running_relay_with_another_upstream_or_failed_health_warns() -> None:
    """Both are reported, each in a note of its own."""
    async with running_relay(RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-quota-exhausted") as relay:
        settings = Settings(internal_port=relay.app.internal_port)
        finding = compare(await query_relay(settings), settings, "openai", [])

    assert "warn" == finding.status
    assert "The running relay uses simulator, but these settings select openai" in finding.notes[0]
    assert "Its /healthz reports handshake: fail (quota_exhausted)." in finding.notes


@pytest.mark.parametrize(
    "body",
    ["hello", "[]", "{}", json.dumps({"serviceId": "another"}), json.dumps({"serviceId": 7}), "\ud83d\ude00"[:0]],
)
async def test_other_program_on_internal_port_is_not_a_relay(body: str) -> None:
    """Only a response with the relay's serviceId counts."""
    async with tcp_server(http_response("200 OK", body)) as port:
        settings = Settings(internal_port=port)
        finding = compare(await within(query_relay(settings), 5), settings, "openai", [])

    assert f"no relay answers on 127.0.0.1 port {port}" == finding.text


def test_age_of_running_relay_is_in_seconds_minutes_hours_or_days() -> None:
    """The largest unit that fits is used."""
    now = time.time()
    for age, text in ((5, "s ago"), (180, "3 min ago"), (7300, "2 h ago"), (200_000, "2 d ago")):
        finding = compare(RunningRelay("openai", "1", now - age), Settings(), "openai", [])
        assert text in finding.text
