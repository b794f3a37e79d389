"""service/relay/continuity/preparation.py and connections.py: connections that no session has yet, or any more."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.replay import Replay
from service.realtime.continuity.swap import Swap, SwapTimes
from service.relay.continuity.connections import close_later
from service.relay.continuity.guarded_calls import GuardedCalls
from service.relay.continuity.preparation import Preparation
from service.upstream.dial import UpstreamConnection


class FakeConnection:
    """A connection, and its leg, which may be full or at its end."""

    def __init__(self) -> None:
        self.leg = self
        self.full_since: float | None = None
        self.at_eof = self.is_aborted = False
        self.on_writable: Callable[[], object] | None = None
        self.sent: list[bytes] = []

    def send_event(self, payload: bytes) -> None:
        """Called to send an event."""
        self.sent.append(payload)

    def abort(self) -> None:
        """Called to close it."""
        self.is_aborted = True


class Slices:
    """A replay of three slices."""

    fault = None

    def __init__(self) -> None:
        self.left = 3

    def take(self, **_: Any) -> list[bytes]:
        """Called for the next slice."""
        self.left -= 1
        return [b"{}"] if self.left >= 0 else []


class Prepared:
    """A preparation that has its connection, and how often it went on and failed."""

    def __init__(self) -> None:
        self.progress: list[None] = []
        self.failures: list[tuple[str, bool]] = []
        self.connection = FakeConnection()
        self.preparation = Preparation(
            Continuity(),
            Swap(times=SwapTimes(), random=lambda: 0.5),
            calls=GuardedCalls(pytest.fail),
            is_recovery=False,
            on_progress=lambda: self.progress.append(None),
            on_failed=lambda why, is_final: self.failures.append((why, is_final)),
        )

    @property
    def connected(self) -> UpstreamConnection:
        """The connection, as a dial returns it."""
        return cast("UpstreamConnection", self.connection)


async def test_full_connection_is_sent_the_rest_once_it_is_writable() -> None:
    """A conversation may have megabytes, and upstream may read them slowly."""
    found = Prepared()
    found.preparation.connection, found.preparation.replay = found.connected, cast("Replay", Slices())
    found.connection.full_since = 1.0
    found.preparation.pump()
    assert not found.connection.sent
    assert found.connection.on_writable is not None
    found.connection.full_since = None
    found.connection.on_writable()
    assert len(found.connection.sent) == 1


async def test_connection_that_comes_too_late_is_closed() -> None:
    """The session has ended, or has dialled again."""
    found = Prepared()
    found.preparation.abort()
    found.preparation._begin(found.connected)
    assert found.connection.is_aborted
    assert (found.progress, found.failures) == ([], [])


async def test_connection_that_has_ended_does_not_take_over() -> None:
    """Also before its loss is reported: those of many sessions are reported one after another."""
    found = Prepared()
    found.preparation.connection = found.connected
    assert found.preparation.at_boundary
    found.connection.at_eof = True
    assert not found.preparation.at_boundary


async def test_connection_is_closed_although_the_session_ends_before_that_has_begun() -> None:
    """The task is cancelled before its first step, so that nothing in it closes anything."""
    calls, connection = GuardedCalls(pytest.fail), FakeConnection()

    async def close() -> None:
        raise AssertionError

    close_later(cast("UpstreamConnection", connection), calls, close())
    calls.stop()
    await calls.wait_stopped(5)
    assert connection.is_aborted
