"""POST /api/doctor: one process at a time, bounded, and never left behind."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from unittest.mock import AsyncMock

import aiohttp
import pytest

from service.web import doctor_process
from service.web.doctor_process import DoctorProcess
from tests.support.console import BEARER, DOCUMENTED, OPERATOR, TOKENS, ask, read, same_shape, shape
from tests.support.harness import eventually, running_relay, simulated_relay, within
from tests.support.relay_process import serving
from tests.support.tcp_server import reset


async def test_real_doctor_prints_its_steps() -> None:
    """From the process's own environment to the first event."""
    async with simulated_relay(None, **TOKENS) as relay:
        answer = await within(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR | BEARER), 100)
        body = answer.json
        assert (200, True) == (answer.status, body["ok"]), body
        assert same_shape(shape(DOCUMENTED["POST /api/doctor"]["rungs"]), shape(body["rungs"]))
        assert {"settings", "key", "tcp"} <= {rung["name"] for rung in body["rungs"]}
        assert b"CANARY" not in answer.body
        assert not (await read(relay, "/api/overview"))["doctor_running"]


async def test_one_doctor_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request is refused until the first has its answer."""
    started, finish, runs = asyncio.Event(), asyncio.Event(), []

    async def run(_: DoctorProcess) -> dict[str, Any]:
        runs.append(1)
        started.set()
        await finish.wait()
        return {"ok": True, "rungs": []}

    monkeypatch.setattr(DoctorProcess, "run", run)
    async with simulated_relay() as relay:
        url = relay.internal_url + "/api/doctor"
        first = asyncio.ensure_future(ask(url, "POST", OPERATOR))
        await within(started.wait(), 10)
        for _ in range(3):
            answer = await ask(url, "POST", OPERATOR)
            assert (409, "doctor_busy") == (answer.status, answer.code)
        assert (await read(relay, "/api/overview"))["doctor_running"]
        finish.set()
        assert 200 == (await within(first, 10)).status
        assert 200 == (await ask(url, "POST", OPERATOR)).status
        assert 2 == len(runs)


WAITS: Final = "import sys, time; time.sleep(60)"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """The processes that the relay starts; each waits for a minute."""
    started: list[asyncio.subprocess.Process] = []
    original: Callable[..., Awaitable[asyncio.subprocess.Process]] = asyncio.create_subprocess_exec

    async def start(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        started.append(await original(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(doctor_process, "_PROGRAM", WAITS)
    return started


async def test_doctor_is_ended_at_its_bound(
    monkeypatch: pytest.MonkeyPatch, processes: list[asyncio.subprocess.Process]
) -> None:
    """The process is gone before the answer."""
    monkeypatch.setattr(doctor_process, "DOCTOR_SECONDS", 0.5)
    async with simulated_relay() as relay:
        answer = await within(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR), 30)
        assert (504, "doctor_timeout") == (answer.status, answer.code)
        assert all(process.returncode is not None for process in processes)
        assert len(processes) <= 1


async def test_doctor_ends_with_the_connection_that_asked_for_it(processes: list[asyncio.subprocess.Process]) -> None:
    """And with the relay; the next request finds it free."""
    async with simulated_relay() as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.app.internal_port)
        writer.write(b"POST /api/doctor HTTP/1.1\r\nHost: localhost\r\nRelay-Operator: 1\r\n\r\n")
        await eventually(lambda: len(processes) == 1, 20)
        reset(writer)  # a FIN alone keeps the request, as with `nc -N`
        await eventually(lambda: processes[0].returncode is not None, 20)
        again = asyncio.ensure_future(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR))
        await eventually(lambda: len(processes) == 2, 20)
    await eventually(lambda: processes[1].returncode is not None, 20)
    await asyncio.wait([again], timeout=20)


async def test_doctor_needs_memory_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the relay in its container it could have the kernel end the relay."""
    monkeypatch.setattr("service.machine.memory_used_bytes", lambda: 100 << 20)
    async with simulated_relay() as relay:
        monkeypatch.setattr("service.machine.memory_limit_bytes", lambda: 150 << 20)
        answer = await ask(relay.internal_url + "/api/doctor", "POST", OPERATOR)
        assert (503, "doctor_needs_memory") == (answer.status, answer.code)
        monkeypatch.setattr(DoctorProcess, "run", AsyncMock(return_value={"ok": True}))
        for limit in (None, 200 << 20):
            monkeypatch.setattr("service.machine.memory_limit_bytes", lambda limit=limit: limit)
            assert 200 == (await ask(relay.internal_url + "/api/doctor", "POST", OPERATOR)).status


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_doctor_never_outlives_the_relay(end: signal.Signals) -> None:
    """A provider that answers nothing holds it for seconds; the process that asks reads no answer."""
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1"
    async with (
        silent,
        serving(RELAY_UPSTREAM="openai", OPENAI_BASE_URL=url, RELAY_DRAIN_SECONDS="0") as (relay, _, internal),
    ):
        request = asyncio.ensure_future(ask(internal + "/api/doctor", "POST", OPERATOR))
        await eventually(lambda: len(doctors_of(relay.process.pid)) == 1, 30)
        [doctor] = doctors_of(relay.process.pid)
        await eventually(lambda: "1000" == (doctor / "oom_score_adj").read_text().strip(), 30)
        relay.process.send_signal(end)
        await within(relay.rest(), 60)
        await eventually(lambda: not is_running(doctor), 30)
        with suppress(aiohttp.ClientError):
            await within(request, 30)


def doctors_of(pid: int) -> list[Path]:
    """The doctors among the children of a process, by their folder in /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    folders = [Path(f"/proc/{child}") for child in children]
    return [folder for folder in folders if b"doctor" in (folder / "cmdline").read_bytes()]


def is_running(folder: Path) -> bool:
    """Whether the process exists and is no zombie."""
    with suppress(OSError):
        return ") Z " not in (folder / "stat").read_text(encoding="utf-8")
    return False


async def test_doctor_without_a_document_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it cannot be started."""
    for program in ("print('no document')", "print('[]')", "raise SystemExit(1)"):
        monkeypatch.setattr(doctor_process, "_PROGRAM", program)
        async with running_relay(simulator=None, intervals=None, adjust=None, RELAY_UPSTREAM="simulator") as relay:
            answer = await within(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR), 30)
            assert (500, "doctor_failed") == (answer.status, answer.code)
