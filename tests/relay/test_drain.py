"""The registry of live sessions, and the drain."""

import asyncio
from typing import Any, cast

import pytest
import structlog

from service.relay.registry import Registry
from service.relay.session import Facts, Session
from tests.harness import eventually, open_raw, running_relay
from tests.raw_upstream import CREATED, Wire, raw_upstream


class Stub:
    """A session that lasts until it is ended, and then takes a moment."""

    def __init__(self, name: str = "s") -> None:
        self.facts = Facts(name, "client", "127.0.0.1", None)
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def end(self, reason: str) -> None:
        """The first reason wins."""
        if not self.reason.done():
            self.reason.set_result(reason)

    async def run(self) -> str:
        """Until the end."""
        reason = await self.reason
        await asyncio.sleep(0.01)
        return reason


def start(registry: Registry, stub: Stub) -> asyncio.Task[str]:
    """Start a stub as if it were a session."""
    return registry.start(cast("Session", stub))


@pytest.fixture
def hurry() -> asyncio.Event:
    """What a second signal sets."""
    return asyncio.Event()


async def test_sessions_finish_by_themselves(hurry: asyncio.Event) -> None:
    """A drain is over when the last session has ended, however much time was left."""
    registry, stub = Registry(), Stub()
    task = start(registry, stub)
    draining = asyncio.create_task(registry.drain(600, hurry))
    await eventually(lambda: registry.draining)
    assert len(registry) == 1
    stub.end("client_closed")
    await asyncio.wait_for(draining, 2)

    assert ("client_closed", 0) == (task.result(), len(registry))


@pytest.mark.parametrize("way", ["deadline", "hurry"])
async def test_the_rest_is_cut(way: str, hurry: asyncio.Event) -> None:
    """At the deadline, or when told to hurry, the sessions that are left are ended, and waited for."""
    registry = Registry()
    tasks = [start(registry, Stub()) for _ in range(3)]
    with structlog.testing.capture_logs() as logs:
        draining = asyncio.create_task(registry.drain(0.05 if way == "deadline" else 600, hurry))
        if way == "hurry":
            hurry.set()
        await asyncio.wait_for(draining, 2)

    assert ["relay_draining"] * 3 == [task.result() for task in tasks]
    assert cast("Any", logs[-1]) | {"event": "drain.finished", "cut": 3} == logs[-1]


async def test_a_dial_is_waited_for(hurry: asyncio.Event) -> None:
    """A caller that was let in before the drain and is still being dialled may become a session."""
    registry = Registry()
    with registry.dialling():
        draining = asyncio.create_task(registry.drain(600, hurry))
        await eventually(lambda: registry.draining)
        stub = Stub()
        start(registry, stub)
    await eventually(lambda: not registry._dials)
    assert not draining.done()
    stub.end("client_closed")
    await asyncio.wait_for(draining, 2)


async def test_a_session_that_starts_after_the_deadline_ends_at_once(hurry: asyncio.Event) -> None:
    """A dial that outlasts the drain cannot keep the process alive with its session."""
    registry = Registry()
    start(registry, Stub())
    draining = asyncio.create_task(registry.drain(0, hurry))
    await eventually(lambda: registry.draining)
    late = start(registry, Stub("late"))
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
