"""Answers that are none of the relay's scripts, and a server that forgets: each is a failure of the store, never a crash."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from service.access.secrets import Grant
from service.failures import Failure
from service.store import membership
from service.store.interface import (
    Amounts,
    FailureMode,
    Held,
    Limits,
    Member,
    Refused,
    Scope,
    Spending,
    StoreError,
    Totals,
)
from service.store.memory import MemoryBackend
from service.store.redis_backend import RedisBackend, connect
from service.store.shared import SharedStore
from service.store.state import StoreState
from service.store.url import parse_store_url
from service.telemetry.shared_store import StoreMetrics
from tests.support.harness import eventually
from tests.support.tcp_server import listening

KIOSK = Scope("kiosk")
LIMITS = (Limits(scope=KIOSK, sessions=1),)
MEMBER = Member("pod#1", 1)
OPERATIONS: dict[str, Callable[[RedisBackend], Any]] = {
    "register": lambda store: store.register("pod"),
    "hold": lambda store: store.hold(MEMBER, [Held("lease", ((KIOSK, 1),))]),
    "heartbeat": lambda store: store.heartbeat(MEMBER, ["lease"]),
    "acquire": lambda store: store.acquire(MEMBER, "lease", LIMITS),
    "spend": lambda store: store.spend([Spending("record", (KIOSK,), Amounts(1))]),
    "totals": lambda store: store.totals([KIOSK]),
    "put_secret": lambda store: store.put_secret("digest", b"payload", 10),
    "read_secret": lambda store: store.read_secret("digest"),
    "take_secret": lambda store: store.take_secret("digest"),
}
ANSWERS = (
    b":7\r\n",
    b"+OK\r\n",
    b"*1\r\n*2\r\n:1\r\n:2\r\n",
    b"*2\r\n:1\r\n:9999999999\r\n",
    b"*1\r\n$1\r\n\xff\r\n",
    b":x\r\n",
)
PLAUSIBLE = {("heartbeat", b"+OK\r\n")}
"""Any text can be the id of the data."""


@asynccontextmanager
async def server_that_answers(answer: bytes) -> AsyncIterator[RedisBackend]:
    """A backend on a server that greets like Redis and answers each script with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(answer if b"\r\nEVAL" in data else b"+OK\r\n")

    async with listening(serve) as port:
        url = parse_store_url(f"redis://127.0.0.1:{port}")
        assert url is not None
        store = RedisBackend(connect(url))
        try:
            yield store
        finally:
            await store.close()


@pytest.mark.parametrize("answer", ANSWERS)
async def test_answer_of_another_kind_is_a_failure_of_the_store(answer: bytes) -> None:
    """Whatever the operation: the breaker counts it, and the text names what is wrong and none of the answer."""
    async with server_that_answers(answer) as store:
        for name, operation in OPERATIONS.items():
            if (name, answer) not in PLAUSIBLE:
                with pytest.raises(StoreError, match="the answer is none that the relay's scripts give"):
                    await operation(store)


async def test_budget_holds_while_the_store_answers_nonsense() -> None:
    """The totals are then those that this process knows, as with a store that does not answer."""
    async with server_that_answers(b":7\r\n") as backend:
        store = SharedStore(backend, StoreMetrics("relay", CollectorRegistry()))
        spent = Totals(Amounts(5), Amounts(5))
        for _ in range(4):
            assert {KIOSK: spent} == await store.spend_and_read(Spending("record", (KIOSK,), Amounts(5)))
        assert not store.is_up


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"[]", b"{}", b'{"version": 1}', b'{"version": 1, "session": 5, "locked": []}']
)
def test_payload_that_no_relay_has_written_grants_nothing(payload: bytes) -> None:
    """The secret is unknown then, as one of another version."""
    assert Grant.decode(payload) is None


class Faulty:
    """A backend that can fail, or forget its members at once, as behind an address that leads to several servers."""

    def __init__(self) -> None:
        self._backend = MemoryBackend(StoreState())
        self.fails = self.forgets = False
        self.registrations = 0

    def __getattr__(self, name: str) -> Any:
        """An operation of the backend."""

        async def call(*arguments: Any) -> Any:
            if self.fails:
                raise StoreError("no connection")
            result = await getattr(self._backend, name)(*arguments)
            if name == "register":
                self.registrations += 1
                if self.forgets:
                    await self._backend.leave(result.member)
            return result

        return call


@asynccontextmanager
async def running_store(backend: Faulty, mode: FailureMode = "open") -> AsyncIterator[tuple[SharedStore, list[Any]]]:
    """A store with its task, and the results of its heartbeats."""
    checked: list[Any] = []
    store = SharedStore(
        cast("Any", backend),
        StoreMetrics("relay", CollectorRegistry()),
        mode=mode,
        on_checked=lambda failure, _: checked.append(failure),
        heartbeat_seconds=0.05,
        retry_seconds=0.05,
    )
    await store.join()
    task = asyncio.create_task(store.keep_leases())
    try:
        yield store, checked
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_server_that_forgets_each_registration_is_given_up(mode: FailureMode) -> None:
    """`open` decides alone, `closed` refuses; neither asks without end, and the check of the store fails."""
    backend = Faulty()
    backend.forgets = True
    async with asyncio.timeout(20), running_store(backend, mode) as (store, checked):
        outcomes = [await _outcome(store) for _ in range(3)]
        assert outcomes == (["granted", "refused", "refused"] if mode == "open" else ["store_unavailable"] * 3)
        assert backend.registrations < 20
        if mode == "open":  # the session that was granted cannot be registered
            await eventually(lambda: any(checked), 10)
            assert "several servers" in next(filter(None, checked)).evidence["cause"]


async def _outcome(store: SharedStore) -> str:
    try:
        return "refused" if isinstance(await store.acquire(LIMITS), Refused) else "granted"
    except Failure as failure:
        return failure.reason


async def test_releases_that_cannot_be_sent_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client at its limit that connects again and again while the store fails takes no memory; places stay right."""
    monkeypatch.setattr(membership, "MAX_RELEASED", 10)
    backend = Faulty()
    async with running_store(backend) as (store, _):
        kept = await store.acquire(LIMITS)
        assert not isinstance(kept, Refused)
        backend.fails = True
        for _ in range(100):
            assert isinstance(await store.acquire(LIMITS), Refused)
        assert not store.is_up
        assert len(store._membership._released) <= 10
        backend.fails = False
        await eventually(lambda: store.is_up and not store._membership._released, 10)
        assert isinstance(await store.acquire(LIMITS), Refused)
        kept.release()
        await eventually(lambda: not store._membership._released, 10)
        assert not isinstance(await store.acquire(LIMITS), Refused)
