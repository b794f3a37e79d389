"""The drain of a relay: sessions, dials in flight, signals."""

import asyncio
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from service.realtime.frames import Opcode, build_frame
from service.relay import drain
from service.relay.drain import FAST_CLOSE_SECONDS, Drainer, DrainResult, DrainSignals, DrainTiming
from service.relay.live_call import SETTLE_SECONDS
from service.relay.session import Session
from service.relay.session_info import SessionInfo
from service.upstream.dials import DialsInFlight
from tests.support.harness import eventually, open_raw, running_relay, simulated_relay, within
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream
from tests.support.scripted_upstream import PATH, scripted_relay


class FakeSession:
    """Lasts until `end` and then a moment longer; a stuck one until `abort`."""

    def __init__(self, session_id: str = "s", *, stuck: bool = False, settle_seconds: float = 0.0) -> None:
        self.info = SessionInfo(session_id, "client", "127.0.0.1", None)
        self.reason: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.may_finish = asyncio.Event()
        self.client_informed = True
        self.settle_seconds = settle_seconds
        self.ended_at: float | None = None
        self.drain_seconds: float | None = None
        if not stuck:
            self.may_finish.set()

    def end(self, reason: str) -> None:
        """The first reason wins."""
        if not self.reason.done():
            self.ended_at = asyncio.get_running_loop().time()
            self.reason.set_result(reason)

    def tick(self) -> None:
        """Nothing is due; the registry's ticker calls it in a test that lasts."""

    def abort(self) -> None:
        """Finish without a closing handshake."""
        self.client_informed = False
        self.may_finish.set()

    def announce_drain(self, seconds: float) -> None:
        """Record the announcement."""
        self.drain_seconds = seconds

    async def run(self) -> str:
        """Return the reason."""
        reason = await self.reason
        await self.may_finish.wait()
        return reason


def start(drainer: Drainer, session: FakeSession) -> asyncio.Task[str]:
    """Start a fake session."""
    return drainer.sessions.start(cast("Session", session))


@pytest.fixture
def dials() -> DialsInFlight:
    """The dials that the drainer waits for."""
    return DialsInFlight()


@pytest.fixture
def drainer(dials: DialsInFlight) -> Drainer:
    """A drainer without sessions."""
    return Drainer(dials)


@pytest.fixture
def signals() -> DrainSignals:
    """What further signals set."""
    return DrainSignals()


async def test_drain_ends_when_the_last_session_finishes(drainer: Drainer, signals: DrainSignals) -> None:
    """It does not wait for the deadline."""
    session = FakeSession()
    task = start(drainer, session)
    draining = asyncio.create_task(drainer.drain(DrainTiming(600, 5), signals))
    await eventually(lambda: drainer.is_draining)
    assert len(drainer.sessions) == 1
    session.end("client_closed")

    assert DrainResult(finished=1) == await within(draining, 2)
    assert ("client_closed", 0) == (task.result(), len(drainer.sessions))


@pytest.mark.parametrize("cause", ["deadline", "close_now"])
async def test_drain_closes_remaining_sessions_at_deadline_or_second_signal(
    cause: str, drainer: Drainer, signals: DrainSignals
) -> None:
    """It waits for their closing handshakes and logs how many there were."""
    tasks = [start(drainer, FakeSession()) for _ in range(3)]
    with structlog.testing.capture_logs() as logs:
        draining = asyncio.create_task(drainer.drain(DrainTiming(0.05 if cause == "deadline" else 600, 5), signals))
        if cause == "close_now":
            signals.close_now.set()
        result = await within(draining, 2)

    assert ["relay_draining"] * 3 == [task.result() for task in tasks]
    assert DrainResult(closed=3) == result
    expected = {"event": "drain.finished", "finished": 0, "closed": 3, "aborted": 0, "hurried": cause == "close_now"}
    assert cast("Any", logs[-1]) | expected == logs[-1]
    assert "info" == logs[-1]["log_level"]


