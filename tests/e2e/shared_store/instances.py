"""Relay processes on one Redis, their callers, and four clocks that count the sessions."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from service.access.clients import digest_of
from service.realtime.frames import Opcode
from service.realtime.scanner_items import ControlFrame
from service.store.interface import Amounts, Scope
from service.store.redis_backend import RedisBackend, connect
from service.store.url import parse_store_url
from tests.support.harness import RawClient, open_raw
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.redis_server import RedisServer
from tests.support.relay_process import Process, serving

INSTANCES: Final = 3
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always")
_TOKEN: Final = "the-token-of-the-kiosk-0123456789"
_HEADERS: Final = {"Authorization": f"Bearer {_TOKEN}"}
_ATTEMPT_SECONDS: Final = 30.0


@dataclass
class Gauge:
    """A number that goes up and down, and its highest value."""

    now: int = 0
    peak: int = 0

    def add(self, number: int) -> None:
        """Change it."""
        self.now += number
        self.peak = max(self.peak, self.now)


@dataclass
class Instance:
    """A relay process, its port, the URL of its internal listener, and its records."""

    process: Process
    port: int
    internal_url: str
    records: Path
    log: asyncio.Task[None] | None = None

    async def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self.process.process.kill()
        await self.process.process.wait()

    def events(self, name: str) -> list[Any]:
        """The lines of the log with this name so far."""
        return [line for line in self.process.lines if line["event"] == name]

    async def metric(self, name: str, http: aiohttp.ClientSession) -> float:
        """The sum of the series of a metric."""
        async with http.get(f"{self.internal_url}/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)


@dataclass
class Fleet:
    """The relays, their store, and what was counted."""

    redis: RedisServer
    instances: list[Instance]
    http: aiohttp.ClientSession
    path: str
    callers: Gauge = field(default_factory=Gauge)
    final: Amounts = field(default_factory=Amounts)  # what the store had when everything was settled

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records of all instances; the last line of a killed one may be incomplete."""
        lines = [
            line
            for instance in self.instances
            if instance.records.exists()
            for line in instance.records.read_text(encoding="utf-8").splitlines(keepends=True)
        ]
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def live(self) -> list[Instance]:
        """Those that run."""
        return [instance for instance in self.instances if instance.process.process.returncode is None]

    async def sum_of(self, metric: str) -> float:
        """The sum over the instances that run."""
        return sum([await instance.metric(metric, self.http) for instance in self.live()])

    async def spent(self) -> Amounts:
        """What the client has used this month, as the store has it."""
        url = parse_store_url(self.redis.url)
        assert url is not None
        backend, scope = RedisBackend(connect(url)), Scope("kiosk")
        try:
            return (await backend.totals([scope]))[scope].month
        finally:
            await backend.close()

    @asynccontextmanager
    async def session(self, instance: Instance, answers: Counter[str]) -> AsyncIterator[RawClient | None]:
        """Connect as the client, count the answer; None if it is a refusal. A session counts until its end is begun."""
        try:
            async with asyncio.timeout(_ATTEMPT_SECONDS):
                client = await open_raw(instance.port, self.path, _HEADERS)
        except (OSError, EOFError):
            answers["connection lost"] += 1
            yield None
            return
        try:
            if client.answer.status != 101:
                answers[f"{client.answer.status} {client.answer.error['code']}"] += 1
                yield None
                return
            answers["101"] += 1
            self.callers.add(1)
            try:
                yield client
            finally:
                self.callers.add(-1)
        finally:
            await client.close()

    async def settle(self) -> None:
        """Wait until no session is open and everything that was spent has reached the store."""
        names = [f"realtime_relay_{name}" for name in ("sessions_active", "store_journal_records")]
        for _ in range(600):
            if not any([await self.sum_of(name) for name in names]):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"{names} do not become 0")

    def most_by_records(self) -> int:
        """The most sessions at once, by the times in the records."""
        moments = []
        for record in self.records:
            moments += [(seconds_of(record["started_at"]), 1), (seconds_of(record["ended_at"]), -1)]
        gauge = Gauge()
        for _, change in sorted(moments):  # an end before a start of the same millisecond
            gauge.add(change)
        return gauge.peak


