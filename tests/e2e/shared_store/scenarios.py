"""What is tried with the fleet. Each scenario returns the lines of the table, and raises AssertionError if a limit broke."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.simulator import Simulator, SimulatorOptions
from tests.e2e.shared_store.instances import (
    Fleet,
    Gauge,
    Provider,
    answer_pings,
    keep_calling,
    running_fleet,
    sample_store,
    seconds_of,
)
from tests.support.harness import RawClient, eventually, within
from tests.support.raw_websocket_server import raw_upstream
from tests.support.redis_server import RedisServer

CALLERS: Final = 500
MAXIMUM: Final = 100
FREE_SECONDS: Final = 30.0
"""Within this time after the death of an instance its places are free."""
_TALKERS: Final = 12
_TEXT: Final = {"output_modalities": ["text"]}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The store, a folder, and the seconds that a phase lasts."""

    redis: RedisServer
    folder: Path
    seconds: float


Row = tuple[str, str, str]
"""What was tried, what callers saw, what was counted."""


def _shown(answers: Counter[str]) -> str:
    return ", ".join(f"{number:,} x {answer}" for answer, number in answers.most_common()) or "nothing"


def _folder(around: Surroundings, name: str) -> Path:
    folder = around.folder / name
    folder.mkdir()
    return folder


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in (tasks := list(tasks)):
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
            raise result


async def places(around: Surroundings) -> list[Row]:
    """500 callers share 100 places: no clock ever shows more sessions. Then an instance is killed."""
    provider, in_store, answers = Provider(), Gauge(), Counter[str]()
    limits, mode = f"max_sessions = {MAXIMUM}", {"RELAY_STORE_FAILURE": "closed"}
    async with (
        raw_upstream(provider) as upstream,
        running_fleet(_folder(around, "places"), around.redis, upstream.url, limits, "scripted", **mode) as fleet,
    ):
        stop = asyncio.Event()
        sampling = asyncio.create_task(sample_store(around.redis, in_store, stop))
        calling = [asyncio.create_task(keep_calling(fleet, number, answers)) for number in range(CALLERS)]
        await asyncio.sleep(around.seconds)
        stop.set()
        await sampling
        await _cancel(calling)
        await fleet.settle()
        await eventually(lambda: len(fleet.records) >= answers["101"], 30)
        peaks = {
            "callers": fleet.callers.peak,
            "provider": provider.open.peak,
            "records": fleet.most_by_records(),
            "store": in_store.peak,
        }
        rows = [("500 callers, 100 places", _shown(answers), ", ".join(f"{n} by {who}" for who, n in peaks.items()))]
        assert max(peaks.values()) <= MAXIMUM, peaks
        assert answers.keys() <= {"101", "429 too_many_sessions", "503 store_unavailable"}, answers
        return [*rows, await _killed(fleet)]


async def _killed(fleet: Fleet) -> Row:
    """Fill the places, kill the instance that has most, and fill them again at the others."""
    answers, victim = Counter[str](), fleet.instances[0]
    stop = asyncio.Event()

    async def hold(number: int, opened: asyncio.Event) -> None:
        instances = fleet.live()
        async with fleet.session(instances[number % len(instances)], answers) as client:
            if client is not None:
                opened.set()
                answering = asyncio.create_task(answer_pings(client))
                await stop.wait()
                await _cancel([answering])

    async def fill(count: int) -> list[asyncio.Task[None]]:
        """Open `count` sessions, retrying for as long as places are taken."""
        holding: list[asyncio.Task[None]] = []
        while len(holding) < count:
            opened = [asyncio.Event() for _ in range(count - len(holding))]
            tasks = [asyncio.create_task(hold(number, event)) for number, event in enumerate(opened)]
            for task, event in zip(tasks, opened, strict=True):
                waiting = asyncio.ensure_future(event.wait())
                await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            holding += [task for task, event in zip(tasks, opened, strict=True) if event.is_set()]
            await asyncio.sleep(0.1)
        return holding

    before = await fill(MAXIMUM)
    lost = int(await victim.metric("realtime_relay_sessions_active", fleet.http))
    answers.clear()
    await victim.kill()
    killed_at = time.monotonic()
    after = await fill(lost)
    seconds = time.monotonic() - killed_at
    stop.set()
    await asyncio.gather(*before, *after)
    assert seconds <= FREE_SECONDS, seconds
    assert answers["101"] == lost, answers
    return ("an instance is killed", _shown(answers), f"its {lost} places are free after {seconds:.1f} s")