async def test_drain_spreads_closes_over_the_configured_time(
    drainer: Drainer, signals: DrainSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are random, so that the clients do not all reconnect at the same moment. None is closed before its time."""
    times: list[float] = []

    def uniform(low: float, high: float) -> float:
        times.append(random.uniform(low, high))
        return times[-1]

    monkeypatch.setattr(drain, "random", SimpleNamespace(shuffle=random.shuffle, uniform=uniform))
    sessions = [FakeSession() for _ in range(100)]
    for session in sessions:
        start(drainer, session)
    began = asyncio.get_running_loop().time()
    await within(drainer.drain(DrainTiming(0, 0.5), signals), 5)

    moments = sorted(session.ended_at - began for session in sessions if session.ended_at is not None)
    assert len(moments) == len(times) == 100
    assert all(time - 0.01 < moment for time, moment in zip(sorted(times), moments, strict=True))
    assert 0.3 < max(times) <= 0.5
    assert all(sum(low <= time < low + 0.1 for time in times) < 45 for low in (0, 0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize(
    ("sessions", "spread", "expected"), [(1, 5, 0.02), (100, 5, 2), (1000, 5, 5), (1000, 0, 0), (0, 5, 0)]
)
def test_close_spread_is_shorter_for_few_sessions(sessions: int, spread: float, expected: float) -> None:
    """The configured spread is an upper bound."""
    assert expected == DrainTiming(30, spread).spread_seconds(sessions)


async def test_second_signal_cuts_the_close_spread_short(drainer: Drainer, signals: DrainSignals) -> None:
    """All remaining sessions are closed immediately."""
    for _ in range(500):
        start(drainer, FakeSession())
    draining = asyncio.create_task(drainer.drain(DrainTiming(0, 600), signals))
    await eventually(lambda: drainer._is_past_deadline)
    signals.close_now.set()

    assert 500 == (await within(draining, 1)).closed  # it would take ten seconds otherwise


@pytest.mark.parametrize("signal", ["close_now", "abort_now"])
async def test_drain_aborts_stuck_sessions(signal: str, drainer: Drainer, signals: DrainSignals) -> None:
    """After a second signal closing handshakes have a second, after a third none; aborted sessions are a warning."""
    start(drainer, FakeSession(stuck=True))
    start(drainer, FakeSession())
    loop = asyncio.get_running_loop()
    began = loop.time()
    with structlog.testing.capture_logs() as logs:
        draining = asyncio.create_task(drainer.drain(DrainTiming(600, 5), signals))
        signals.close_now.set()
        if signal == "abort_now":
            signals.abort_now.set()
        result = await within(draining, 3)

    assert DrainResult(closed=1, aborted=1) == result
    minimum = FAST_CLOSE_SECONDS if signal == "close_now" else 0
    assert minimum <= loop.time() - began < 60  # not the drain's 600 s
    assert "warning" == logs[-1]["log_level"]


async def test_drain_waits_for_a_dial_that_becomes_a_session(
    drainer: Drainer, dials: DialsInFlight, signals: DrainSignals
) -> None:
    """The client was admitted before the drain; its session is announced the drain."""
    with dials.track():
        draining = asyncio.create_task(drainer.drain(DrainTiming(600, 5), signals))
        await eventually(lambda: drainer.is_draining)
        session = FakeSession()
        start(drainer, session)
    await eventually(lambda: len(dials) == 0)
    assert not draining.done()
    assert session.drain_seconds is not None
    assert 590 < session.drain_seconds <= 600
    session.end("client_closed")
    await within(draining, 2)


async def test_drain_waits_for_a_dial_after_the_last_session_has_ended(
    drainer: Drainer, dials: DialsInFlight, signals: DrainSignals
) -> None:
    """An empty registry alone does not end the drain."""
    session = FakeSession()
    start(drainer, session)
    with dials.track():
        draining = asyncio.create_task(drainer.drain(DrainTiming(600, 5), signals))
        await eventually(lambda: drainer.is_draining)
        session.end("client_closed")
        await eventually(lambda: len(drainer.sessions) == 0)
        await asyncio.sleep(0.02)  # a drain that did not wait would end in the next event loop iterations
        assert not draining.done()

    assert DrainResult(finished=1) == await within(draining, 2)


async def test_drain_counts_a_session_whose_task_raises(drainer: Drainer, signals: DrainSignals) -> None:
    """It does not wait for it."""
    session = FakeSession()
    task = start(drainer, session)
    draining = asyncio.create_task(drainer.drain(DrainTiming(600, 5), signals))
    await eventually(lambda: drainer.is_draining)
    session.reason.set_exception(ZeroDivisionError())

    assert DrainResult(finished=1) == await within(draining, 2)
    assert isinstance(task.exception(), ZeroDivisionError)


async def test_drain_ends_when_the_last_dial_fails(
    drainer: Drainer, dials: DialsInFlight, signals: DrainSignals
) -> None:
    """No session was open."""
    with dials.track():
        draining = asyncio.create_task(drainer.drain(DrainTiming(600, 5), signals))
        await eventually(lambda: drainer.is_draining)

    assert DrainResult() == await within(draining, 2)


async def test_session_that_starts_after_the_deadline_ends_immediately(drainer: Drainer, signals: DrainSignals) -> None:
    """A dial that outlasts the drain cannot keep the process alive with its session."""
    first = FakeSession(stuck=True)
    start(drainer, first)
    draining = asyncio.create_task(drainer.drain(DrainTiming(0, 0), signals))
    await eventually(first.reason.done)
    late = start(drainer, FakeSession("late"))
    first.may_finish.set()
    await within(draining, 2)

    assert late.result() == "relay_draining"


async def test_stop_without_drain_closes_and_counts_every_session() -> None:
    """Both sides get their close frames."""
    received_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        close = await connection.until_close()
        received_close.set_result(close)
        connection.send_close(close[0] if close else None)

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=scripted")
        await client.next_event()
        stopping = asyncio.create_task(relay.app.stop())

        assert (1001, "") == await within(received_close, 5)
        assert (await client.next_event())["error"]["code"] == "relay_draining"
        await client.close()
        await stopping
        assert ["relay_draining"] == [event["reason"] for event in relay.events("session.ended")]
        assert relay.metric("realtime_relay_sessions_active") == 0


async def test_draining_event_is_sent_between_two_messages() -> None:
    """Although upstream is inside a fragmented message nearly always."""
    frames: list[str] = []
    inside_message = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        first = build_frame(Opcode.TEXT, b'{"type":"x",')
        end = asyncio.ensure_future(connection.until_close())
        while not end.done():
            connection.writer.write(bytes((first[0] & 0x7F,)) + first[1:])
            inside_message.set()  # and stays inside one at nearly every tick
            for _ in range(3):
                await asyncio.wait({end}, timeout=0.03)
                middle = build_frame(Opcode.CONTINUATION, b" ")
                connection.writer.write(bytes((middle[0] & 0x7F,)) + middle[1:])
            await asyncio.wait({end}, timeout=0.03)
            connection.writer.write(build_frame(Opcode.CONTINUATION, b'"a":1}'))
            inside_message.clear()
            await asyncio.wait({end}, timeout=0.002)
        connection.send_close(1000)

    async with scripted_relay(script, behind_101=b"") as (relay, _):
        client = await open_raw(relay.app.public_port, f"{PATH}&draining_event=true")
        await client.next_event()
        await inside_message.wait()
        draining = asyncio.ensure_future(relay.app.drainer.drain(DrainTiming(1, 0), DrainSignals()))
        while (item := await client.next_item()) is not None and isinstance(item, bytes):
            frames.append(item.decode("latin-1"))
        await client.answer_close()
        assert await draining == DrainResult(closed=1)
        await client.close()

    draining_events = [text for text in frames if "relay.draining" in text]
    assert 1 == len(draining_events)
    assert draining_events[0][2:].lstrip("\x7e").find('{"type":"relay.draining"') >= 0
    assert all(text.count("{") == 1 for text in frames if "relay.draining" not in text and "error" not in text)


async def test_draining_event_parameter_is_not_sent_upstream() -> None:
    """Unknown parameters are."""
    async with simulated_relay() as relay:
        assert relay.simulator is not None
        await eventually(lambda: relay.app.monitor.ready)  # its dials have finished
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&draining_event=true&other=1")
        await client.next_event()
        await client.close()
        query = relay.simulator.connections[-1].query

        assert {"model": "gpt-realtime", "other": "1"} == dict(query)


async def test_session_that_settles_ends_before_the_deadline(drainer: Drainer, signals: DrainSignals) -> None:
    """So much earlier that upstream can be closed by then; the others have until the deadline."""
    settling, other = FakeSession(settle_seconds=SETTLE_SECONDS), FakeSession()
    for session in (settling, other):
        start(drainer, session)
    drain = asyncio.create_task(drainer.drain(DrainTiming(SETTLE_SECONDS + 0.2, 0.0), signals))
    await settling.reason
    assert not other.reason.done()

    late = FakeSession(settle_seconds=SETTLE_SECONDS)
    start(drainer, late)
    assert late.reason.done()
    signals.close_now.set()
    await drain
