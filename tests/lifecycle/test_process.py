"""The program as a process: settings, start, probes, drain, exit codes."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.failures import CATALOGUE
from tests.support.harness import RawClient, open_raw
from tests.support.relay_process import ROOT, environment, get, run, serving, serving_in
from tools.ports import free_port


def test_rejected_settings_exit_with_2_and_list_every_problem() -> None:
    """Each problem is one line, no line contains a secret, and nothing is started."""
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


def test_port_in_use_exits_with_1_and_names_the_setting() -> None:
    """A port that another process listens on is an error without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("serve", RELAY_UPSTREAM="simulator", RELAY_PORT=str(taken.getsockname()[1]))

    assert result.returncode == 1
    assert "RELAY_PORT: cannot listen on 127.0.0.1" in result.stderr
    assert f"in use by process {os.getpid()} (" in result.stderr
    assert f"Stop process {os.getpid()}, or set RELAY_PORT to another port." in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("host", "reached"), [("[::0]", "[::1]"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2")]
)
async def test_start_names_addresses_at_which_the_relay_answers(host: str, reached: str) -> None:
    """Both URLs of the first log line lead to a listener from this machine, whatever it is bound to."""
    async with serving(
        RELAY_HOST=host, RELAY_INTERNAL_HOST=host, RELAY_CLIENT_TOKENS="a:0123456789abcdef0123", RELAY_ALLOWED_MODELS="m,n"
    ) as relay:  # fmt: skip
        started = relay[0].lines[-1]
        assert started["url"].startswith(f"ws://{reached}:")
        assert started["url"].endswith("?model=m"), "RELAY_MODEL would be refused"
        assert started["health"].startswith(f"http://{reached}:")
        assert await get(started["health"]) == 200
        assert await get(started["url"].replace("ws://", "http://")) == 426


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("RELAY_HOST", "192.0.2.1", "Set RELAY_HOST to an address that 'ip addr' lists"),
        ("RELAY_INTERNAL_HOST", "nowhere.invalid", "Set RELAY_INTERNAL_HOST to an address, such as 127.0.0.1"),
    ],
)
def test_address_that_cannot_be_listened_on_names_the_next_step(setting: str, value: str, remedy: str) -> None:
    """The host is the cause, not the port."""
    tokens = {"RELAY_CLIENT_TOKENS": "web:0123456789abcdef"}
    result = run("serve", RELAY_UPSTREAM="simulator", **{setting: value, **tokens})

    assert 1 == result.returncode
    assert remedy in result.stderr


async def test_signals_at_the_end_do_not_replace_the_exit_code() -> None:
    """Signals are sent until the process is gone."""
    async with serving(RELAY_UPSTREAM="simulator") as (process, _, _):
        ended = asyncio.ensure_future(process.rest())
        while not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.0005)

        assert 0 == await ended


async def test_only_the_main_thread_takes_signals() -> None:
    """Any other could get one in the moment in which it has its default action again."""
    async with serving(RELAY_UPSTREAM="simulator") as (process, _, _):
        taking = threads_that_take(signal.SIGTERM, process.process.pid)
        process.process.terminate()
        await process.rest()

        assert [process.process.pid] == taking


def threads_that_take(number: signal.Signals, pid: int) -> list[int]:
    """The threads of a process that do not block a signal."""
    threads = []
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        found = re.search(r"^SigBlk:\s*(\w+)", status.read_text(encoding="ascii"), re.MULTILINE)
        if found is not None and not int(found[1], 16) >> (number - 1) & 1:
            threads.append(int(status.parent.name))
    return threads


def test_settings_command_prints_the_reference() -> None:
    """`settings` prints every setting."""
    result = run("settings")

    assert result.returncode == 0
    assert "OPENAI_API_KEY or OPENAI_API_KEY_FILE" in result.stdout


def test_error_for_an_unknown_option_hides_its_value() -> None:
    """The value of a misspelt option can be a secret; the error names only the option."""
    done = run("doctor", "--tokn", "CANARY", "--tokn=CANARY")

    assert 2 == done.returncode
    assert "--tokn" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout


def test_closed_stdout_and_missing_dependency_print_no_traceback() -> None:
    """`settings | head` ends silently; without the dependencies the program names the interpreter that has them."""
    command = f"{sys.executable} -m service settings | head -1; {sys.executable} -S -m service serve"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )

    assert "Traceback" not in done.stderr
    assert "is not installed here" in done.stderr
    assert done.stdout.startswith("Settings are read from")


