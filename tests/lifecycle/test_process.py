"""The program as a process: settings, start, signals, drain, exit codes."""

import asyncio
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from service.failures import CATALOGUE
from tests.support.harness import RawClient, open_raw
from tests.support.relay_process import ROOT, environment, get, run, serving


def test_all_mistakes_are_reported_and_nothing_starts() -> None:
    """Bad settings end with exit code 2 and one line for each mistake, none of which shows a secret."""
    result = run(
        "serve",
        RELAY_PORT="eighty",
        RELAY_ACCESS="maybe",
        OPENAI_BASE_URL="http://example.com/v1",
        RELAY_CLIENT_TOKENS="CANARY token with blanks",
        RELAY_DIAL_TIMEOUT_SECONDS="nan",
    )

    assert result.returncode == 2
    for name in ("RELAY_PORT", "RELAY_ACCESS", "OPENAI_BASE_URL", "RELAY_CLIENT_TOKENS", "RELAY_DIAL_TIMEOUT_SECONDS"):
        assert f"{name}=" in result.stderr
    assert "CANARY" not in result.stderr
    assert "service.started" not in result.stderr


def test_a_port_in_use_is_told() -> None:
    """A port that somebody else has ends with exit code 1 and names the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", RELAY_UPSTREAM="simulator", RELAY_PORT=str(taken.getsockname()[1]))

    assert result.returncode == 1
    assert "RELAY_PORT: cannot listen on 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_settings_are_printed() -> None:
    """`settings` prints the reference of every setting."""
    result = run("settings")

    assert result.returncode == 0
    assert "OPENAI_API_KEY or OPENAI_API_KEY_FILE" in result.stdout


def test_a_mistyped_option_repeats_no_value() -> None:
    """What follows an option that does not exist may be a secret; the error names the option only."""
    done = run("doctor", "--tokn", "CANARY", "--tokn=CANARY")

    assert 2 == done.returncode
    assert "--tokn" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


def test_a_reader_that_has_enough_is_no_error() -> None:
    """`settings | head` ends without a traceback, and a machine without the dependencies is told where they are."""
    command = f"{sys.executable} -m service settings | head -1; {sys.executable} -S -m service settings"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
    )

    assert "Traceback" not in done.stderr
    assert "is not installed here" in done.stderr
    assert done.stdout.startswith("Read from")


def test_a_probe_of_nobody_fails() -> None:
    """`probe` says no when no relay answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    assert run("probe", "livez", RELAY_INTERNAL_PORT=port).returncode == 1


async def test_without_a_key_the_simulator_stands_in(tmp_path: Path) -> None:
    """`auto` without a key says so in one line, and prints the URL to use; no TLS secrets are written anywhere."""
    keylog = tmp_path / "keys.log"
    async with serving(SSLKEYLOGFILE=str(keylog)) as (process, port, internal):
        stands_in = [line for line in process.lines if line["event"] == "simulator.stands_in"]
        started = process.lines[-1]

        assert len(stands_in) == 1
        assert "No key was found" in stands_in[0]["message"]
        assert started["url"] == f"ws://127.0.0.1:{port}/v1/realtime?model=gpt-realtime"
        assert started["upstream"] == "simulator"
        assert await get(f"{internal}/healthz?verbose") == 200
        probe = await asyncio.to_thread(run, "probe", "readyz", RELAY_INTERNAL_PORT=str(urlsplit(internal).port))
        assert probe.returncode == 0
    assert not keylog.exists()


async def test_without_a_key_openai_is_not_simulated() -> None:
    """By default a missing key is a missing key: /readyz stays shut, /healthz fails, /livez is well, callers are told."""
    async with serving(RELAY_UPSTREAM="openai") as (_, port, internal):
        client = await open_raw(port)
        await client.close()

        assert (client.answer.status, client.answer.error["code"]) == (424, "key_missing")
        assert [503, 503, 200] == [await get(f"{internal}/{path}") for path in ("readyz", "healthz", "livez")]
        assert await get(f"{internal}/healthz?exclude=key&exclude=handshake") == 200


async def test_sigterm_when_idle() -> None:
    """With nobody connected the process ends at once, with exit code 0."""
    async with serving() as (process, _, _):
        process.process.send_signal(signal.SIGTERM)

        assert await asyncio.wait_for(process.rest(), 3) == 0


async def say_and_hear(client: RawClient) -> None:
    """One event each way."""
    client.send_event(type="session.update", session={"type": "realtime"})
    assert (await client.next_event())["type"] == "session.updated"


async def test_sigterm_with_ten_sessions() -> None:
    """Readiness closes and newcomers are refused while calls go on both ways; at the deadline the rest get 1001; exit 0."""
    async with serving(RELAY_DRAIN_SECONDS="1.5") as (process, port, internal):
        clients = [await open_raw(port) for _ in range(10)]
        for client in clients:
            await client.next_event()
        assert await get(f"{internal}/readyz") == 200

        process.process.send_signal(signal.SIGTERM)
        assert (await process.event("drain.started"))["sessions"] == 10
        newcomer = await open_raw(port)
        await newcomer.close()
        assert (newcomer.answer.status, newcomer.answer.error["code"]) == (503, "relay_draining")
        assert [503, 200] == [await get(f"{internal}/{path}") for path in ("readyz", "livez")]
        for client in clients:
            await say_and_hear(client)
        for client in clients[:2]:
            await client.close()

        for client in clients[2:]:
            assert (await client.next_event())["error"]["code"] == "relay_draining"
            assert await client.until_close() == (1001, CATALOGUE["relay_draining"].close_text)
            await client.close()
        assert await process.rest() == 0
        reasons = [line["reason"] for line in process.lines if line["event"] == "session.ended"]
        assert sorted(reasons) == ["client_lost"] * 2 + ["relay_draining"] * 8


async def test_a_second_signal_hurries() -> None:
    """Whoever sends a second signal does not have to wait for the drain."""
    async with serving(RELAY_DRAIN_SECONDS="600") as (process, port, _):
        client = await open_raw(port)
        await client.next_event()
        process.process.send_signal(signal.SIGTERM)
        await process.event("drain.started")
        process.process.send_signal(signal.SIGTERM)

        assert (await client.next_event())["error"]["code"] == "relay_draining"
        await client.close()
        assert await asyncio.wait_for(process.rest(), 8) == 0