async def _respond(client: RawClient) -> str:
    """Request a response; returns the type of the event that ends it, or the code of the error that comes instead."""
    client.send_event(type="response.create", response=_TEXT)
    while (event := await within(client.next_event(), 20)) is not None:
        if event["type"] == "response.done":
            return "response"
        if event["type"] == "error":
            return f"error {event['error']['code']}"
    return "connection lost"


async def _talk(fleet: Fleet, number: int, answers: Counter[str]) -> None:
    """One caller: up to three responses in a session, then another one, until cancelled."""
    source = random.Random(number)
    while True:
        async with fleet.session(source.choice(fleet.live()), answers) as client:
            for _ in range(3 if client is not None else 0):
                assert client is not None
                result = await _respond(client)
                answers[result] += 1
                if result != "response":
                    break
                await asyncio.sleep(source.uniform(0.05, 0.3))
        await asyncio.sleep(0.2)


@asynccontextmanager
async def _talking(around: Surroundings, name: str, mode: str) -> AsyncIterator[tuple[Fleet, Counter[str]]]:
    """A fleet on a simulator and an empty store, with callers who talk. At the end everything is settled."""
    answers = Counter[str]()
    around.redis.stop()
    around.redis.forget()
    around.redis.start()
    limits = "max_sessions = 10\nusd_per_month = 1000"
    async with (
        Simulator(SimulatorOptions(pace=0)) as simulator,
        running_fleet(_folder(around, name), around.redis, simulator.url, limits, RELAY_STORE_FAILURE=mode) as fleet,
    ):
        talking = [asyncio.create_task(_talk(fleet, number, answers)) for number in range(_TALKERS)]
        yield fleet, answers
        await _cancel(talking)
        await fleet.settle()
        fleet.final = await fleet.spent()


def _spent(records: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Micro-USD and tokens of records."""
    records = list(records)
    return sum(round(record["usd"] * 1_000_000) for record in records), sum(r["tokens"]["total"] for r in records)


def _money(spent: tuple[int, ...]) -> str:
    return f"{spent[0] / 1e6:.6f} USD and {spent[1]:,} tokens"


async def _restarted(around: Surroundings, mode: str) -> list[Row]:
    rows: list[Row] = []
    phases = (("answers", None), ("is killed", around.redis.stop), ("is started again", around.redis.start))
    async with _talking(around, f"restart-{mode}", mode) as (fleet, answers):
        for what, change in phases:
            if change is not None:
                await asyncio.to_thread(change)
            answers.clear()
            await asyncio.sleep(around.seconds / 2)
            rows.append((f"`{mode}`: the store {what}", _shown(answers), ""))
            assert answers["response"] or mode == "closed", answers
    expected = _spent(fleet.records)
    assert expected == fleet.final[:2], (expected, fleet.final)
    return [*rows, (f"`{mode}`: what was spent", "", f"{_money(expected)} in the records, the same in the store")]


async def restarted_open(around: Surroundings) -> list[Row]:
    """The store is killed and started again while callers talk: nothing counts twice, nothing is lost."""
    return await _restarted(around, "open")


async def restarted_closed(around: Surroundings) -> list[Row]:
    """The same with RELAY_STORE_FAILURE=closed."""
    return await _restarted(around, "closed")


async def emptied(around: Surroundings) -> list[Row]:
    """The store is started again without its data: what sessions had spent that ended before is lost, and that is said."""
    async with _talking(around, "emptied", "open") as (fleet, answers):
        await asyncio.sleep(around.seconds / 2)
        killed_at = time.time()
        await asyncio.to_thread(around.redis.stop)
        around.redis.forget()
        await asyncio.to_thread(around.redis.start)
        answers.clear()
        await asyncio.sleep(around.seconds)
        said = [len(instance.events("store.data_lost")) for instance in fleet.instances]
    assert said == [1] * len(fleet.instances), said
    records = fleet.records
    kept = _spent(record for record in records if seconds_of(record["ended_at"]) >= killed_at)
    # What ended within a second before may have been on its way.
    most = _spent(record for record in records if seconds_of(record["ended_at"]) >= killed_at - 1)
    everything = _spent(records)
    assert kept[0] <= fleet.final.microusd <= most[0] < everything[0], (kept, fleet.final, most, everything)
    lost = everything[0] - fleet.final.microusd, everything[1] - fleet.final.tokens
    counted = f"{_money(lost)} of ended sessions are lost; {_money(fleet.final)} of the others count"
    return [("the store comes back empty", f"{_shown(answers)}; each instance logs `store.data_lost`", counted)]


SCENARIOS: Final[tuple[Callable[[Surroundings], Coroutine[Any, Any, list[Row]]], ...]] = (
    places, restarted_open, restarted_closed, emptied,
)  # fmt: skip
