"""service/supervisor.py: restart, liveness, stop, the lag of the event loop."""

import asyncio
import time

import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from service import supervisor
from service.supervisor import Supervisor, measure_lag
from tests.support.harness import eventually


async def test_supervisor_restarts_and_counts_a_crashed_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that raises is started again after the pause, and `is_alive` stays true."""
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", 0.01)
    crashes = Counter("crashes", "Crashes.", registry=CollectorRegistry())
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise RuntimeError
        await asyncio.Event().wait()

    tasks = Supervisor(crashes)
    tasks.start("work", work)
    await eventually(lambda: starts == 3)

    assert 2 == crashes._value.get()
    assert tasks.is_alive()
    await tasks.stop()
    assert not tasks.is_alive()
    await tasks.stop()


async def test_blocked_event_loop_shows_in_the_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocking the loop for 0.1 s is observed as a lag of about that, and logged where it exceeds the bound."""
    monkeypatch.setattr(supervisor, "LAG_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "STALL_SECONDS", 0.08)
    lag = Histogram("lag", "Lag.", registry=CollectorRegistry())
    with structlog.testing.capture_logs() as logs:
        measuring = asyncio.ensure_future(measure_lag(lag.observe))
        await asyncio.sleep(0)
        time.sleep(0.1)  # noqa: ASYNC251 - blocking the loop is the case
        await eventually(lambda: lag._sum.get() > 0.05)
    measuring.cancel()

    assert logs[0]["event"] == "process.stalled"
    assert logs[0]["seconds"] >= 0.1
