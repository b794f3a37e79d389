"""Runs one side: starts wstest, the relay as a process of its own and the other peer, and collects the reports."""

import ast
import asyncio
import json
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance.peers import echo_client, echo_upstream, front
from tests.conformance.wstest import Wstest
from tests.support.harness import KEY_CANARY
from tests.support.relay_process import Process, serving

AGENT: Final = "relay"
FAULTS: Final = {"session.failed", "loop.exception_caught", "task.crashed", "no log event"}
LEAVE_SECONDS: Final = 15
START_SECONDS: Final = 60
CASE_SECONDS: Final = 150
"""The suite gives its largest messages up to 100 seconds; nothing takes longer."""

SETTINGS: Final = {
    "RELAY_UPSTREAM": "openai",
    "OPENAI_API_KEY": KEY_CANARY,
    "RELAY_FIRST_EVENT": "optional",
    "RELAY_MAX_RECONNECTS_PER_MINUTE": "0",
    "RELAY_MAX_MESSAGES_PER_SECOND": "0",
    "RELAY_DRAIN_SECONDS": "0",
}
"""A relay as it ships, but for what a fuzzer needs: an upstream that says nothing first, and many sessions a minute."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What the run of one side left behind."""

    cases: Sequence[str]
    reports: Mapping[str, Any]
    """By case, as in the suite's `index.json`."""
    faults: Sequence[str]
    """Of the relay's own, told by its log and its exit code."""


class Broken(Exception):
    """A run that yields no reports; the message says what happened."""


async def run_client_side(wstest: Wstest, patterns: Sequence[str], results: Path) -> Findings:
    """The fuzzing client, through the relay, to an upstream that echoes."""
    async with echo_upstream() as upstream, relay(upstream) as (port, faults):
        servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/v1/realtime?model=echo"}]
        async with running(wstest, "fuzzingclient", {"servers": servers, "cases": list(patterns)}) as fuzzer:
            cases = await fuzzer.cases()
            await fuzzer.until_end()
            reports = fuzzer.collect(results)
    return Findings(cases, reports, faults)


async def run_server_side(wstest: Wstest, patterns: Sequence[str], results: Path) -> Findings:
    """A client that echoes, through the relay, to the fuzzing server."""
    async with front(AGENT) as (before, front_port):
        # The server compares its URL with the Host header, which names the front.
        specification = {"url": f"ws://127.0.0.1:{front_port}", "cases": list(patterns)}
        async with running(wstest, "fuzzingserver", specification) as fuzzer:
            cases = await fuzzer.cases()
            before.server_port = await fuzzer.port()
            async with relay(f"http://127.0.0.1:{front_port}/v1") as (port, faults):
                for number, case in enumerate(cases, start=1):
                    await _one_case(f"ws://127.0.0.1:{port}/v1/realtime?model=case-{number}", case)
            await echo_client(f"ws://127.0.0.1:{front_port}/updateReports?agent={AGENT}")
            reports = fuzzer.collect(results)
    return Findings(cases, reports, faults)


async def _one_case(url: str, case: str) -> None:
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await echo_client(url)
    except TimeoutError:
        raise Broken(f"case {case} did not end within {CASE_SECONDS} seconds") from None


@asynccontextmanager
async def relay(upstream: str) -> AsyncIterator[tuple[int, list[str]]]:
    """The program as it is run, its public port, and its faults: all of them are known after the block."""
    faults: list[str] = []
    async with serving(**SETTINGS, OPENAI_BASE_URL=upstream) as (process, port, _):
        reading = asyncio.ensure_future(_read_log(process, faults))
        try:
            yield port, faults
            faults += await _leave(process, reading)
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _leave(process: Process, reading: asyncio.Future[None]) -> list[str]:
    """End the relay as an operator does, and read its log to the end."""
    with suppress(ProcessLookupError):  # it has died; its exit code tells
        process.process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            await reading
            code = await process.process.wait()
    except TimeoutError:
        return [f"it did not end within {LEAVE_SECONDS} seconds of SIGTERM"]
    return [f"it ended with exit code {code}"] if code else []


async def _read_log(process: Process, faults: list[str]) -> None:
    """Read to the end; every session has to begin and end once, and without an error of the relay's own."""
    assert process.process.stderr is not None
    events: Counter[str] = Counter()
    while line := (await process.process.stderr.readline()).decode("utf-8", "replace").strip():
        event = json.loads(line)["event"] if line.startswith("{") else "no log event"
        events[event] += 1
        if event in FAULTS:
            faults.append(f"it logged {line}")
    begun, ended = events["session.started"], events["session.ended"]
    if begun != ended:
        faults.append(f"{begun} sessions began and {ended} ended")


class Fuzzer:
    """A running wstest."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._said = ""

    async def cases(self) -> Sequence[str]:
        """The cases that it says it will run."""
        found = await self._until(r"Cases = (\[.*\])")
        return [str(case) for case in ast.literal_eval(found)]

    async def port(self) -> int:
        """Where it listens."""
        return int(await self._until(r"Listening on port (\d+)"))

    async def until_end(self) -> None:
        """Wait until it has run its cases, each of which it announces, and written its reports."""
        while await self._line(CASE_SECONDS):
            pass
        await self._process.wait()

    def collect(self, results: Path) -> dict[str, Any]:
        """Move the reports to where they can be read, and return the index of them."""
        shutil.rmtree(results, ignore_errors=True)
        try:
            shutil.copytree(self._folder / "reports", results)
            index = json.loads((results / "index.json").read_text(encoding="utf-8"))
        except OSError:
            raise Broken(f"wstest wrote no reports; the last that it said: {self._said}") from None
        found = index.get(AGENT, {})
        assert isinstance(found, dict)
        return found

    async def _until(self, pattern: str) -> str:
        while line := await self._line(START_SECONDS):
            if found := re.search(pattern, line):
                return found[1]
        raise Broken(f"wstest ended; it said: {self._said}")

    async def _line(self, seconds: float) -> str:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = (await self._process.stdout.readline()).decode("utf-8", "replace")
        except TimeoutError:
            raise Broken(f"wstest said nothing for {seconds} seconds after: {self._said}") from None
        self._said = line.strip() or self._said
        return line


@asynccontextmanager
async def running(wstest: Wstest, mode: str, specification: dict[str, Any]) -> AsyncIterator[Fuzzer]:
    """A wstest process in a folder of its own; both are gone after the block."""
    wstest.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{mode}-", dir=wstest.work) as name:
        folder = Path(name)
        file = folder / "specification.json"
        # failByDrop: as RFC 6455 asks, a CLOSE before hanging up.
        common = {"outdir": wstest.inside(folder / "reports"), "options": {"failByDrop": False}}
        file.write_text(json.dumps(common | specification), encoding="utf-8")
        process = await asyncio.create_subprocess_exec(
            *wstest.command(mode, file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,  # the list of all cases is one line
        )
        try:
            yield Fuzzer(process, folder)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()
