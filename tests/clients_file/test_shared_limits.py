"""Limits of a client that hold for several relays on one Redis, over real sockets."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.store.shared import SharedStore
from tests.clients_file.relays import connect, refusal, relay_of, table
from tests.support.harness import eventually
from tests.support.redis_server import RedisServer, running_redis

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of its own, which a test can stop."""
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


async def test_limits_hold_for_three_relays_together(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 callers at three relays: 7 sessions. A place that is free at one relay is free at all; starts count together."""
    defaults = SharedStore.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "call_seconds", 5.0)  # a busy machine is no failure of the store
    text = table("kiosk", "max_sessions = 7") + table("web", "starts_per_minute = 4")
    async with AsyncExitStack() as stack:
        relays = [
            await stack.enter_async_context(
                relay_of(tmp_path / f"clients{number}.toml", text, RELAY_STORE_URL=redis.url)
            )
            for number in range(3)
        ]
        clients = await asyncio.gather(*(connect(relays[number % 3]) for number in range(30)))
        opened = [client for client in clients if client.answer.status == 101]
        assert 7 == len(opened)
        refused = next(client for client in clients if client.answer.status != 101)
        assert (429, "too_many_sessions") == (refused.answer.status, refused.answer.error["code"])
        assert "max_sessions of [clients.kiosk] in RELAY_CLIENTS_FILE" in refused.answer.error["remedy"]

        await opened[0].close()
        await eventually(lambda: 6 == sum(relay.metric("realtime_relay_sessions_active") for relay in relays))
        found = [await refusal(relay, "web") for relay in (*relays, *relays)]
        assert [(101, None)] * 4 + [(429, "too_many_connects")] * 2 == found
        for client in clients:
            await client.close()


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_store_that_stops_is_handled_as_set(mode: str, redis: RedisServer, tmp_path: Path) -> None:
    """Open: the relay counts alone. Closed: 503. A client without limits in the store is not refused by its own limits."""
    text = table("kiosk", "max_sessions = 1")
    async with relay_of(tmp_path / "clients.toml", text, RELAY_STORE_URL=redis.url, RELAY_STORE_FAILURE=mode) as relay:
        redis.stop(signal.SIGKILL)
        first = await connect(relay)
        second = await connect(relay)
        found = [None if c.answer.status == 101 else c.answer.error["code"] for c in (first, second)]

        expected = [None, "too_many_sessions"] if mode == "open" else ["store_unavailable"] * 2
        assert expected == found
        await first.close()
        await second.close()
