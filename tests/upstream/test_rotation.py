"""Key rotation: a new key in the file is used without a restart, a rejected one is not."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.simulator import Simulator, SimulatorOptions
from service.upstream import file_reader, rotation
from tests.support.harness import Relay, eventually, open_raw, running_relay

OLD, NEW, LATER = "sk-sim-good-CANARY0old0key", "sk-sim-good-CANARY0new0key", "sk-sim-good-CANARY0later0key"
REFUSED = "sk-sim-key-rejected-CANARY0"
TIMEOUT = aiohttp.ClientTimeout(total=60)


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a key that works. It is polled often."""
    monkeypatch.setattr(rotation, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(rotation, "MAX_RETRY_SECONDS", 0.05)
    path = tmp_path / "key"
    path.write_text(OLD + "\n")
    return path


@asynccontextmanager
async def relay_with(key_file: Path, **settings: Any) -> AsyncIterator[tuple[Relay, Simulator]]:
    """Run a relay with a key from a file, after its first health check."""
    async with (
        Simulator(SimulatorOptions(pace=0)) as simulator,
        running_relay(simulator=simulator, OPENAI_API_KEY="", OPENAI_API_KEY_FILE=str(key_file), **settings) as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(30)
        yield relay, simulator


def put(path: Path, text: str) -> None:
    """Write a small file."""
    path.write_text(text)


def key_of(relay: Relay) -> str | None:
    """The key that the next dial will use."""
    key = relay.app.connector.dialler.target.key
    return key.reveal() if key is not None else None


def rotations(relay: Relay, result: str) -> float:
    """The number of new keys with this result."""
    return relay.metric("realtime_relay_key_rotations_total", result=result)


async def notes(relay: Relay) -> list[str]:
    """The notes of detailed health."""
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.get(f"{relay.internal_url}/healthz?verbose") as reply,
    ):
        return list((await reply.json(content_type=None))["notes"])


async def test_new_key_is_used_for_new_sessions(key_file: Path) -> None:
    """An open session keeps its connection; the log has the fingerprint only."""
    async with relay_with(key_file) as (relay, simulator):
        first = await open_raw(relay.app.public_port)
        assert (await first.next_event())["type"] == "session.created"
        put(key_file, NEW + "\n")
        await eventually(lambda: rotations(relay, "taken") == 1)
        second = await open_raw(relay.app.public_port)

        assert 101 == second.answer.status
        assert NEW == key_of(relay)
        first.send_event(type="conversation.item.retrieve", item_id="none")
        assert (await first.next_event())["type"] == "error"  # the open session still works
        assert "sha256:" in relay.events("key.rotated")[0]["fingerprint"]
        assert simulator.open_count >= 2
        assert "CANARY0" not in str(relay.logs) + relay.used_series()
        for client in (first, second):
            await client.close()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (REFUSED, "key_rejected"),
        ("sk-sim-quota-exhausted-CANARY0", "quota_exhausted"),
        ("sk-sim-model-not-found-CANARY0", "model_not_found"),
        ('"sk-sim-good-CANARY0quoted"', "key_malformed"),
        (f"{NEW}\r", "key_malformed"),
        ("Bearer CANARY0", "key_malformed"),
    ],
)
async def test_rejected_key_does_not_replace_a_working_one(key_file: Path, bad: str, reason: str) -> None:
    """Log, metric and detailed health report it; the next working key is used, and clears the metric and the note."""
    async with relay_with(key_file) as (relay, _):
        put(key_file, bad)
        await eventually(lambda: rotations(relay, "refused") == 1)
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert (101, OLD) == (client.answer.status, key_of(relay))
        assert [reason] == [line["reason"] for line in relay.events("key.rotation_refused")]
        assert reason in str(await notes(relay))
        assert relay.app.monitor.key.status == "pass"
        assert 1 == relay.metric("realtime_relay_key_file_refused")

        put(key_file, LATER)
        await eventually(lambda: rotations(relay, "taken") == 1)
        assert 1 == rotations(relay, "refused")
        assert 0 == relay.metric("realtime_relay_key_file_refused")
        assert reason not in str(await notes(relay))
        assert "CANARY0" not in str(relay.logs) + relay.used_series() + str(await notes(relay))


async def test_previous_key_in_the_file_again_clears_the_rejection(key_file: Path) -> None:
    """It is not counted as a rotation."""
    async with relay_with(key_file) as (relay, _):
        put(key_file, REFUSED)
        await eventually(lambda: rotations(relay, "refused") == 1)
        put(key_file, OLD)
        await eventually(lambda: relay.metric("realtime_relay_key_file_refused") == 0)

        assert 0 == rotations(relay, "taken")
        assert "key_rejected" not in str(await notes(relay))


