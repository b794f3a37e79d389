"""SharedStore: what holds while the store fails, comes back, and comes back without its data; on a real Redis."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from service.failures import Failure
from service.realtime.keys import Secret
from service.store.factory import make_backend
from service.store.interface import Amounts, FailureMode, Lease, Limits, Refused, Scope, Spending, Totals
from service.store.redis_backend import RedisBackend, connect
from service.store.shared import SharedStore
from service.store.url import parse_store_url
from service.telemetry.shared_store import StoreMetrics
from tests.support.harness import eventually
from tests.support.redis_server import RedisServer, running_redis
from tests.support.series import sum_of_series

KIOSK, ALICE = Scope("kiosk"), Scope("kiosk", "alice@example.com")
LEASE_SECONDS = 1.0


class Pod:
    """A store as one process has it, with scaled times."""

    def __init__(self, url: str, mode: FailureMode) -> None:
        self.registry = CollectorRegistry()
        self.checked: list[Failure | None] = []
        parsed = parse_store_url(url)
        assert parsed is not None
        self.store = SharedStore(
            RedisBackend(connect(parsed), lease_seconds=LEASE_SECONDS),
            StoreMetrics("relay", self.registry),
            mode=mode,
            heartbeat_seconds=LEASE_SECONDS / 5,
            call_seconds=2.0,  # a busy machine is no failure of the store
            retry_seconds=0.05,
            on_checked=lambda failure, _seconds: self.checked.append(failure),
        )
        self._tasks: list[asyncio.Task[None]] = []

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series with these labels."""
        return sum_of_series(self.registry, name, **labels)

    async def start(self) -> None:
        """Join the store and run the tasks."""
        await self.store.join()
        self._tasks = [asyncio.create_task(work()) for work in (self.store.keep_leases, self.store.keep_sending)]

    async def kill(self) -> None:
        """End the tasks without a word to the store."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    async def acquire(self, maximum: int, on_over_limit: Callable[[], None] | None = None) -> Lease:
        """A lease; fails if it is refused."""
        result = await self.store.acquire([Limits(scope=KIOSK, sessions=maximum)], on_over_limit=on_over_limit)
        assert not isinstance(result, Refused), result
        return result

    async def is_refused(self, maximum: int) -> bool:
        """Whether one more session is refused."""
        result = await self.store.acquire([Limits(scope=KIOSK, sessions=maximum)])
        if isinstance(result, Refused):
            return True
        result.release()
        await eventually(lambda: not self.store._membership._released, 20)
        return False

    async def until_free(self, maximum: int) -> None:
        """Wait until one more session is granted; it ends again."""
        for _ in range(2000):
            if not await self.is_refused(maximum):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("no place became free")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which keeps its data over a restart."""
    with running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


@asynccontextmanager
async def pods(server: RedisServer, count: int, mode: FailureMode = "open") -> AsyncIterator[list[Pod]]:
    """Processes that share the server."""
    async with AsyncExitStack() as stack:
        started = [Pod(server.url, mode) for _ in range(count)]
        for pod in started:
            stack.push_async_callback(pod.store.close)
            stack.push_async_callback(pod.kill)
            await pod.start()
        yield started


async def fail(server: RedisServer, *all_pods: Pod) -> None:
    """Stop the server and wait until every pod knows it."""
    server.stop()
    for pod in all_pods:
        await eventually(lambda pod=pod: not pod.store.is_up, 20)  # type: ignore[misc]  # mypy cannot infer the default


async def recover(server: RedisServer, *all_pods: Pod) -> None:
    """Start the server again and wait until every pod has registered."""
    server.start()
    for pod in all_pods:
        await eventually(lambda pod=pod: pod.store.is_up and pod.checked[-1] is None, 20)  # type: ignore[misc]  # as above


def events(logs: list[Any], name: str) -> list[Any]:
    """The log events with a name."""
    return [event for event in logs if event["event"] == name]


async def test_places_of_a_killed_pod_are_free_after_its_lease(server: RedisServer) -> None:
    """Those of a live pod stay, however long it lives."""
    async with pods(server, 2) as (one, two):
        lease = await one.acquire(2)
        await two.acquire(2)
        assert await two.is_refused(2)
        assert lease.fence > 0
        assert not lease.is_local

        await one.kill()

        await two.until_free(2)
        await two.acquire(2)
        assert await two.is_refused(2)