def test_probe_without_a_relay_exits_with_1() -> None:
    """`probe` fails if nothing listens on the internal port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    assert run("probe", "livez", RELAY_INTERNAL_PORT=port).returncode == 1


@pytest.mark.parametrize(
    ("cause", "is_waited_for"),
    [
        ("key_rejected: The provider rejected the relay's key.", False),
        ("draining", False),
        ("not checked yet", True),
        ("connect_refused (1/3): The provider's host refuses connections.", True),
    ],
)
async def test_probe_waits_while_the_failure_may_be_temporary(cause: str, is_waited_for: bool) -> None:
    """With --wait a probe asks again until it gets 200, but prints a definite failure at once."""
    answers = [(503, f"[+]drain ok\n[-]key failed: {cause}\ncheck failed\n"), (200, "check passed\n")]

    async def readyz(_request: web.Request) -> web.Response:
        status, text = answers.pop(0)
        return web.Response(status=status, text=text)

    app = web.Application()
    app.router.add_get("/readyz", readyz)
    async with TestServer(app) as server:
        done = await asyncio.to_thread(run, "probe", "readyz", "--wait", "60", RELAY_INTERNAL_PORT=str(server.port))

    assert (0 if is_waited_for else 1) == done.returncode
    assert is_waited_for is (cause not in done.stdout)
    assert (0 if is_waited_for else 1) == len(answers)


async def test_auto_without_a_key_uses_the_simulator(tmp_path: Path) -> None:
    """One line warns of it, the next has the URL to use; SSLKEYLOGFILE is removed, so no TLS secrets are written."""
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


async def test_openai_without_a_key_is_not_simulated() -> None:
    """By default a missing key closes /readyz and fails /healthz but not /livez, and clients are refused with key_missing."""
    async with serving(RELAY_UPSTREAM="openai") as (_, port, internal):
        client = await open_raw(port)
        await client.close()

        assert (client.answer.status, client.answer.error["code"]) == (424, "key_missing")
        assert [503, 503, 200] == [await get(f"{internal}/{path}") for path in ("readyz", "healthz", "livez")]
        assert await get(f"{internal}/healthz?exclude=key&exclude=handshake") == 200


async def test_sigterm_without_sessions_exits_immediately() -> None:
    """Without an open session the process ends without a drain, with exit code 0."""
    async with serving(RELAY_DRAIN_SECONDS="600") as (process, _, _):
        process.process.send_signal(signal.SIGTERM)

        assert await asyncio.wait_for(process.rest(), 60) == 0


async def exchange_events(client: RawClient) -> None:
    """One event in each direction."""
    client.send_event(type="session.update", session={"type": "realtime"})
    assert (await client.next_event())["type"] == "session.updated"


async def test_sigterm_with_ten_sessions() -> None:
    """/readyz closes and new sessions are refused while open ones continue; at the deadline these are closed with 1001."""
    async with serving(RELAY_DRAIN_SECONDS="1.5") as (process, port, internal):
        clients = [await open_raw(port) for _ in range(10)]
        for client in clients:
            await client.next_event()
        assert await get(f"{internal}/readyz") == 200

        process.process.send_signal(signal.SIGTERM)
        assert (await process.event("drain.started"))["sessions"] == 10
        late = await open_raw(port)
        await late.close()
        assert (late.answer.status, late.answer.error["code"]) == (503, "relay_draining")
        assert [503, 200] == [await get(f"{internal}/{path}") for path in ("readyz", "livez")]
        for client in clients:
            await exchange_events(client)
        for client in clients[:2]:
            await client.close()

        for client in clients[2:]:
            assert (await client.next_event())["error"]["code"] == "relay_draining"
            assert await client.until_close() == (1001, CATALOGUE["relay_draining"].close_text)
            await client.close()
        assert await process.rest() == 0
        reasons = [line["reason"] for line in process.lines if line["event"] == "session.ended"]
        assert sorted(reasons) == ["client_lost"] * 2 + ["relay_draining"] * 8


async def test_second_sigterm_ends_the_drain() -> None:
    """A second SIGTERM closes the open sessions without waiting for the deadline of the drain."""
    async with serving(RELAY_DRAIN_SECONDS="600") as (process, port, _):
        client = await open_raw(port)
        await client.next_event()
        process.process.send_signal(signal.SIGTERM)
        await process.event("drain.started")
        process.process.send_signal(signal.SIGTERM)

        assert (await client.next_event())["error"]["code"] == "relay_draining"
        await client.close()
        assert await asyncio.wait_for(process.rest(), 60) == 0


def test_rejected_settings_name_the_stray_lines_of_env_files(tmp_path: Path) -> None:
    """The line that was not read can be the setting that is missing."""
    (tmp_path / ".env").write_text("RELAY_CLIENT_TOKENS web:0123456789abcdef\nRELAY_ACCESS=tokens\n", encoding="utf-8")
    result = run("serve", directory=str(tmp_path))

    assert 2 == result.returncode
    assert "RELAY_CLIENT_TOKENS=(unset): expected at least one token" in result.stderr
    assert (
        ".env line 1 is not NAME=value and was not read (RELAY_CLIENT_TOKENS); write RELAY_CLIENT_TOKENS=value"
        in result.stderr
    )
    assert "0123456789abcdef" not in result.stderr


def test_env_file_that_is_not_read_whole_exits_with_2(tmp_path: Path) -> None:
    """PowerShell appended the second line as UTF-16: access does not become open, and the misspelt name is reported, too."""
    first = "OPENAI_API_KEY=sk-proj-CANARYaaaaaaaaaaaaaaaaaaaaaaaa\r\nRELAY_PROT=80\r\n"
    (tmp_path / ".env").write_bytes(first.encode() + "RELAY_ACCESS=tokens\r\n".encode("utf-16-le"))
    result = run("serve", directory=str(tmp_path))

    assert 2 == result.returncode
    assert ".env is UTF-16 text from line 3 on" in result.stderr
    assert "not read: RELAY_ACCESS" in result.stderr
    assert "RELAY_PROT is not a setting of the relay (.env); did you mean RELAY_PORT?" in result.stderr
    assert "service.started" not in result.stderr
    assert "CANARY" not in result.stderr


def test_pipe_in_the_place_of_a_file_does_not_block_the_start(tmp_path: Path) -> None:
    """The pipe has no writer. A key file only closes readiness; other files stop the start."""
    os.mkfifo(pipe := tmp_path / "pipe")
    cause = "is a pipe, not a regular file"
    tokens = run("serve", OPENAI_API_KEY_FILE=str(pipe), RELAY_CLIENT_TOKENS_FILE=str(pipe))
    certificates = run("serve", SSL_CERT_FILE=str(pipe))

    assert (2, 2) == (tokens.returncode, certificates.returncode)
    assert f"RELAY_CLIENT_TOKENS_FILE names the file '{pipe}', which {cause}" in tokens.stderr
    assert f"OPENAI_API_KEY_FILE '{pipe}' {cause}" in tokens.stderr
    assert "SSL_CERT_FILE names a pipe, not a regular file; set it to a file" in certificates.stderr


def test_misspelt_name_is_reported_if_the_port_is_in_use() -> None:
    """The misspelt name can be the cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("serve", RELAY_UPSTREAM="simulator", RELAY_PORT=port, RELAY_PROT="8081")

    assert result.returncode == 1
    assert '"variable": "RELAY_PROT"' in result.stderr


