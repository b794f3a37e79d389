"""Budgets of a client in the call: what ends a session, what does not, and ways round that do not work. Over sockets."""

import base64
import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from service.access.budgets import budgets_of, max_session_seconds
from service.access.clients import Client, ClientDirectory, ClientLimits, ClientSet, Identity
from service.realtime import pricing
from service.realtime.frames import Opcode
from service.relay.budget import SessionBudget
from service.relay.spent import Spent
from service.store.factory import make_backend
from service.store.interface import Amounts, Scope, Spending
from service.store.shared import SharedStore
from service.telemetry.metrics import Metrics
from tests.clients_file.relays import connect, refusal, relay_of, table
from tests.support.harness import RawClient, Relay, eventually, within
from tests.support.simulator_client import silence, speech

REALTIME = "/v1/realtime?model=gpt-realtime"


async def respond(client: RawClient) -> dict[str, Any]:
    """Request a response; returns the event that ends it, or the error that comes instead."""
    client.send_event(type="response.create", response={"output_modalities": ["text"]})
    return await next_of(client, "response.done", "error")


async def next_of(client: RawClient, *types: str) -> dict[str, Any]:
    """The next event of one of these types; {} at the end."""
    while (event := await within(client.next_event(), 20)) is not None:
        if event["type"] in types:
            return dict(event)
    return {}


async def spent_by(relay: Relay, client: str = "kiosk", user: str | None = None) -> Amounts:
    """What the store has for a client in this day, once everything that the relay has noted has reached it."""
    await eventually(lambda: not relay.metric("realtime_relay_store_journal_records"))
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
        await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_ended_total", reason="budget_exhausted") == 1)
        ended = next(line for line in relay.logs if line["event"] == "session.ended")
        assert ("budget_exhausted", True) == (ended["reason"], "of 1 tokens used" in ended["detail"])
        assert (101, None) == await refusal(relay)  # the budget is that of one session


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


@pytest.fixture
def frequent_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Report what costs by the second more often than every five."""
    monkeypatch.setattr("service.relay.budget.REPORT_SECONDS", 0.5)


@pytest.mark.usefixtures("frequent_reports")
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


@pytest.mark.usefixtures("frequent_reports")
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


async def test_used_share_of_each_client_with_a_budget_is_a_metric(path: Path) -> None:
    """Of the limit of which most is used; a client that the file no longer has leaves no series."""
    text = table("kiosk", "tokens_per_day = 100\nminutes_per_month = 5") + table("web")
    async with relay_of(path, text) as relay:
        gauge = relay.app._budget_gauge
        assert gauge is not None
        await relay.app.store.spend_and_read(Spending("other", (Scope("kiosk"),), Amounts(tokens=85)))
        await gauge.read()
        assert 0.85 == relay.metric("realtime_relay_client_budget_used_ratio", client="kiosk")
        gauge._clients.replace(ClientSet())
        await gauge.read()
        assert not gauge._gauge._metrics


@pytest.mark.parametrize("way", ["close", "reset", "cancel"])
async def test_response_that_its_client_does_not_wait_for_counts(way: str, path: Path) -> None:
    """A close frame, a connection that vanishes, `response.cancel`: the provider reports the tokens in each case."""
    async with relay_of(path, table("kiosk", "tokens_per_day = 1")) as relay:
        client = await connect(relay)
        client.send_event(type="response.create", response={"output_modalities": ["audio"]})
        await next_of(client, "response.created")
        if way == "cancel":
            client.send_event(type="response.cancel")
            await next_of(client, "error")
        elif way == "close":
            client.send_frame(Opcode.CLOSE, b"\x03\xe8")
            while await client.next_item() is not None:
                pass
        await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)

        assert (await spent_by(relay)).tokens >= 1
        assert (402, "budget_exhausted") == await refusal(relay)


async def test_turn_detection_does_not_get_round_a_budget(path: Path) -> None:
    """The provider starts responses by itself, and the client requests none: a third never ends."""
    async with relay_of(path, table("kiosk", "tokens_per_session = 1")) as relay:
        client = await connect(relay)
        done = 0
        for part in [speech(800), silence(800)] * 8:
            client.send_event(type="input_audio_buffer.append", audio=base64.b64encode(part).decode())
        while (event := await next_of(client, "response.done", "error"))["type"] == "response.done":
            done += 1
        assert (True, "budget_exhausted") == (done <= 2, event["error"]["code"])
        await client.close()


async def test_budget_of_a_user_concerns_no_other_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of one client, each with a budget, within that of the client."""
    user = "alice"
    authenticate = ClientDirectory.authenticate

    def with_user(directory: ClientDirectory, token: str | None) -> Identity:
        return dataclasses.replace(authenticate(directory, token), user=user)

    monkeypatch.setattr(ClientDirectory, "authenticate", with_user)
    limits = "[clients.kiosk.per_user]\ntokens_per_day = 1\nmax_sessions = 1"
    async with relay_of(path, table("kiosk", limits)) as relay:
        client = await connect(relay)
        assert (429, "too_many_sessions") == await refusal(relay)
        await respond(client)
        error = (await next_of(client, "error"))["error"]
        assert "tokens_per_day of [clients.kiosk.per_user] in RELAY_CLIENTS_FILE" in error["remedy"]
        await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)
        assert (402, "budget_exhausted") == await refusal(relay)
        user = "bob"
        assert (101, None) == await refusal(relay)
        assert (await spent_by(relay)).tokens == (await spent_by(relay, user="alice")).tokens > 0


