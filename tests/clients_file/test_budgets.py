"""Budgets of a client in the call: what ends a session, what does not, and ways round that do not work. Over sockets."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.realtime import pricing
from service.realtime.frames import Opcode
from service.store.interface import Amounts, Scope, Spending
from tests.clients_file.relays import connect, refusal, relay_of, table
from tests.support.harness import RawClient, Relay, eventually

REALTIME = "/v1/realtime?model=gpt-realtime"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the clients file is."""
    return tmp_path / "clients.toml"


async def respond(client: RawClient) -> dict[str, Any]:
    """Request a response; returns the event that ends it, or the error that comes instead."""
    client.send_event(type="response.create", response={"output_modalities": ["text"]})
    return await next_of(client, "response.done", "error")


async def next_of(client: RawClient, *types: str) -> dict[str, Any]:
    """The next event of one of these types; {} at the end."""
    while (event := await asyncio.wait_for(client.next_event(), 20)) is not None:
        if event["type"] in types:
            return dict(event)
    return {}


async def spent_by(relay: Relay, client: str = "kiosk", user: str | None = None) -> Amounts:
    """What the store has for a client in this day."""
    scope = Scope(client, user)
    return (await relay.app.store.totals([scope]))[scope].day


async def test_session_ends_after_the_response_that_crosses_its_budget(path: Path) -> None:
    """The client gets the whole response, then the error with the limit, then 1008; log and metric name the reason."""
    async with relay_of(path, table("kiosk", "tokens_per_session = 1")) as relay:
        client = await connect(relay, path=REALTIME + "&budget_event=true")
        assert "response.done" == (await respond(client))["type"]
        error = (await next_of(client, "error"))["error"]
        close = await client.next_item()

        assert "budget_exhausted" == error["code"]
        assert "tokens_per_session of [clients.kiosk] in RELAY_CLIENTS_FILE" in error["remedy"]
        assert 1008 == int.from_bytes(close.payload[:2], "big")
        client.send_frame(Opcode.CLOSE, close.payload)
        await eventually(lambda: relay.metric("realtime_relay_sessions_ended_total", reason="budget_exhausted") == 1)
        ended = next(line for line in relay.logs if line["event"] == "session.ended")
        assert ("budget_exhausted", True) == (ended["reason"], "of 1 tokens used" in ended["detail"])
        assert (101, None) == await refusal(relay)  # the budget is that of one session
        await client.close()


async def test_budget_of_a_day_ends_sessions_and_refuses_new_ones(path: Path) -> None:
    """What one session used counts for the next, whatever its client calls itself; another client is not concerned."""
    async with relay_of(path, table("kiosk", "tokens_per_day = 1") + table("web")) as relay:
        client = await connect(relay)
        await respond(client)
        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        await client.close()

        assert (402, "budget_exhausted") == await refusal(relay)
        assert (101, None) == await refusal(relay, "web")
        assert (await spent_by(relay)).tokens > 1


async def test_warning_is_sent_once_to_a_client_that_asks(path: Path) -> None:
    """At 80 %, as an event; another client gets none."""
    async with relay_of(path, table("kiosk", "tokens_per_day = 1000000")) as relay:
        used = Spending("other", (Scope("kiosk"),), Amounts(tokens=900_000))
        await relay.app.store.spend_and_read(used)
        asking = await connect(relay, path=REALTIME + "&budget_event=true")
        silent = await connect(relay)
        warning = await next_of(asking, "relay.budget_nearly_used")
        assert ("tokens_per_day", 0.9) == (warning["limit"], warning["used_ratio"])
        for client in (asking, silent):
            client.send_event(type="response.create", response={"output_modalities": ["text"]})
            event = await next_of(client, "response.done", "relay.budget_nearly_used")
            assert "response.done" == event["type"]
            await client.close()


async def test_parallel_sessions_share_a_budget(path: Path) -> None:
    """Each gets at most one response once the budget is used up."""
    async with relay_of(path, table("kiosk", "tokens_per_day = 1")) as relay:
        clients = [await connect(relay) for _ in range(4)]
        await respond(clients[0])
        await next_of(clients[0], "error")
        for client in clients[1:]:
            events = [await respond(client)]
            if events[0]["type"] == "response.done":
                events.append(await next_of(client, "error"))
            assert "budget_exhausted" == events[-1]["error"]["code"]
        for client in clients:
            await client.close()


async def test_model_without_a_price_is_refused_or_counts_at_the_price_of_the_operator(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only with a budget in USD."""
    monkeypatch.delitem(pricing.PRICES, "gpt-realtime-mini")
    prices = "unpriced_usd_per_million_tokens = 1000\nunpriced_usd_per_minute = 1"
    text = (
        table("kiosk", "usd_per_day = 1")
        + table("web", f"usd_per_day = 0.000001\n{prices}")
        + table("spare", "tokens_per_day = 9999")
    )
    url = "/v1/realtime?model=gpt-realtime-mini"
    async with relay_of(path, text) as relay:
        assert (400, "model_refused") == await refusal(relay, path=url)
        assert (101, None) == await refusal(relay, "spare", url)
        client = await connect(relay, "web", url)
        tokens = (await respond(client))["response"]["usage"]["total_tokens"]
        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        await client.close()

        assert tokens * 1000 == (await spent_by(relay, "web")).microusd


async def test_gpt_live_ends_when_its_seconds_have_used_up_a_budget(path: Path) -> None:
    """Also in silence: no audio, no response."""
    async with relay_of(path, table("kiosk", "usd_per_day = 0.0001")) as relay:
        client = await connect(relay, path="/v1/live/sessions")
        client.send_frame(
            Opcode.TEXT, json.dumps({"type": "session.start", "session": {"model": "gpt-live-1"}}).encode()
        )
        error = await next_of(client, "error")

        assert "budget_exhausted" == error["error"]["code"]
        await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)
        assert (await spent_by(relay)).microusd >= 100


async def test_minutes_end_a_session_that_does_nothing(path: Path) -> None:
    """A minute that is used up elsewhere."""
    async with relay_of(path, table("kiosk", "minutes_per_day = 1")) as relay:
        client = await connect(relay)
        await relay.app.store.spend_and_read(Spending("other", (Scope("kiosk"),), Amounts(milliseconds=60_000)))
        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        with suppress(ConnectionError):
            await client.close()


async def test_session_without_a_budget_has_the_pipes_and_the_timer_as_before(path: Path) -> None:
    """No object of the budget is on the data path of another session, and none of them asks the store."""
    async with relay_of(path, table("kiosk", "max_sessions = 5")) as relay:
        client = await connect(relay)
        session = next(iter(relay.app.sessions))
        assert session._budget is None
        assert session._to_client._latency is session._to_upstream._latency is session._call.timer
        assert session._reporter.spending.on_change is None
        calls = relay.metric("realtime_relay_store_calls_total", operation="spend")
        await respond(client)
        assert calls == relay.metric("realtime_relay_store_calls_total", operation="spend")
        await client.close()
