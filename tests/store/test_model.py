"""Memory and Redis give the same answers to any sequence of operations."""

# ruff: noqa: D102 - the names of the rules are those of the operations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from redis import Redis

from service.store.interface import Amounts, Ceiling, Held, Limits, Member, Scope, Spending, StoreBackend
from service.store.memory import MemoryBackend
from service.store.redis_backend import RedisBackend, connect
from service.store.state import FINAL_RECORD_MS, StoreState
from service.store.url import parse_store_url
from tests.store.conftest import FakeClock
from tests.support.redis_server import RedisServer

PODS = st.sampled_from(["pod-a", "pod-b", "pod-c"])
LEASES = st.sampled_from([f"lease-{n}" for n in range(12)])
SCOPES = st.sampled_from([Scope("kiosk"), Scope("kiosk", "alice"), Scope("app"), Scope("app", "bob")])
FEW = st.none() | st.integers(0, 4)
AMOUNTS = st.builds(Amounts, *[st.integers(0, 40)] * 3)
CEILINGS = st.builds(Ceiling, microusd=FEW, tokens=st.none() | st.integers(0, 200), milliseconds=st.none())
LIMITS = st.lists(
    st.builds(Limits, scope=SCOPES, sessions=FEW, starts_per_minute=FEW, day=CEILINGS, month=CEILINGS),
    min_size=1,
    max_size=3,
    unique_by=lambda limits: limits.scope,
)
HELD = st.lists(
    st.builds(
        Held, LEASES, st.lists(st.tuples(SCOPES, FEW), min_size=1, max_size=2, unique_by=lambda p: p[0]).map(tuple)
    ),
    max_size=4,
    unique_by=lambda held: held.lease,
)
RECORD_SCOPES = (
    (Scope("kiosk"),),
    (Scope("kiosk"), Scope("kiosk", "alice")),
    (Scope("app"), Scope("app", "bob")),
    (Scope("app", "bob"),),
)
REPORTS = st.lists(
    st.builds(
        lambda number, amounts, is_final: Spending(f"record-{number}", RECORD_SCOPES[number], amounts, is_final),
        st.integers(0, 3),
        AMOUNTS,
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)
DIGESTS = st.sampled_from(["0" * 64, "1" * 64])
TIMES = st.sampled_from(
    [1, 5_000, 24_999, 25_000, 60_000, 600_000, 3_600_000, 86_400_000, 3 * 86_400_000, 9 * 86_400_000]
)


class Comparison(RuleBasedStateMachine):
    """Every operation on both backends, whose clocks are equal. A subclass sets a client, a backend and a loop."""

    client: Redis
    redis: RedisBackend
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.members: dict[str, Member] = {}
        self.clock = FakeClock(self.client)
        self.memory = MemoryBackend(StoreState(self.clock, final_record_ms=FINAL_RECORD_MS))

    def both(self, call: Callable[[StoreBackend], Awaitable[Any]]) -> tuple[Any, Any]:
        async def run() -> tuple[Any, Any]:
            return await call(self.memory), await call(self.redis)

        return self.runner.run(run())

    def same(self, call: Callable[[StoreBackend], Awaitable[Any]]) -> None:
        memory, redis = self.both(call)
        assert memory == redis

    @rule(pod=PODS)
    def register(self, pod: str) -> None:
        memory, redis = self.both(lambda store: store.register(pod))
        assert memory.member == redis.member
        self.members[pod] = memory.member

    def member(self, pod: str) -> Member:
        return self.members.get(pod, Member(f"{pod}#1", 1))

    @rule(pod=PODS, released=st.lists(LEASES, max_size=3))
    def heartbeat(self, pod: str, released: list[str]) -> None:
        memory, redis = self.both(lambda store: store.heartbeat(self.member(pod), released))
        assert (memory is None) == (redis is None)

    @rule(pod=PODS, lease=LEASES, limits=LIMITS)
    def acquire(self, pod: str, lease: str, limits: list[Limits]) -> None:
        self.same(lambda store: store.acquire(self.member(pod), lease, limits))

    @rule(pod=PODS, held=HELD)
    def hold(self, pod: str, held: list[Held]) -> None:
        self.same(lambda store: store.hold(self.member(pod), held))

    @rule(pod=PODS)
    def leave(self, pod: str) -> None:
        self.same(lambda store: store.leave(self.member(pod)))

    @rule(reports=REPORTS)
    def spend(self, reports: list[Spending]) -> None:
        self.same(lambda store: store.spend(reports))

    @rule(scopes=st.lists(SCOPES, max_size=3, unique=True))
    def totals(self, scopes: list[Scope]) -> None:
        self.same(lambda store: store.totals(scopes))

    @rule(digest=DIGESTS, payload=st.binary(max_size=20), seconds=st.integers(10, 600))
    def put_secret(self, digest: str, payload: bytes, seconds: int) -> None:
        self.same(lambda store: store.put_secret(digest, payload, seconds))

    @rule(digest=DIGESTS)
    def take_secret(self, digest: str) -> None:
        self.same(lambda store: store.read_secret(digest))
        self.same(lambda store: store.take_secret(digest))

    @rule(milliseconds=TIMES)
    def advance(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)


def test_memory_and_redis_answer_alike(redis_server: RedisServer) -> None:
    """Any sequence of operations, with any passage of time between them."""
    url = parse_store_url(redis_server.url)
    assert url is not None
    with asyncio.Runner() as runner, Redis(port=redis_server.port) as client:
        parts = {"client": client, "redis": RedisBackend(connect(url), now=FakeClock.LUA), "runner": runner}
        examples = 40 if settings().max_examples <= 100 else 5000  # the profile deep
        run_state_machine_as_test(
            type("Machine", (Comparison,), parts),
            settings=settings(max_examples=examples, stateful_step_count=40),
        )
        runner.run(parts["redis"].close())
