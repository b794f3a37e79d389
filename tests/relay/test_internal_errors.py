"""Unexpected exceptions within a session: they end this session with `internal_error`, and no other."""

import contextlib
import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import structlog

from service.failures import CATALOGUE
from service.relay.pipe import Pipe
from service.relay.session import Session
from tests.support import scripted_upstream
from tests.support.harness import eventually, open_raw, running_relay, within
from tests.support.invariants import assert_no_leaks
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

PATH: Final = "/v1/realtime?model=scripted"


class BrokenLog:
    """A logger that raises, for these events or for all."""

    def __init__(self, log: Any, events: tuple[str, ...] = ()) -> None:
        self._log, self._events = log, events

    def bind(self, **values: object) -> "BrokenLog":
        """As of a real logger."""
        return BrokenLog(self._log.bind(**values), self._events)

    def __getattr__(self, method: str) -> Callable[..., object]:
        def write(*args: Any, **values: object) -> object:
            if not self._events or set(args) & set(self._events):
                raise BrokenPipeError
            return getattr(self._log, method)(*args, **values)

        return write


def broken(*_: object, **__: object) -> None:
    """Raise."""
    raise ZeroDivisionError


ERROR_EVENT: Final = b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value","message":"m"}}'


def break_metric(relay_session: Session, name: str, method: str) -> None:
    """Let a metric raise for this session only; all sessions share the real one."""
    relay_session._reporter._metrics = copy.copy(relay_session._reporter._metrics)
    setattr(relay_session._reporter._metrics, name, SimpleNamespace(**{method: broken}))


def break_counter(relay_session: Session) -> None:
    """Let the counter of messages raise for this session only."""
    relay_session._to_client._traffic = cast("Any", SimpleNamespace(bytes=0, held_back_seconds=0.0, count=broken))


def break_log(relay_session: Session, *events: str) -> None:
    """Let the log raise for this session only, for these events or for all."""
    relay_session._reporter._log = BrokenLog(relay_session._reporter._log, events)


FAULTS: Final[dict[str, Callable[[Session], None]]] = {
    "client_to_upstream": lambda relay_session: setattr(relay_session._to_upstream, "on_processed", broken),
    "upstream_to_client": lambda relay_session: setattr(relay_session._to_client, "on_processed", broken),
    "writing to upstream": lambda relay_session: setattr(relay_session._upstream, "write", broken),
    "counter of messages": break_counter,
    "metric of an incident": lambda relay_session: break_metric(relay_session, "upstream_errors", "labels"),
    "log line of an incident": lambda relay_session: break_log(relay_session, "session.incident_seen"),
    "every log line": break_log,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_exception_ends_only_its_own_session(fault: str) -> None:
    """With internal_error: both sockets are closed, the ending is counted, and another session goes on."""

    async def echo_and_fail(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            connection.send(payload)
            connection.send(ERROR_EVENT)

    async with (
        assert_no_leaks(),
        raw_upstream(echo_and_fail) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
        contextlib.AsyncExitStack() as closing,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        other, failing = await open_raw(relay.app.public_port, PATH), await open_raw(relay.app.public_port, PATH)
        for client in (other, failing):
            closing.push_async_callback(client.close)
            await client.next_event()
        FAULTS[fault](tuple(relay.app.sessions)[-1])
        failing.send_event(type="session.update")
        close = await within(failing.until_close(), 2)
        await failing.close()
        await eventually(lambda: upstream.open == 1, 2)
        await eventually(lambda: len(relay.app.sessions) == 1)

        assert (1011, CATALOGUE["internal_error"].close_text) == close
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="internal_error")
        assert 1 == relay.metric("realtime_relay_sessions_active")
        if fault != "every log line":
            ids = [line["session_id"] for line in relay.events("session.failed") + relay.events("session.ended")]
            assert len(ids) >= 2
            assert len(set(ids)) == 1
        other.send_event(type="session.update")
        assert {"type": "session.update"} == await other.next_event()


async def test_exception_at_the_start_closes_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log line of the start cannot be written."""
    real = structlog.get_logger

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    async with (
        assert_no_leaks(),
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        broken_structlog = SimpleNamespace(get_logger=lambda: BrokenLog(real(), ("session.started",)))
        monkeypatch.setattr("service.relay.reporter.structlog", broken_structlog)
        client = await open_raw(relay.app.public_port, PATH)
        with contextlib.suppress(ConnectionError):
            await within(client.until_close(), 2)
        await client.close()

        await eventually(lambda: upstream.open == 0, 2)
        await eventually(lambda: len(relay.app.sessions) == 0)
        assert 0 == relay.metric("realtime_relay_sessions_active")


@pytest.mark.parametrize("part", ["session_watch.due_ending", "pipe.Pipe._count"])
async def test_exception_in_a_tick_or_an_event_ends_the_session(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ticks the session would have no limits. At the first event the client is not just disconnected."""

    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    monkeypatch.setattr(f"service.relay.{part}", faulty)
    async with scripted_upstream.session(script) as scripted:
        client = scripted.client
        assert (await client.next_event())["error"]["code"] == "internal_error"
        assert (1011, CATALOGUE["internal_error"].close_text) == await client.until_close()
        await client.close()
        assert await scripted.ended() == "internal_error"


async def test_unexpected_exception_ends_one_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With internal_error; another session goes on."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        while data := await connection.reader.read(65_536):
            del data
            connection.send(b'{"type":"session.updated"}')

    real = Pipe._count

    def faulty(self: Pipe, event_type: str | None) -> None:
        if event_type == "session.close":
            raise ZeroDivisionError
        real(self, event_type)

    monkeypatch.setattr(Pipe, "_count", faulty)
    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        failing, other = await open_raw(relay.app.public_port, PATH), await open_raw(relay.app.public_port, PATH)
        await failing.next_event()
        await other.next_event()
        failing.send_event(type="session.close")
        while (event := await failing.next_event())["type"] != "error":
            pass
        assert event["error"]["code"] == "internal_error"
        assert await failing.until_close() == (1011, CATALOGUE["internal_error"].close_text)

        other.send_event(type="session.update")
        assert (await other.next_event())["type"] == "session.updated"
        await failing.close()
        await other.close()