def seconds_of(text: str) -> float:
    """The time of a record, in seconds since 1970."""
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Provider:
    """Upstream: sends the first event, holds the connection, and counts those that are open."""

    open: Gauge = field(default_factory=Gauge)

    async def __call__(self, connection: ServerConnection) -> None:
        """The script of a connection."""
        connection.send(CREATED)
        self.open.add(1)
        try:
            close = await connection.until_close()
        finally:
            self.open.add(-1)
        with suppress(ConnectionError):
            connection.send_close(close[0] if close is not None else None)


async def _follow(process: Process) -> None:
    """Read the log to its end; a killed process can leave half a line."""
    assert process.process.stderr is not None
    async for line in process.process.stderr:
        if line.endswith(b"\n"):
            process.lines.append(json.loads(line))


@asynccontextmanager
async def running_fleet(
    folder: Path, redis: RedisServer, provider_url: str, limits: str, model: str = "gpt-realtime", **settings: str
) -> AsyncIterator[Fleet]:
    """Run the instances with a client that has these limits."""
    clients = folder / "clients.toml"
    clients.write_text(f'[clients.kiosk]\ntoken_sha256 = ["{digest_of(_TOKEN)}"]\n{limits}\n', encoding="utf-8")
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        fleet = Fleet(redis, [], http, f"/v1/realtime?model={model}")
        for number in range(INSTANCES):
            records = folder / f"records-{number}.jsonl"
            process, port, internal_url = await stack.enter_async_context(
                serving(
                    RELAY_UPSTREAM="openai",
                    OPENAI_API_KEY="sk-sim-good-0123456789abcdef",
                    OPENAI_BASE_URL=provider_url,
                    RELAY_CLIENTS_FILE=str(clients),
                    RELAY_STORE_URL=redis.url,
                    RELAY_RECORDS=str(records),
                    RELAY_LOG_FORMAT="json",
                    RELAY_MAX_RECONNECTS_PER_MINUTE="0",
                    RELAY_DRAIN_SECONDS="0",
                    RELAY_MAX_DIALS="500",
                    **settings,
                )
            )
            instance = Instance(process, port, internal_url, records)
            instance.log = asyncio.create_task(_follow(process))
            fleet.instances.append(instance)
        try:
            yield fleet
        finally:
            for instance in fleet.live():
                await instance.kill()
            for instance in fleet.instances:
                assert instance.log is not None
                await instance.log


async def sample_store(redis: RedisServer, gauge: Gauge, stop: asyncio.Event) -> None:
    """Keep reading how many sessions the store holds. It is not cancelled: the library can swallow that."""
    async with Redis(port=redis.port) as client:
        while not stop.is_set():
            with suppress(OSError, ConnectionError):
                values = await client.hvals("rr:open:kiosk")
                gauge.add(sum(map(int, values)) - gauge.now)
            await asyncio.sleep(0.005)


async def answer_pings(client: RawClient) -> None:
    """Do what a live client does, until cancelled: the relay ends the sessions of others."""
    while (item := await client.next_item_or_ping()) is not None:
        if isinstance(item, ControlFrame) and item.opcode is Opcode.PING:
            client.send_frame(Opcode.PONG, item.payload)


async def keep_calling(fleet: Fleet, number: int, answers: Counter[str], most_seconds: float = 3.0) -> None:
    """One caller: a session of random length at a random instance, then a pause, and again, until cancelled."""
    source = random.Random(number)
    while True:
        await asyncio.sleep(source.uniform(0.1, 2.0))
        async with fleet.session(source.choice(fleet.live()), answers) as client:
            if client is not None:
                await asyncio.sleep(source.uniform(0.5, most_seconds))
