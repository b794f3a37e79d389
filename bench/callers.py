"""A relay with continuity on the simulator, and callers that talk through it: what `bench.continuity` measures with.

The relay has a core of its own; simulator and callers share the other one, and one clock.
"""

import asyncio
import base64
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from bench.contenders import KEY, REPOSITORY, python_of
from bench.process import Process
from service.simulator import ConnectionRecord, Simulator, SimulatorOptions
from service.simulator.numbered import numbered_audio
from tools.ports import free_port

RATE: Final = 24_000
CHUNK_SECONDS: Final = 0.04
CHUNK_SAMPLES: Final = round(RATE * CHUNK_SECONDS)
CHUNK_BYTES: Final = CHUNK_SAMPLES * 2
_START_SECONDS: Final = 60.0
_lanes: Final = count(1)


def append_event(audio: bytes) -> str:
    """The event with audio of the microphone."""
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(audio).decode()})


SILENCE: Final = append_event(bytes(CHUNK_BYTES))


@dataclass
class RunningRelay:
    """A running relay and its log."""

    process: Process
    port: int

    def log(self, *events: str) -> list[dict[str, Any]]:
        """The relay's log lines with these events."""
        lines = self.process.log.read_text().splitlines()
        parsed = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in parsed if line.get("event") in events]

    async def wait_log(self, event: str, number: int, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until this many lines with an event have been logged. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while len(found := self.log(event)) < number:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.1)
        return found


@dataclass
class Site(RunningRelay):
    """A running relay and its simulator."""

    simulator: Simulator
    session: aiohttp.ClientSession


@asynccontextmanager
async def running_relay(
    upstream_url: str, *, mode: str = "renew", tree: Path = REPOSITORY
) -> AsyncIterator[RunningRelay]:
    """Start a relay; `mode` is RELAY_CONTINUITY."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="realtime-relay-continuity-") as name:
        folder = Path(name)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tree),
            "OPENAI_API_KEY": f"sk-sim-good-{KEY}",
            "OPENAI_BASE_URL": upstream_url,
            "RELAY_ACCESS": "open",
            "RELAY_PORT": str(port),
            "RELAY_INTERNAL_PORT": str(free_port()),
            "RELAY_MAX_SESSIONS": "20000",
            "RELAY_MAX_RECONNECTS_PER_MINUTE": "100000",
            "RELAY_DRAIN_SECONDS": "0",
            "RELAY_CONTINUITY": mode,
        }
        command = [python_of(tree), "-m", "service", "serve"]
        process = Process(command, folder / "relay.log", environment, folder)
        relay = RunningRelay(process, port)
        try:
            await relay.wait_log("service.started", 1, _START_SECONDS)
            yield relay
        finally:
            await process.stop()


@asynccontextmanager
async def site(options: SimulatorOptions, *, mode: str = "renew", tree: Path = REPOSITORY) -> AsyncIterator[Site]:
    """Start a relay on a simulator; `mode` is RELAY_CONTINUITY."""
    async with (
        Simulator(options) as simulator,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        running_relay(simulator.url, mode=mode, tree=tree) as relay,
    ):
        yield Site(relay.process, relay.port, simulator, session)


@dataclass
class Caller:
    """One call, in a lane of the simulator. `types` holds the times of the events that were received."""

    site: Site
    socket: aiohttp.ClientWebSocketResponse
    lane: str
    types: dict[str, list[float]] = field(default_factory=dict)
    items: set[str] = field(default_factory=set)  # that were added
    usage: list[dict[str, Any]] = field(default_factory=list)
    said: list[tuple[int, int]] = field(default_factory=list)
    close_code: int | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _next: int = RATE * 10
    _due: float = 0.0
    _reader: "asyncio.Task[None] | None" = None

    @classmethod
    async def connect(cls, site: Site, lane: str | None = None) -> Self:
        """Open a session. The simulator's behaviours of the lane are set before."""
        lane = lane or new_lane()
        url = f"ws://127.0.0.1:{site.port}/v1/realtime?model=gpt-realtime&simulate_lane={lane}"
        caller = cls(site, await site.session.ws_connect(url, max_msg_size=1 << 24), lane)
        caller._reader = asyncio.create_task(caller._read())
        await caller.wait("session.created")
        return caller

    async def configure(self, **detection: bool | int) -> None:
        """Set the turn detection."""
        session = {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", **detection}}}}
        await self.send({"type": "session.update", "session": session})
        await self.wait("session.updated")

    @property
    def upstreams(self) -> list[ConnectionRecord]:
        """The upstream connections of the call."""
        return self.site.simulator.upstreams(self.lane)

    def count(self, event_type: str) -> int:
        """How many events of a type were received."""
        return len(self.types.get(event_type, ()))

    async def send(self, event: dict[str, Any] | str) -> None:
        """Send an event."""
        await self.socket.send_str(event if isinstance(event, str) else json.dumps(event))

    async def speak(self, seconds: float) -> float:
        """Speak numbered samples in real time; returns when the third chunk was sent, with which upstream hears speech."""
        chunks = round(seconds / CHUNK_SECONDS)
        first, heard_at = self._next, 0.0
        self.said.append((first, first + chunks * CHUNK_SAMPLES))
        self._next += chunks * CHUNK_SAMPLES
        for at in range(chunks):
            await self._pace()
            heard_at = time.monotonic() if at == _CHUNKS_TO_START - 1 else heard_at
            await self.send(append_event(numbered_audio(first + at * CHUNK_SAMPLES, CHUNK_SAMPLES)))
        return heard_at

    async def be_silent(self, seconds: float) -> None:
        """Send silence in real time."""
        for _ in range(round(seconds / CHUNK_SECONDS)):
            await self._pace()
            await self.send(SILENCE)

    async def _pace(self) -> None:
        now = time.monotonic()
        self._due = max(self._due, now - CHUNK_SECONDS) + CHUNK_SECONDS
        await asyncio.sleep(max(0.0, self._due - now))

    async def wait(self, event_type: str, number: int = 1, seconds: float = 60.0) -> float:
        """Wait for an event; returns when it came. Raises TimeoutError, ConnectionError."""
        async with asyncio.timeout(seconds):
            while len(self.types.get(event_type, ())) < number:
                if self.close_code is not None:
                    raise ConnectionError(f"closed with {self.close_code}")
                await self._news.wait()
        return self.types[event_type][number - 1]

    async def _read(self) -> None:
        async for message in self.socket:
            event = json.loads(message.data)
            kind = event["type"]
            self.types.setdefault(kind, []).append(time.monotonic())
            if kind == "conversation.item.added":
                self.items.add(event["item"]["id"])
            elif kind == "response.done":
                self.usage.append(event["response"].get("usage") or {})
            self._news.set()
            self._news = asyncio.Event()
        self.close_code = self.socket.close_code or 0
        self._news.set()

    async def close(self) -> None:
        """Hang up."""
        await self.socket.close()
        if self._reader is not None:
            await self._reader


_CHUNKS_TO_START: Final = 2  # 80 ms, of which speech detection needs 60


def new_lane() -> str:
    """A lane of its own."""
    return f"caller-{next(_lanes)}"


def switches_of(caller: Caller) -> list[float]:
    """When each further connection of a call got its first audio."""
    return [
        record.first_received["input_audio_buffer.append"]
        for record in caller.upstreams[1:]
        if "input_audio_buffer.append" in record.first_received
    ]
