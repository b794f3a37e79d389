"""A relay with a strict simulator behind it, of which the first dials have a behaviour of their own."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from service import app
from service.relay.continuity.pool import ContinuityOptions, ContinuityPool
from service.relay.continuity.renewable_session import RenewableSession
from service.simulator import Behaviour, Fault, Simulator, SimulatorOptions
from service.simulator.record import ConnectionRecord
from service.telemetry.continuity import ContinuityMetrics
from tests.continuity.caller import Caller
from tests.support.harness import Relay, eventually, running_relay

FAST = Behaviour()


@dataclass(frozen=True, slots=True)
class Stage:
    """The relay and its simulator."""

    relay: Relay
    simulator: Simulator
    probes: int  # upstream connections of health checks

    @property
    def upstreams(self) -> list[ConnectionRecord]:
        """The upstream connections of sessions, in the order of the dials."""
        return self.simulator.upstreams()[self.probes :]

    @property
    def conversations(self) -> list[Any]:
        """The `ConversationRecord` of each of them."""
        return [record.conversation for record in self.upstreams if record.conversation is not None]

    def swaps(self, cause: str, result: str = "ok") -> float:
        """How many swaps were counted."""
        return self.relay.metric("realtime_relay_swaps_total", cause=cause, result=result)

    async def ended(self) -> str:
        """Wait for the end of the only session; returns the reason."""
        await eventually(lambda: bool(self.relay.events("session.ended")), 20)
        [line] = self.relay.events("session.ended")
        return str(line["reason"])


@contextmanager
def checked_pool() -> Iterator[None]:
    """Check that the sessions of a relay give back all that they share: bytes, places and slots."""
    pools: list[ContinuityPool] = []

    def new_pool(options: ContinuityOptions, metrics: ContinuityMetrics) -> ContinuityPool:
        pools.append(pool := ContinuityPool(options, metrics))
        return pool

    with patch.object(app, "ContinuityPool", new_pool):
        yield
    [pool] = pools
    dials = pool.options.max_dials
    assert (pool._bytes, pool._sessions) == (0, 0)
    assert (pool.renewals._free, pool.recoveries._free) == (max(1, dials // 4), max(1, dials // 2))


@asynccontextmanager
async def stage(
    *dials: Behaviour,
    default: Behaviour = FAST,
    pace: float = 0,
    **settings: str,
) -> AsyncIterator[Stage]:
    """Run both; `dials` are the behaviours of the first dials of clients."""
    options = SimulatorOptions(
        pace=pace, keep_conversations=True, numbered_answers=True, default=default, call_ids=frozenset({"rtc_known"})
    )
    with checked_pool():
        async with (
            Simulator(options) as simulator,
            running_relay(simulator=simulator, intervals=None, adjust=None, **settings) as relay,
        ):
            await relay.app.monitor.wait_for_first_refresh(30)
            await eventually(lambda: all(record.closed for record in simulator.upstreams()))
            simulator.set_dials(*dials)
            yield Stage(relay, simulator, len(simulator.upstreams()))


def session_of(found: Stage) -> RenewableSession:
    """The only session."""
    [session] = found.relay.app.sessions
    assert isinstance(session, RenewableSession)
    return session


async def renew(found: Stage) -> None:
    """Let the renewal of the session be due, long before its end: on a busy machine no limit comes first."""
    swapper = session_of(found)._swapper
    await eventually(lambda: swapper._expires_at is not None)
    swapper._swap._prepare_at = swapper._idle_until = 0.0


async def prepare(found: Stage, caller: Caller) -> None:
    """Have a second connection prepared that does not take over: the client speaks, so that there is no boundary."""
    caller.speak(100)
    await caller.until("input_audio_buffer.speech_started")
    await renew(found)
    await eventually(lambda: len(found.upstreams) == 2, 10)


async def force(found: Stage) -> None:
    """Let the time of a renewal that has begun be over, as soon as the new connection is in sync."""
    swap = session_of(found)._swapper._swap
    await eventually(lambda: swap.state == "ready", 10)
    swap._expires_at = 0.0


def failing(*faults: Fault) -> Behaviour:
    """A connection that ends by the first fault that matches."""
    return Behaviour(faults=faults)