async def test_sighup_checks_the_file_without_waiting_for_the_poll(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the signal handler calls returns True if a file is watched."""
    monkeypatch.setattr(rotation, "POLL_SECONDS", 600.0)
    async with relay_with(key_file) as (relay, _):
        put(key_file, NEW)
        assert relay.app._check_files()
        await eventually(lambda: rotations(relay, "taken") == 1)


async def test_key_file_that_appears_later_is_used(tmp_path: Path, key_file: Path) -> None:
    """The relay started before its secret was mounted. An empty file does not count as a key."""
    late = tmp_path / "late"
    async with relay_with(late) as (relay, _):
        client = await open_raw(relay.app.public_port)
        assert (424, "key_missing") == (client.answer.status, client.answer.error["code"])
        await client.close()

        put(late, "\n")
        put(late, OLD)
        await eventually(lambda: rotations(relay, "taken") == 1)
        await eventually(lambda: relay.app.monitor.ready)
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert 101 == client.answer.status


@pytest.mark.parametrize(
    ("bad", "reason"), [(REFUSED, "key_rejected"), ("Bearer CANARY0", "key_malformed"), ("", "key_missing")]
)
async def test_key_that_is_put_right_is_reported(key_file: Path, bad: str, reason: str) -> None:
    """One log event and a note in detailed health: the operator who corrects a key waits for that."""
    put(key_file, bad)
    async with relay_with(key_file) as (relay, _):
        await eventually(lambda: relay.app.monitor.key.reason == reason)
        put(key_file, NEW)
        await eventually(lambda: relay.events("key.recovered"))
        [line] = relay.events("key.recovered")

        assert (reason, "info") == (line["reason"], line["log_level"])
        assert f"before, it failed with {reason}." in line["message"]
        assert line["message"] in await notes(relay)


async def test_new_key_closes_the_breaker(key_file: Path) -> None:
    """After a refused key, clients connect as soon as the new one is used, before the breaker's trial is due."""
    put(key_file, REFUSED)
    async with relay_with(key_file) as (relay, _):
        await eventually(relay.app.monitor.is_key_refused)
        client = await open_raw(relay.app.public_port)
        assert 424 == client.answer.status
        await client.close()
        assert relay.app.connector.breaker.is_open

        put(key_file, NEW)
        await eventually(lambda: rotations(relay, "taken") == 1)
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert 101 == client.answer.status


async def test_temporary_failure_delays_a_rotation(key_file: Path) -> None:
    """The new key is tried again; the previous one stays in use meanwhile."""
    async with relay_with(key_file, RELAY_DIAL_TIMEOUT_SECONDS="0.3") as (relay, _):
        put(key_file, "sk-sim-http-503-CANARY0")
        await eventually(lambda: len(relay.events("key.rotation_delayed")) >= 2)
        assert OLD == key_of(relay)

        put(key_file, NEW)
        await eventually(lambda: key_of(relay) == NEW)
        assert "CANARY0" not in str(relay.logs)


async def test_key_behind_a_swapped_symlink_is_used(tmp_path: Path, key_file: Path) -> None:
    """Kubernetes replaces a mounted secret by swapping a symlink to a directory."""
    for number, key in ((1, OLD), (2, NEW)):
        (tmp_path / f"data{number}").mkdir()
        (tmp_path / f"data{number}" / "openai").write_text(key)
    link = tmp_path / "..data"
    link.symlink_to("data1")
    async with relay_with(link / "openai") as (relay, _):
        (tmp_path / "..next").symlink_to("data2")
        (tmp_path / "..next").rename(link)
        await eventually(lambda: key_of(relay) == NEW)


async def test_hung_mount_is_reported_and_holds_nothing(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that does not return: the key in use stays, no second read is started, and a later answer is accepted."""
    answers = threading.Event()
    reads = []
    read = rotation.KeyFileWatcher._read

    def hang(self: rotation.KeyFileWatcher) -> str:
        reads.append(threading.current_thread())
        answers.wait()
        return read(self)

    async with relay_with(key_file) as (relay, _):
        monkeypatch.setattr(file_reader, "READ_SECONDS", 0.05)
        monkeypatch.setattr(rotation.KeyFileWatcher, "_read", hang)
        await eventually(lambda: bool(relay.events("key.file_unreadable")))

        assert OLD == key_of(relay)
        assert "did not return" in relay.events("key.file_unreadable")[0]["message"]
        assert any("did not return" in note for note in await notes(relay))
        assert [True] == [thread.daemon for thread in reads]
        put(key_file, NEW)
        answers.set()
        await eventually(lambda: key_of(relay) == NEW)
