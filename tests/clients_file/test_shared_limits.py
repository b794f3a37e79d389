"""Limits of a client that hold for several relays on one Redis, over real sockets."""

import asyncio
import json
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.store.interface import Scope, StoreError, Totals
from service.store.redis_backend import RedisBackend
from service.store.redis_backend import connect as connect_redis
from service.store.shared import SharedStore
from service.store.url import parse_store_url
from tests.clients_file.relays import TOKENS, connect, refusal, relay_of, table, write
from tests.clients_file.test_budgets import next_of, respond
from tests.support.harness import Relay, eventually, open_raw
from tests.support.redis_server import RedisServer, running_redis
from tests.support.relay_process import serving

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of its own, which a test can stop."""
    with running_redis(tmp_path, *DURABLE) as server:
        yield server


def text_of(path: Path) -> str:
    """A file, or nothing."""
    return path.read_text() if path.exists() else ""


async def test_limits_hold_for_three_relays_together(redis: RedisServer, tmp_path: Path) -> None:
    """30 callers at three relays: 7 sessions. A place that is free at one relay is free at all; starts count together."""
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


@pytest.mark.parametrize("restarts", [False, True])
async def test_budget_holds_for_three_relays_and_equals_the_records(
    restarts: bool, redis: RedisServer, tmp_path: Path
) -> None:
    """Parallel sessions on all, and reconnects: each session gets at most one response too many.

    While the store is away each relay counts alone. What the store has in the end is the sum of the records, to the
    micro-USD: nothing counts twice, nothing is lost.
    """
    text = table("kiosk", "tokens_per_day = 400\nusd_per_month = 1000")
    async with AsyncExitStack() as stack:
        relays = [
            await stack.enter_async_context(
                relay_of(
                    tmp_path / f"clients{number}.toml",
                    text,
                    RELAY_STORE_URL=redis.url,
                    RELAY_RECORDS=str(tmp_path / f"records{number}.jsonl"),
                )
            )
            for number in range(3)
        ]

        async def talk(relay: Relay) -> list[str]:
            """Talk until the relay refuses, with a new connection after each third response."""
            results: list[str] = []
            for _ in range(100):
                client = await connect(relay)
                if client.answer.status != 101:
                    results.append(str(client.answer.error["code"]))
                    await client.close()
                    return results
                for _ in range(3):
                    event = await respond(client)
                    results.append(str(event.get("error", {}).get("code", event["type"])))
                    if event["type"] == "error":
                        break
                await client.close()
            return results

        talks = [asyncio.create_task(talk(relay)) for relay in (*relays, *relays)]
        await eventually(lambda: any("tokens" in text_of(tmp_path / f"records{n}.jsonl") for n in range(3)))
        if restarts:
            redis.stop(signal.SIGKILL)
            redis.start()
        results = await asyncio.gather(*talks)
        assert {"budget_exhausted"} == {found[-1] for found in results}
        await eventually(lambda: not sum(relay.metric("realtime_relay_sessions_active") for relay in relays))
        await eventually(lambda: not sum(relay.metric("realtime_relay_store_journal_records") for relay in relays))
        scope = Scope("kiosk")
        spent = (await relays[0].app.store.totals([scope]))[scope].month

    records = [json.loads(line) for n in range(3) for line in text_of(tmp_path / f"records{n}.jsonl").splitlines()]
    assert spent.tokens == sum(record["tokens"]["total"] for record in records)
    assert spent.microusd == sum(round(record["usd"] * 1_000_000) for record in records)
    largest = max(record["tokens"]["total"] for record in records)
    assert 400 <= spent.tokens <= 400 * (len(relays) if restarts else 1) + 6 * largest


async def test_session_whose_place_another_instance_has_taken_ends(
    redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`closed`: an instance that is cut off from the store cannot hold a place, and with it a budget, for ever."""
    defaults = RedisBackend.__init__.__kwdefaults__, SharedStore.__init__.__kwdefaults__
    for kwdefaults, name, value in zip(defaults, ("lease_seconds", "heartbeat_seconds"), (0.5, 0.05), strict=True):
        assert kwdefaults is not None
        monkeypatch.setitem(kwdefaults, name, value)
    settings = {
        "RELAY_STORE_URL": redis.url,
        "RELAY_STORE_FAILURE": "closed",
        "RELAY_MAX_RECONNECTS_PER_MINUTE": "0",
    }
    text = table("kiosk", "max_sessions = 1\ntokens_per_day = 9999")
    async with (
        relay_of(tmp_path / "one.toml", text, **settings) as one,
        relay_of(tmp_path / "two.toml", text, **settings) as two,
    ):
        first = await connect(one)
        assert (429, "too_many_sessions") == await refusal(two)

        async def fail(*_: object) -> None:
            raise StoreError("cut off")

        with monkeypatch.context() as cut_off:
            for operation in ("register", "hold", "heartbeat"):
                cut_off.setattr(one.app.store._backend, operation, fail)
            second = await connect(two)
            while second.answer.status != 101:
                await second.close()
                second = await connect(two)
        assert "store_unavailable" == (await next_of(first, "error"))["error"]["code"]
        await first.close()
        await second.close()


async def test_instance_that_is_killed_within_a_response_loses_only_that(redis: RedisServer, tmp_path: Path) -> None:
    """What its session had used before is in the store, where it counts for the next instance."""
    path = tmp_path / "clients.toml"
    settings = {"RELAY_CLIENTS_FILE": str(path), "RELAY_STORE_URL": redis.url, "RELAY_LOG_FORMAT": "json"}
    write(path, table("kiosk", "tokens_per_day = 9999"))
    token = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
    url = parse_store_url(redis.url)
    assert url is not None
    backend, scope = RedisBackend(connect_redis(url)), Scope("kiosk")
    totals = Totals()
    async with serving(**settings) as (process, port, _):
        client = await open_raw(port, headers=token)
        used = (await respond(client))["response"]["usage"]["total_tokens"]
        client.send_event(type="response.create", response={"output_modalities": ["audio"]})
        await next_of(client, "response.output_audio.delta")
        while totals.day.tokens < used:
            totals = (await backend.totals([scope]))[scope]
        process.process.kill()
        assert {} == await next_of(client, "never")
        await client.close()
    write(path, table("kiosk", f"tokens_per_day = {used}"))
    async with serving(**settings) as (_, port, _):
        client = await open_raw(port, headers=token)
        assert "budget_exhausted" == client.answer.error["code"]
        await client.close()
    assert used == (await backend.totals([scope]))[scope].day.tokens
    await backend.close()
