"""One call: the simulator, a relay, the tap, and an SDK's program that is given a microphone."""

import asyncio
import json
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import trustme

from service.simulator import Behaviour, ConnectionRecord, Simulator, SimulatorOptions
from service.simulator.numbered import Ranges, numbered_audio, sample_ranges
from tests.e2e.continuity_clients.clients import Client, environment_of
from tests.e2e.continuity_clients.tap import Tap, tap
from tests.support.harness import eventually
from tests.support.relay_process import Process, serving

RATE: Final = 24_000
TENTH: Final = RATE // 10
_CHUNK_SECONDS: Final = 0.04
_CHUNK: Final = 1_920
_TOKEN: Final = "token-of-the-client-abcdefghijkl"
_START_SECONDS: Final = 30.0
_END_SECONDS: Final = 30.0
_SWITCH_SECONDS: Final = 60.0
_FIRST_SAMPLE: Final = 24_000 * 10  # so that the numbers of the user are not those of the answers


@dataclass
class Call:
    """A running call. Times are by time.monotonic()."""

    client: Client
    simulator: Simulator
    tap: Tap
    folder: Path
    relay: Process | None
    internal_url: str = ""
    said: list[tuple[int, int]] = field(default_factory=list)
    said_at: list[float] = field(default_factory=list)
    program: asyncio.subprocess.Process | None = None
    is_over: bool = False
    output: str = ""
    answer: Ranges = ()  # the numbered samples that the program has played, once it has ended
    _speech: bytearray = field(default_factory=bytearray)
    _next: int = _FIRST_SAMPLE
    _quiet: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def upstreams(self) -> list[ConnectionRecord]:
        """The connections that became sessions of the call, in order; the relay's health checks send nothing."""
        return [record for record in self.simulator.upstreams() if record.messages_received]

    @property
    def last(self) -> ConnectionRecord:
        """The connection that carries the call now; a later one is prepared, and has no audio yet."""
        return [record for record in self.upstreams if "input_audio_buffer.append" in record.first_received][-1]

    async def say(self, tenths: int) -> None:
        """Count aloud for this many tenths of a second; returns when the last one has been spoken."""
        self.begin(tenths)
        await self.end_of_speech()

    def begin(self, tenths: int) -> None:
        """Begin to count aloud."""
        count = tenths * TENTH
        self.said.append((self._next, self._next + count))
        self.said_at.append(time.monotonic())
        self._speech += numbered_audio(self._next, count)
        self._next += count
        self._quiet.clear()

    async def end_of_speech(self) -> None:
        """Wait until everything has been spoken."""
        await self._quiet.wait()

    async def switched(self, count: int = 1) -> dict[str, object]:
        """Wait until `count` connections of the call have been replaced; returns what the relay logged of the last one.

        They are closed, and another one is open.
        """

        def is_switched() -> bool:
            is_closed = len(self.upstreams) > count and all(record.closed for record in self.upstreams[:count])
            return is_closed and len(self._switches) >= count

        await eventually(is_switched, _SWITCH_SECONDS)
        return self._switches[count - 1]

    @property
    def _switches(self) -> list[dict[str, object]]:
        return [line for line in self.log if line["event"] in {"session.renewed", "session.recovered"}]

    async def run_microphone(self) -> None:
        """Write to the program in real time: what is to be said, else silence."""
        assert self.program is not None
        assert self.program.stdin is not None
        due = time.monotonic()
        while self.program.returncode is None:
            chunk = bytes(self._speech[:_CHUNK]).ljust(_CHUNK, b"\0")
            del self._speech[:_CHUNK]
            self.program.stdin.write(chunk)
            try:
                await self.program.stdin.drain()
            except OSError:
                return
            if not self._speech:
                self._quiet.set()
            due += _CHUNK_SECONDS
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    @property
    def log(self) -> list[dict[str, object]]:
        """The relay's log lines so far."""
        return self.relay.lines if self.relay is not None else []

    def problems(self) -> list[str]:
        """What the program reported as wrong."""
        return [line for line in self.output.splitlines() if "PROBLEM" in line or "Traceback" in line]


@asynccontextmanager
async def call(
    client: Client,
    environment: Path,
    options: SimulatorOptions,
    *,
    dials: Sequence[Behaviour] = (),
    through_relay: bool = True,
    settings: dict[str, str] | None = None,
    variables: dict[str, str] | None = None,
) -> AsyncIterator[Call]:
    """Start everything; yields once the session exists. At the end the program hangs up, and what it left is read.

    Without the relay the client may connect again as often as it likes.
    """
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator(options))
        relay, port, internal_url = None, urlsplit(simulator.url).port or 0, ""
        if through_relay:
            relay, port, internal_url = await stack.enter_async_context(
                serving(**_settings(client, simulator), **settings or {})
            )
            stack.push_async_callback(_stop_reading, asyncio.create_task(_read_log(relay)))
            # The first health check.
            await eventually(lambda: any(record.closed for record in simulator.upstreams()), _START_SECONDS)
        simulator.set_dials(*dials)
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="realtime-relay-", ignore_cleanup_errors=True))
        )
        context, more = _tls(folder) if client.needs_tls else (None, {})
        found = await stack.enter_async_context(tap(port, context))
        found.is_one_connection = through_relay
        running = Call(client, simulator, found, folder, relay, internal_url)
        query = client.query if through_relay else ""
        command = client.command(environment, folder)
        values = environment_of(CALL_URL=found.url, CALL_TOKEN=_TOKEN, CALL_QUERY=query, **more, **variables or {})
        with (folder / "output.log").open("wb") as output:
            running.program = await asyncio.create_subprocess_exec(
                *command, cwd=folder, env=values, stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output
            )
        microphone = asyncio.create_task(running.run_microphone())
        try:
            await found.wait_received("session.updated")
            yield running
        finally:
            microphone.cancel()
            await _hang_up(running)


async def _hang_up(running: Call) -> None:
    program = running.program
    assert program is not None
    assert program.stdin is not None
    running.is_over = True
    program.stdin.close()
    try:
        code = await asyncio.wait_for(program.wait(), _END_SECONDS)
    except TimeoutError:
        program.kill()
        await program.wait()
        code = None
    answer = running.folder / "answer.pcm"
    running.answer = sample_ranges(answer.read_bytes()) if answer.exists() else ()
    running.output = (running.folder / "output.log").read_text(errors="replace")
    if code != 0:
        running.output += f"\nPROBLEM: exit code {code}"


def _settings(client: Client, simulator: Simulator) -> dict[str, str]:
    return {
        "OPENAI_BASE_URL": simulator.url,
        "OPENAI_API_KEY": "sk-sim-good-0key1234567890",
        "RELAY_ACCESS": "tokens",
        "RELAY_CLIENT_TOKENS": f"{client.name}:{_TOKEN}",
        "RELAY_CONTINUITY": "ask" if client.query else "renew",
    }


def _tls(folder: Path) -> tuple[ssl.SSLContext, dict[str, str]]:
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    bundle = folder / "authority.pem"
    authority.cert_pem.write_to_path(bundle)
    return context, {"NODE_EXTRA_CA_CERTS": str(bundle)}


async def _read_log(relay: Process) -> None:
    assert relay.process.stderr is not None
    while line := await relay.process.stderr.readline():
        if line.endswith(b"\n"):
            relay.lines.append(json.loads(line))


async def _stop_reading(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