async def test_released_place_is_free_for_another_pod(server: RedisServer) -> None:
    """Releasing twice frees one place."""
    async with pods(server, 2) as (one, two):
        leases = [await one.acquire(2) for _ in range(2)]
        leases[0].release()
        leases[0].release()
        await two.until_free(2)
        await two.acquire(2)
        assert await two.is_refused(2)


async def test_cancelled_acquire_keeps_no_place(server: RedisServer) -> None:
    """The client left while the store was asked."""
    async with pods(server, 1) as (pod,):
        for _ in range(20):
            task = asyncio.create_task(pod.acquire(1))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                (await task).release()
        await pod.until_free(1)


async def test_open_store_grants_alone_and_registers_later(server: RedisServer) -> None:
    """Each process keeps the limit by itself; afterwards all sessions count."""
    with structlog.testing.capture_logs() as logs:
        async with pods(server, 2) as (one, two):
            await one.acquire(3)
            await fail(server, one, two)
            leases = [await one.acquire(3), await one.acquire(3), await two.acquire(3)]
            assert all(lease.is_local for lease in leases)
            assert await one.is_refused(3)
            (await two.acquire(3)).release()
            assert one.store.refusal() is None

            await recover(server, one, two)
            await eventually(lambda: not any(lease.is_local for lease in leases), 20)

            assert await one.is_refused(4)
            assert await two.is_refused(4)
            for lease in leases:
                lease.release()
            await two.until_free(2)
            assert two.metric("relay_store_up") == 1
            assert one.metric("relay_store_losses_total") == 0
    assert [2, 2, 0] == [len(events(logs, f"store.{name}")) for name in ("failed", "recovered", "data_lost")]
    assert len({event["message"] for event in events(logs, "store.failed")}) == 1


async def test_closed_store_refuses_while_it_fails(server: RedisServer) -> None:
    """With the reason store_unavailable, at once; sessions that are open keep their places."""
    async with pods(server, 1, "closed") as (pod,):
        lease = await pod.acquire(2)
        await fail(server, pod)
        with pytest.raises(Failure) as failed:
            await pod.acquire(2)
        assert failed.value.reason == "store_unavailable"
        refusal = pod.store.refusal()
        assert refusal is not None
        assert refusal.reason == "store_unavailable"
        assert pod.metric("relay_store_up") == 0
        assert pod.metric("relay_store_calls_total", call="acquire", result="skipped") == 1

        await recover(server, pod)

        assert pod.store.refusal() is None
        assert not lease.is_local
        await pod.acquire(2)
        assert await pod.is_refused(2)


async def test_session_whose_place_was_taken_is_ended_by_a_closed_store(server: RedisServer) -> None:
    """A process that was suspended for longer than its lease learns which of its sessions are too many."""
    async with pods(server, 2, "closed") as (one, two):
        over: list[str] = []
        first = await one.acquire(2, lambda: over.append("first"))
        await one.acquire(2, lambda: over.append("second"))
        await one.kill()
        await two.until_free(2)
        await two.acquire(2)
        fence = first.fence

        await one.start()

        await eventually(lambda: first.fence > fence, 20)
        assert over == ["second"]
        assert one.metric("relay_store_sessions_over_limit_total") == 1
        assert await two.is_refused(3)


async def test_spending_waits_for_the_store_and_counts_once(server: RedisServer) -> None:
    """Reports that the store has already, and whose answer was lost, are sent again."""
    async with pods(server, 2) as (one, two):
        await one.store.spend_and_read(Spending("a", (KIOSK, ALICE), Amounts(100, 1, 10)))
        await two.store.spend_and_read(Spending("b", (KIOSK,), Amounts(1000)))
        server.send_signal(signal.SIGSTOP)
        lost_answer = asyncio.create_task(one.store.spend_and_read(Spending("a", (KIOSK, ALICE), Amounts(150, 2, 20))))
        await asyncio.sleep(0.1)
        server.send_signal(signal.SIGCONT)
        await lost_answer
        await fail(server, one, two)
        known = await one.store.spend_and_read(Spending("a", (KIOSK, ALICE), Amounts(170, 3, 30)))
        assert known[KIOSK].day.microusd >= 170
        assert known[ALICE].day == Amounts(170, 3, 30)
        one.store.spend(Spending("a", (KIOSK, ALICE), Amounts(180, 4, 40), is_final=True))
        one.store.spend(Spending("c", (KIOSK,), Amounts(20)))
        assert one.metric("relay_store_journal_records") == 2

        await recover(server, one, two)

        await eventually(lambda: one.metric("relay_store_journal_records") == 0, 20)
        day = Amounts(1200, 4, 40)
        assert await two.store.totals([KIOSK]) == {KIOSK: Totals(day, day)}
        assert one.metric("relay_store_losses_total") == 0


