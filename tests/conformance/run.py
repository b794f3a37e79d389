"""Runs one side: starts wstest, the relay process and the other peer, and collects the reports."""

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

from tests.conformance.peers import echo_client, echo_upstream, rewriting_proxy
from tests.conformance.wstest import Wstest
from tests.support.harness import KEY_CANARY
from tests.support.relay_process import Process, serving

AGENT: Final = "relay"
FAULTS: Final = {"session.failed", "loop.exception_caught", "task.crashed", "no log event"}
EXIT_SECONDS: Final = 60
START_SECONDS: Final = 180
CASE_SECONDS: Final = 600
"""Above the 100 seconds that the suite allows for its largest messages."""

SETTINGS: Final = {
    "RELAY_UPSTREAM": "openai",
    "OPENAI_API_KEY": KEY_CANARY,
    "RELAY_FIRST_EVENT": "optional",
    "RELAY_MAX_RECONNECTS_PER_MINUTE": "0",
    "RELAY_MAX_MESSAGES_PER_SECOND": "0",
    "RELAY_DRAIN_SECONDS": "0",
}
"""Default settings, except that the upstream sends no first event and the fuzzer opens many sessions per minute."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of one side."""

    cases: Sequence[str]
    reports: Mapping[str, Any]
    """Per case, as in the suite's `index.json`."""
    faults: Sequence[str]
    """Errors of the relay itself, from its log and its exit code."""


class RunFailed(Exception):
    """A run without reports; the message names the cause."""


async def run_client_side(wstest: Wstest, patterns: Sequence[str], results: Path) -> Findings:
    """Fuzzing client, relay, upstream that echoes."""
    async with echo_upstream() as upstream, relay(upstream) as (port, faults):
        servers = [{"agent": AGENT, "url": f"ws://127.0.0.1:{port}/v1/realtime?model=echo"}]
        async with running(wstest, "fuzzingclient", {"servers": servers, "cases": list(patterns)}) as fuzzer:
            cases = await fuzzer.cases()
            await fuzzer.wait()
            reports = fuzzer.collect(results)
    return Findings(cases, reports, faults)


async def run_server_side(wstest: Wstest, patterns: Sequence[str], results: Path) -> Findings:
    """Client that echoes, relay, fuzzing server."""
    async with rewriting_proxy(AGENT) as (proxy, proxy_port):
        # The server compares its URL with the Host header, which names the proxy.
        specification = {"url": f"ws://127.0.0.1:{proxy_port}", "cases": list(patterns)}
        async with running(wstest, "fuzzingserver", specification) as fuzzer:
            cases = await fuzzer.cases()
            proxy.server_port = await fuzzer.port()
            async with relay(f"http://127.0.0.1:{proxy_port}/v1") as (port, faults):
                for number, case in enumerate(cases, start=1):
                    await _run_case(f"ws://127.0.0.1:{port}/v1/realtime?model=case-{number}", case)
            await echo_client(f"ws://127.0.0.1:{proxy_port}/updateReports?agent={AGENT}")
            reports = fuzzer.collect(results)
    return Findings(cases, reports, faults)


async def _run_case(url: str, case: str) -> None:
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await echo_client(url)
    except TimeoutError:
        raise RunFailed(f"case {case} did not end within {CASE_SECONDS} seconds") from None


@asynccontextmanager
async def relay(upstream: str) -> AsyncIterator[tuple[int, list[str]]]:
    """A relay process: its public port, and its errors, which are complete after the block."""
    faults: list[str] = []
    async with serving(**SETTINGS, OPENAI_BASE_URL=upstream) as (process, port, _):
        reading = asyncio.ensure_future(_read_log(process, faults))
        try:
            yield port, faults
            faults += await _terminate(process, reading)
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def _terminate(process: Process, reading: asyncio.Future[None]) -> list[str]:
    """Send SIGTERM and read the log to its end; returns further errors."""
    with suppress(ProcessLookupError):  # it has exited; the exit code follows
        process.process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(EXIT_SECONDS):
            await reading
            code = await process.process.wait()
    except TimeoutError:
        return [f"it did not end within {EXIT_SECONDS} seconds of SIGTERM"]
    return [f"it ended with exit code {code}"] if code else []


async def _read_log(process: Process, faults: list[str]) -> None:
    """Read to the end; every session must start and end once, without an internal error."""
    assert process.process.stderr is not None
    events: Counter[str] = Counter()
    while line := (await process.process.stderr.readline()).decode("utf-8", "replace").strip():
        event = json.loads(line)["event"] if line.startswith("{") else "no log event"
        events[event] += 1
        if event in FAULTS:
            faults.append(f"it logged {line}")
    started, ended = events["session.started"], events["session.ended"]
    if started != ended:
        faults.append(f"{started} sessions started and {ended} ended")


class Fuzzer:
    """A running wstest."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._last_line = ""

    async def cases(self) -> Sequence[str]:
        """The cases that it prints before it runs them."""
        found = await self._wait_for(r"Cases = (\[.*\])")
        return [str(case) for case in ast.literal_eval(found)]

    async def port(self) -> int:
        """The port on which it listens."""
        return int(await self._wait_for(r"Listening on port (\d+)"))

    async def wait(self) -> None:
        """Wait until it has run its cases and written its reports; it prints a line per case."""
        while await self._line(CASE_SECONDS):
            pass
        await self._process.wait()

    def collect(self, results: Path) -> dict[str, Any]:
        """Copy the reports to `results` and return their index."""
        shutil.rmtree(results, ignore_errors=True)
        try:
            shutil.copytree(self._folder / "reports", results)
            index = json.loads((results / "index.json").read_text(encoding="utf-8"))
        except OSError:
            raise RunFailed(f"wstest wrote no reports; its last line: {self._last_line}") from None
        found = index.get(AGENT, {})
        assert isinstance(found, dict)
        return found

    async def _wait_for(self, pattern: str) -> str:
        while line := await self._line(START_SECONDS):
            if found := re.search(pattern, line):
                return found[1]
        raise RunFailed(f"wstest exited; its last line: {self._last_line}")

    async def _line(self, seconds: float) -> str:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                line = (await self._process.stdout.readline()).decode("utf-8", "replace")
        except TimeoutError:
            raise RunFailed(f"wstest printed nothing for {seconds} seconds after: {self._last_line}") from None
        self._last_line = line.strip() or self._last_line
        return line


@asynccontextmanager
async def running(wstest: Wstest, mode: str, specification: dict[str, Any]) -> AsyncIterator[Fuzzer]:
    """A wstest process with a folder of its own; both are removed after the block."""
    wstest.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{mode}-", dir=wstest.work) as name:
        folder = Path(name)
        file = folder / "specification.json"
        # failByDrop False: send a close frame before disconnecting, as RFC 6455 requires.
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
