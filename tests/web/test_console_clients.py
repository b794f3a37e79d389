"""GET /api/clients: limits and spending of clients and users, bounded, from the store at most every few seconds."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.access.budget_gauge import BudgetGauge
from service.store.interface import Amounts, Scope, Spending, Totals
from service.web import console_clients
from tests.clients_file.relays import connect, relay_of, table
from tests.clients_file.test_budgets import respond
from tests.support.console import read
from tests.support.harness import TOKEN_CANARY, Relay, simulated_relay
from tests.support.jwt_issuer import claims, issuer_table, running_issuer, sign


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the clients file is."""
    return tmp_path / "clients.toml"


async def clients_of(relay: Relay, query: str = "") -> dict[str, Any]:
    """The clients of the document, by name."""
    return {client["name"]: client for client in (await read(relay, f"/api/clients{query}"))["clients"]}


async def test_limits_and_their_use_are_listed_in_the_units_of_the_file(path: Path) -> None:
    """A client with budgets, one without, and one of the settings."""
    text = table("kiosk", "max_sessions = 4\nusd_per_session = 0.5\nusd_per_day = 2\nminutes_per_month = 90") + table(
        "web"
    )
    async with relay_of(path, text, RELAY_CLIENT_TOKENS=f"plain:{TOKEN_CANARY}") as relay:
        used = Amounts(microusd=500_000, tokens=70, milliseconds=60_000)
        await relay.app.store.spend_and_read(Spending("earlier", (Scope("kiosk"),), used))
        client = await connect(relay)
        await respond(client)
        found = await clients_of(relay)
        await client.close()

    kiosk, limits = found["kiosk"], {limit["name"]: limit for limit in found["kiosk"]["limits"]}
    assert ["plain", "kiosk", "web"] == [*found]
    assert ("settings", None) == (found["plain"]["source"], found["plain"]["spent"])
    assert (None, 0) == (found["web"]["spent"], found["web"]["sessions"])
    assert (1, True) == (kiosk["sessions"], kiosk["tokens"] > 0)
    assert {"name": "max_sessions", "used": None, "maximum": 4, "used_ratio": None} == limits["max_sessions"]
    assert 0.5 == limits["usd_per_session"]["maximum"]
    assert (2.0, 90.0) == (limits["usd_per_day"]["maximum"], limits["minutes_per_month"]["maximum"])
    assert limits["usd_per_day"]["used"] == kiosk["spent"]["day"]["usd"] >= 0.5
    assert 1.0 <= limits["minutes_per_month"]["used"] < 2
    assert limits["usd_per_day"]["used_ratio"] == pytest.approx(limits["usd_per_day"]["used"] / 2, abs=0.001)


async def test_store_is_asked_once_for_pages_that_are_read_often(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all for clients without budgets."""

    async def keep(_: BudgetGauge) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(BudgetGauge, "keep", keep)  # it asks as well
    async with relay_of(path, table("kiosk", "tokens_per_day = 5") + table("web", "max_sessions = 1")) as relay:
        asked = list[Sequence[Scope]]()
        totals = relay.app.store.totals

        async def counted(scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
            asked.append(scopes)
            return await totals(scopes)

        monkeypatch.setattr(relay.app.store, "totals", counted)
        for _ in range(3):
            await clients_of(relay)
        assert [[Scope("kiosk")]] == asked
        monkeypatch.setattr(console_clients, "FRESH_SECONDS", 0.0)
        await clients_of(relay, "?search=KIO")
        assert 2 == len(asked)
        await clients_of(relay, "?search=web")
        assert 2 == len(asked)


async def test_users_are_those_that_cost_most_and_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their own limits; the number of all is there, and the metrics name none."""
    monkeypatch.setattr(console_clients, "MAX_USERS", 2)
    async with running_issuer() as issuer:
        limits = "[clients.kiosk.per_user]\ntokens_per_day = 100000"
        async with relay_of(path, table("kiosk", limits) + issuer_table(issuer.url)) as relay:
            opened = []
            for user in ("anne", "bob", "CANARYcarl"):
                token = sign(claims(sub=user))
                opened.append(await connect(relay, Authorization=f"Bearer {token}"))
                for _ in range(len(opened)):
                    await respond(opened[-1])
            kiosk = (await clients_of(relay))["kiosk"]
            [session] = (await read(relay, "/api/sessions?search=canaryCARL"))["sessions"]
            assert "CANARYcarl" not in relay.used_series()
            for client in opened:
                await client.close()

    assert (3, ["CANARYcarl", "bob"]) == (kiosk["users_total"], [user["user"] for user in kiosk["users"]])
    carl = kiosk["users"][0]
    assert carl["limits"] == [
        {
            "name": "tokens_per_day",
            "used": carl["tokens"],
            "maximum": 100_000.0,
            "used_ratio": carl["limits"][0]["used_ratio"],
        }
    ]
    assert ("CANARYcarl", "kiosk") == (session["user"], session["client"])
    assert kiosk["spent"]["day"]["tokens"] == kiosk["tokens"]


async def test_open_access_has_one_client() -> None:
    """Without a clients file there is nothing to ask the store for."""
    async with simulated_relay(None) as relay:
        document = await read(relay, "/api/clients")

    assert (1, 1, ["anybody"]) == (document["total"], document["matching"], [c["name"] for c in document["clients"]])


async def test_limit_bounds_the_list(path: Path) -> None:
    """`total` and `matching` count all."""
    async with relay_of(path, table("kiosk") + table("web") + table("spare")) as relay:
        document = await read(relay, "/api/clients?limit=1&search=e")

    assert (3, 2, ["web"]) == (document["total"], document["matching"], [c["name"] for c in document["clients"]])