async def test_stray_line_in_an_env_file_is_one_log_event(tmp_path: Path) -> None:
    """A line that python-dotenv cannot parse is reported as a log event of the relay; the library itself writes nothing."""
    (tmp_path / ".env").write_text("RELAY_MODEL=m\n'stray\n", encoding="utf-8")
    async with serving_in(tmp_path) as (process, _, _):  # reads each line of stderr as JSON, up to service.started
        odd = [line for line in process.lines if line["event"] == "setting.odd"]

        assert [(".env", "line 2 is not NAME=value and was not read; correct or remove it")] == [
            (o["variable"], o["message"]) for o in odd
        ]
        assert not [line for line in process.lines if "dotenv" in str(line)]
        assert process.lines[-1]["settings"]["RELAY_MODEL"] == "m"


async def test_relay_serves_with_closed_standard_streams() -> None:
    """A supervisor may start it so. It has no log then; before, it exited with 1 and said nothing."""
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", 'exec "$0" -m service serve <&- >&- 2>&-', sys.executable,
        env=environment(RELAY_UPSTREAM="simulator", RELAY_INTERNAL_PORT=str(port := free_port())), cwd="/",
    )  # fmt: skip
    try:
        done = await asyncio.to_thread(run, "probe", "livez", "--wait", "60", RELAY_INTERNAL_PORT=str(port))
        assert 0 == done.returncode
        child.send_signal(signal.SIGUSR1)
        done = await asyncio.to_thread(run, "probe", "livez", RELAY_INTERNAL_PORT=str(port))
        assert 0 == done.returncode
    finally:
        child.terminate()
        assert 0 == await child.wait()
