"""The registry of live sessions, and the drain."""

import asyncio
from typing import Any, cast

import pytest
import structlog

from service.realtime.frames import Opcode, build_frame
from service.relay.drain import HURRY_SECONDS, DrainResult, DrainSignals, DrainTiming
from service.relay.registry import Registry
from service.relay.session import Session, SessionInfo
from tests.support.harness import eventually, open_raw, running_relay, simulated_relay
from tests.support.raw_websocket_server import CREATED, Wire, raw_upstream
from tests.support.scripted_upstream import PATH, relay_before


class Stub:
    """A session that lasts until it is ended, and then takes a moment; a stuck one until it is aborted."""

    def __init__(self, name: str = "s", *, stuck: bool = False) -> None:
        self.facts = SessionInfo(name, "client", "127.0.0.1", None)
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.unstuck = asyncio.Event()
        self.was_told = True
        self.ended_at: float | None = None
        self.told_of: float | None = None
        if not stuck:
            self.unstuck.set()

    def end(self, reason: str) -> None:
        """The first reason wins."""
        if not self.reason.done():
            self.ended_at = asyncio.get_running_loop().time()
            self.reason.set_result(reason)

    def abort(self) -> None:
        """Cut."""
        self.was_told = False
        self.unstuck.set()

    def tell_drain(self, seconds: float) -> None:
        """The drain was announced."""
        self.told_of = seconds

    async def run(self) -> str:
        """Until the end."""
        reason = await self.reason
        await self.unstuck.wait()
        return reason


def start(registry: Registry, stub: Stub) -> asyncio.Task[str]:
    """Start a stub as if it were a session."""
    return registry.start(cast("Session", stub))


@pytest.fixture
def haste() -> DrainSignals:
    """What further signals set."""
    return DrainSignals()


async def test_sessions_finish_by_themselves(haste: DrainSignals) -> None:
    """A drain is over when the last session has ended, however much time was left."""
    registry, stub = Registry(), Stub()
    task = start(registry, stub)
    draining = asyncio.create_task(registry.drain(DrainTiming(600, 5), haste))
    await eventually(lambda: registry.draining)
    assert len(registry) == 1
    stub.end("client_closed")

    assert DrainResult(finished=1) == await asyncio.wait_for(draining, 2)
    assert ("client_closed", 0) == (task.result(), len(registry))


@pytest.mark.parametrize("way", ["deadline", "hurry"])
async def test_the_rest_is_closed(way: str, haste: DrainSignals) -> None:
    """At the deadline, or when told to hurry, the sessions that are left are ended, waited for, and counted in the log."""
    registry = Registry()
    tasks = [start(registry, Stub()) for _ in range(3)]
    with structlog.testing.capture_logs() as logs:
        draining = asyncio.create_task(registry.drain(DrainTiming(0.05 if way == "deadline" else 600, 5), haste))
        if way == "hurry":
            haste.hurry.set()
        tally = await asyncio.wait_for(draining, 2)

    assert ["relay_draining"] * 3 == [task.result() for task in tasks]
    assert DrainResult(closed=3) == tally
    expected = {"event": "drain.finished", "finished": 0, "closed": 3, "aborted": 0, "hurried": way == "hurry"}
    assert cast("Any", logs[-1]) | expected == logs[-1]
    assert "info" == logs[-1]["log_level"]