async def test_store_that_comes_back_empty_is_reported(server: RedisServer) -> None:
    """Open sessions are registered again, and their spending counts from their beginning."""
    with structlog.testing.capture_logs() as logs:
        async with pods(server, 1) as (pod,):
            await pod.acquire(2)
            await pod.store.spend_and_read(Spending("ended", (KIOSK,), Amounts(500), is_final=True))
            await pod.store.spend_and_read(Spending("open", (KIOSK,), Amounts(10)))
            await fail(server, pod)
            server.forget()
            await recover(server, pod)

            assert not await pod.is_refused(2)
            assert await pod.is_refused(1)
            totals = await pod.store.spend_and_read(Spending("open", (KIOSK,), Amounts(30)))
            assert totals[KIOSK].day == Amounts(30)
            assert pod.metric("relay_store_losses_total", kind="data") == 1
    assert len(events(logs, "store.data_lost")) == 1


async def test_hanging_store_is_given_up_after_three_calls(server: RedisServer) -> None:
    """Each waits for its time limit; further calls do not wait."""
    parsed = parse_store_url(server.url)
    registry = CollectorRegistry()
    store = SharedStore(make_backend(parsed), StoreMetrics("relay", registry), call_seconds=0.1)
    await store.join()
    server.send_signal(signal.SIGSTOP)
    try:
        limits = [Limits(scope=KIOSK, sessions=1)]
        results = [await store.acquire(limits) for _ in range(5)]
        assert [isinstance(result, Refused) for result in results] == [False, True, True, True, True]
        assert not store.is_up
        assert sum_of_series(registry, "relay_store_calls_total", call="acquire", result="timeout") == 3
        assert sum_of_series(registry, "relay_store_calls_total", call="acquire", result="skipped") == 2
    finally:
        server.send_signal(signal.SIGCONT)
        await store.close()


async def test_secrets_need_the_store_and_are_not_kept_in_clear(server: RedisServer) -> None:
    """In both modes; the append-only file holds no secret and no user."""
    secret = Secret("ek_CANARY3secret")
    async with pods(server, 2) as (one, two):
        await one.store.put_secret(secret, b"payload", 60)
        with pytest.raises(ValueError, match="exists"):
            await two.store.put_secret(secret, b"payload", 60)
        await one.store.spend_and_read(Spending("a", (ALICE,), Amounts(1)))
        results = await asyncio.gather(*(pod.store.take_secret(secret) for pod in (one, two, one, two)))
        assert sorted(map(str, results)) == ["b'payload'", "used", "used", "used"]
        await fail(server, one)
        for call in (one.store.take_secret(secret), one.store.put_secret(secret, b"", 60)):
            with pytest.raises(Failure, match="store"):
                await call
    written = server.written()
    assert b"rr:secret:" in written
    assert b"CANARY3" not in written
    assert b"alice" not in written


async def test_closing_frees_the_places_and_sends_the_spending(server: RedisServer) -> None:
    """Another process does not wait for the lease."""
    async with pods(server, 2) as (one, two):
        await one.acquire(1)
        await one.kill()
        one.store.spend(Spending("a", (KIOSK,), Amounts(7)))
        await one.store.close()
        await two.acquire(1)
        assert (await two.store.totals([KIOSK]))[KIOSK].day == Amounts(7)


async def test_spending_that_never_reaches_the_store_is_reported(server: RedisServer) -> None:
    """The process ends while the store fails."""
    with structlog.testing.capture_logs() as logs:
        async with pods(server, 1) as (pod,):
            await fail(server, pod)
            pod.store.spend(Spending("a", (KIOSK,), Amounts(7)))
        assert pod.metric("relay_store_losses_total", kind="spending") == 1
    assert [event["records"] for event in events(logs, "store.spending_lost")] == [1]


async def test_memory_store_needs_no_server() -> None:
    """It is not shared, is up, and enforces limits."""
    store = SharedStore(make_backend(None), StoreMetrics("relay", CollectorRegistry()))
    await store.join()
    assert not store.is_shared
    assert store.is_up
    limits = [Limits(scope=KIOSK, sessions=1)]
    assert not isinstance(await store.acquire(limits), Refused)
    assert isinstance(await store.acquire(limits), Refused)
    await store.close()