async def test_clock_of_the_relay_that_jumps_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days are those of the store's clock, durations those of a clock that does not jump."""
    async with relay_of(path, table("kiosk", "tokens_per_day = 1")) as relay:
        client = await connect(relay)
        await respond(client)
        await next_of(client, "error")
        await client.close()
        monkeypatch.setattr("service.relay.reporter.time.time", lambda: 0.0)
        assert (402, "budget_exhausted") == await refusal(relay)


async def test_gpt_live_without_reports_of_its_usage_counts_by_the_clock() -> None:
    """The provider reports for the first time after 15 seconds: a session that leaves before, without its answer, counts."""
    used, reports = Spent(), list[Spending]()

    class Kept(SharedStore):
        def spend(self, spending: Spending) -> None:
            reports.append(spending)

    limits = Client(name="kiosk", limits=ClientLimits(microusd_per_day=10**9))
    store = Kept(make_backend(None), Metrics("openai").store)
    budget = SessionBudget(budgets_of(limits, None), store, "r", place=str, live_usd_per_second=1.0)
    budget._spent, budget._started_at = used, budget._started_at - 10
    used.add(4.0, seconds=4.0)
    budget.finish()

    assert 10_000_000 == pytest.approx(reports[0].amounts.microusd, rel=0.1)
    assert used.microusd == reports[0].amounts.microusd


@pytest.mark.parametrize(
    "session",
    [
        {"model": "gpt-live-9"},
        {"model": "gpt-live-1", "delegation": {"type": "responses", "responses": {"model": "gpt-5"}}},
    ],
)
async def test_model_of_gpt_live_without_a_price_is_refused(session: dict[str, Any], path: Path) -> None:
    """The session's own model, and a backend model, whose price is never known."""
    async with relay_of(path, table("kiosk", "usd_per_day = 1")) as relay:
        client = await connect(relay, path="/v1/live/sessions")
        client.send_event(type="session.start", session=session)
        error = (await next_of(client, "error"))["error"]
        await client.close()

    assert "model_refused" == error["code"]
    assert "unpriced_usd_per_minute of [clients.kiosk] in RELAY_CLIENTS_FILE" in error["remedy"]


def test_duration_that_nothing_has_set_gives_way() -> None:
    """To that of calls that outlive their connection. The smaller one of client and user holds, whatever is the default."""
    limits = ClientLimits(max_session_seconds=3900)
    plain = Client(name="kiosk", limits=limits, has_default_duration=True)
    users = dataclasses.replace(plain, per_user=ClientLimits(max_session_seconds=7200))
    for client, expected in (
        (plain, 14_400),
        (users, 7200),
        (dataclasses.replace(users, has_default_duration=False), 3900),
        (Client(name="kiosk"), 0),
    ):
        assert max_session_seconds(client, "ann", 14_400) == expected
    assert max_session_seconds(users, None, 14_400) == 14_400
    assert max_session_seconds(plain, None) == 3900