async def test_the_rest_is_closed_in_waves(haste: DrainSignals) -> None:
    """Those that are left do not all come back at once: their ends are spread over the time that is set, at random."""
    registry = Registry()
    stubs = [Stub() for _ in range(100)]
    for stub in stubs:
        start(registry, stub)
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(registry.drain(DrainTiming(0, 0.5), haste), 5)

    moments = sorted(stub.ended_at - began for stub in stubs if stub.ended_at is not None)
    assert len(moments) == 100
    assert 0.3 < moments[-1] < 1
    assert all(sum(low <= moment < low + 0.1 for moment in moments) < 45 for low in (0, 0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    ("sessions", "spread", "expected"), [(1, 5, 0.02), (100, 5, 2), (1000, 5, 5), (1000, 0, 0), (0, 5, 0)]
)
def test_few_are_closed_sooner(sessions: int, spread: float, expected: float) -> None:
    """A relay with few sessions does not wait out a spread that is meant for many."""
    assert expected == DrainTiming(30, spread).spread_seconds(sessions)


async def test_a_hurry_amid_the_waves_ends_them(haste: DrainSignals) -> None:
    """Whoever hurries does not wait for the spread."""
    registry = Registry()
    for _ in range(500):
        start(registry, Stub())
    draining = asyncio.create_task(registry.drain(DrainTiming(0, 600), haste))
    await eventually(lambda: registry._cut)
    haste.hurry.set()

    assert 500 == (await asyncio.wait_for(draining, 1)).closed  # ten seconds, without a hurry


@pytest.mark.parametrize("way", ["hurry", "quit"])
async def test_whoever_is_stuck_is_cut(way: str, haste: DrainSignals) -> None:
    """In a hurry goodbyes get a second, and none when told to quit; what is cut is counted apart, and is a warning."""
    registry = Registry()
    start(registry, Stub(stuck=True))
    start(registry, Stub())
    loop = asyncio.get_running_loop()
    began = loop.time()
    with structlog.testing.capture_logs() as logs:
        draining = asyncio.create_task(registry.drain(DrainTiming(600, 5), haste))
        haste.hurry.set()
        if way == "quit":
            haste.quit.set()
        tally = await asyncio.wait_for(draining, 3)

    assert DrainResult(closed=1, aborted=1) == tally
    assert (HURRY_SECONDS if way == "hurry" else 0) <= loop.time() - began < HURRY_SECONDS + 0.5
    assert "warning" == logs[-1]["log_level"]


async def test_a_dial_is_waited_for(haste: DrainSignals) -> None:
    """A caller that was let in before the drain and is still being dialled may become a session, and is told of the drain."""
    registry = Registry()
    with registry.dialling():
        draining = asyncio.create_task(registry.drain(DrainTiming(600, 5), haste))
        await eventually(lambda: registry.draining)
        stub = Stub()
        start(registry, stub)
    await eventually(lambda: not registry._dials)
    assert not draining.done()
    assert stub.told_of is not None
    assert 590 < stub.told_of <= 600
    stub.end("client_closed")
    await asyncio.wait_for(draining, 2)


async def test_a_dial_is_waited_for_when_the_last_session_has_ended(haste: DrainSignals) -> None:
    """That no session is left does not end the drain while somebody is still being connected."""
    registry, stub = Registry(), Stub()
    start(registry, stub)
    with registry.dialling():
        draining = asyncio.create_task(registry.drain(DrainTiming(600, 5), haste))
        await eventually(lambda: registry.draining)
        stub.end("client_closed")
        await eventually(lambda: len(registry) == 0)
        await asyncio.sleep(0.02)  # it would end in the next turns
        assert not draining.done()

    assert DrainResult(finished=1) == await asyncio.wait_for(draining, 2)


async def test_a_session_that_fails_is_no_hindrance(haste: DrainSignals) -> None:
    """A session whose task raises is counted and does not make the drain wait."""
    registry, stub = Registry(), Stub()
    task = start(registry, stub)
    draining = asyncio.create_task(registry.drain(DrainTiming(600, 5), haste))
    await eventually(lambda: registry.draining)
    stub.reason.set_exception(ZeroDivisionError())

    assert DrainResult(finished=1) == await asyncio.wait_for(draining, 2)
    assert isinstance(task.exception(), ZeroDivisionError)


async def test_a_dial_that_fails_ends_the_wait(haste: DrainSignals) -> None:
    """A drain that waits for nothing but a dial is over when the dial comes to nothing."""
    registry = Registry()
    with registry.dialling():
        draining = asyncio.create_task(registry.drain(DrainTiming(600, 5), haste))
        await eventually(lambda: registry.draining)

    assert DrainResult() == await asyncio.wait_for(draining, 2)


async def test_a_session_that_starts_after_the_deadline_ends_at_once(haste: DrainSignals) -> None:
    """A dial that outlasts the drain cannot keep the process alive with its session."""
    registry = Registry()
    first = Stub(stuck=True)
    start(registry, first)
    draining = asyncio.create_task(registry.drain(DrainTiming(0, 0), haste))
    await eventually(first.reason.done)
    late = start(registry, Stub("late"))
    first.unstuck.set()
    await asyncio.wait_for(draining, 2)

    assert late.result() == "relay_draining"


async def test_stopping_ends_every_session() -> None:
    """A relay that is stopped without a drain still ends its sessions, tells both sides, and counts them."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(wire: Wire) -> None:
        wire.send(CREATED)
        close = await wire.until_close()
        told.set_result(close)
        wire.send_close(close[0] if close else None)

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=scripted")
        await client.next_event()
        stopping = asyncio.create_task(relay.app.stop())

        assert (1001, "") == await asyncio.wait_for(told, 5)
        assert (await client.next_event())["error"]["code"] == "relay_draining"
        await client.close()
        await stopping
        assert ["relay_draining"] == [event["reason"] for event in relay.events("session.ended")]
        assert relay.metric("realtime_relay_sessions_active") == 0


async def test_the_event_comes_between_two_messages() -> None:
    """A client is told of the drain at a message's end, also where upstream is amid one nearly always."""
    seen: list[str] = []
    amid = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.send(CREATED)
        first = build_frame(Opcode.TEXT, b'{"type":"x",')
        end = asyncio.ensure_future(wire.until_close())
        while not end.done():
            wire.writer.write(bytes((first[0] & 0x7F,)) + first[1:])
            amid.set()  # and nearly always, when somebody looks now and then
            for _ in range(3):
                await asyncio.wait({end}, timeout=0.03)
                middle = build_frame(Opcode.CONTINUATION, b" ")
                wire.writer.write(bytes((middle[0] & 0x7F,)) + middle[1:])
            await asyncio.wait({end}, timeout=0.03)
            wire.writer.write(build_frame(Opcode.CONTINUATION, b'"a":1}'))
            amid.clear()
            await asyncio.wait({end}, timeout=0.002)
        wire.send_close(1000)

    async with relay_before(script, behind_101=b"") as (relay, _):
        client = await open_raw(relay.app.public_port, f"{PATH}&draining_event=true")
        await client.next_event()
        await amid.wait()
        draining = asyncio.ensure_future(relay.app.registry.drain(DrainTiming(1, 0), DrainSignals()))
        while (item := await client.next_item()) is not None and isinstance(item, bytes):
            seen.append(item.decode("latin-1"))
        assert await draining == DrainResult(closed=1)
        await client.close()

    told = [text for text in seen if "relay.draining" in text]
    assert 1 == len(told)
    assert told[0][2:].lstrip("\x7e").find('{"type":"relay.draining"') >= 0
    assert all(text.count("{") == 1 for text in seen if "relay.draining" not in text and "error" not in text)


async def test_the_wish_does_not_travel() -> None:
    """The relay's own parameters are not the provider's; unknown ones are."""
    async with simulated_relay() as relay:
        assert relay.simulator is not None
        await eventually(lambda: relay.app.monitor.ready)  # its dials are over
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&draining_event=true&other=1")
        await client.next_event()
        await client.close()
        query = relay.simulator.connections[-1].query

        assert {"model": "gpt-realtime", "other": "1"} == dict(query)
