"""The document of `/api/clients`: who may connect, what its limits are, and how much of them is used.

Asks the store at most once in `FRESH_SECONDS` for each client and user, and only while an operator looks.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

from service.access.budgets import Budgets, Use, limits_of
from service.access.clients import Client, ClientDirectory, ClientLimits
from service.relay.session import Session
from service.relay.view import SessionView
from service.store.interface import Amounts, Ceiling, Scope, Store, Totals

FRESH_SECONDS: Final = 5.0
MAX_USERS: Final = 10
"""Users of one client: those whose open sessions have cost most."""
_MICRO: Final = 1_000_000
_MINUTE_MS: Final = 60_000


class ClientReport:
    """`sessions` are the open ones of this instance. Names and users are redacted by the caller's function."""

    def __init__(self, directory: ClientDirectory, store: Store, sessions: Iterable[Session]) -> None:
        self._directory = directory
        self._store = store
        self._sessions = sessions
        self._known: dict[Scope, tuple[float, Totals]] = {}
        self._asking = asyncio.Lock()

    async def document(self, limit: int, search: str, redact: Callable[[str], str]) -> dict[str, object]:
        """The clients whose name or policy contains `search`, in the order of the file."""
        wanted = search.casefold()
        everyone = list(self._directory.callers)
        matching = [client for client in everyone if wanted in client.name.casefold() or wanted in _policy(client)]
        listed = matching[:limit]
        views = self._views({client.name for client in listed})
        shown = {client.name: _costliest(views[client.name]) for client in listed}
        totals = await self._totals([*_scopes(listed, shown)])
        return {
            "total": len(everyone),
            "matching": len(matching),
            "limit": limit,
            "store": {"shared": self._store.is_shared, "up": self._store.is_up},
            "clients": [_entry(client, views[client.name], shown[client.name], totals, redact) for client in listed],
        }

    def _views(self, names: set[str]) -> Mapping[str, list[SessionView]]:
        found: dict[str, list[SessionView]] = defaultdict(list)
        for session in self._sessions:
            if session.info.client in names and (view := session.view()) is not None:
                found[session.info.client].append(view)
        return found

    async def _totals(self, scopes: list[Scope]) -> Mapping[Scope, Totals]:
        async with self._asking:  # of several pages that ask at once, one asks the store
            now = time.monotonic()
            self._known = {scope: kept for scope, kept in self._known.items() if now - kept[0] < FRESH_SECONDS}
            missing = [scope for scope in scopes if scope not in self._known]
            if missing:
                self._known |= {scope: (now, found) for scope, found in (await self._store.totals(missing)).items()}
            return {scope: self._known[scope][1] for scope in scopes if scope in self._known}


def _policy(client: Client) -> str:
    return client.policy.name.casefold() if client.policy is not None else ""


def _costliest(views: list[SessionView]) -> dict[str, list[SessionView]]:
    """The sessions by user, of the users whose open sessions have cost most."""
    by_user: dict[str, list[SessionView]] = defaultdict(list)
    for view in views:
        if view.info.user is not None:
            by_user[view.info.user].append(view)
    users = sorted(by_user, key=lambda user: (-sum(view.spending.cost_usd for view in by_user[user]), user))
    return {user: by_user[user] for user in islice(users, MAX_USERS)}


def _scopes(clients: list[Client], users: Mapping[str, Mapping[str, object]]) -> Iterator[Scope]:
    """Those for which the store counts anything: with a budget of a day or month, of the client or of its users."""
    for client in clients:
        if client.is_from_file and Budgets(Ceiling(), limits_of(client, "")).are_shared:
            yield from (Scope(client.name, user) for user in (None, *users[client.name]))


def _entry(
    client: Client,
    views: list[SessionView],
    users: Mapping[str, list[SessionView]],
    totals: Mapping[Scope, Totals],
    redact: Callable[[str], str],
) -> dict[str, object]:
    total = totals.get(Scope(client.name))
    return {
        "name": client.name,
        "source": "file" if client.is_from_file else "settings",
        "enabled": client.is_enabled,
        "policy": client.policy.name if client.policy is not None else None,
        "models": [redact(model) for model in client.models],
        "apis": sorted(client.apis),
        **_use(views),
        "spent": _spent(total),
        "limits": _limits(client, client.limits, total),
        "users_total": len({view.info.user for view in views} - {None}),
        "users": [
            {
                "user": redact(user),
                **_use(of_user),
                "spent": _spent(totals.get(Scope(client.name, user))),
                "limits": _limits(client, client.per_user, totals.get(Scope(client.name, user))),
            }
            for user, of_user in users.items()
        ],
    }


def _use(views: list[SessionView]) -> dict[str, object]:
    return {
        "sessions": len(views),
        "tokens": sum(view.spending.tokens for view in views),
        "cost_usd": round(sum(view.spending.cost_usd for view in views), 6),
    }


def _spent(total: Totals | None) -> dict[str, object] | None:
    return None if total is None else {"day": _amounts(total.day), "month": _amounts(total.month)}


def _amounts(used: Amounts) -> dict[str, object]:
    return {"usd": used.microusd / _MICRO, "tokens": used.tokens, "minutes": round(used.milliseconds / _MINUTE_MS, 2)}


def _limits(client: Client, limits: ClientLimits, total: Totals | None) -> list[dict[str, object]]:
    """Each limit with its unit; `used` is what the store counts, None where only a session or the store itself knows it."""
    found: list[dict[str, object]] = [
        {"name": name, "used": None, "maximum": maximum, "used_ratio": None}
        for name, maximum in (
            ("max_sessions", limits.max_sessions),
            ("starts_per_minute", limits.starts_per_minute),
            ("max_session_seconds", limits.max_session_seconds),
            ("usd_per_session", _usd(limits.microusd_per_session)),
            ("tokens_per_session", limits.tokens_per_session),
        )
        if maximum is not None
    ]
    budgets = Budgets(Ceiling(), limits_of(Client(name=client.name, limits=limits), None))
    uses = budgets.uses(Amounts(), {Scope(client.name): total} if total is not None else {})
    return [*found, *(_shown(use, is_known=total is not None) for use in uses)]


def _usd(microusd: int | None) -> float | None:
    return None if microusd is None else microusd / _MICRO


def _shown(use: Use, *, is_known: bool) -> dict[str, object]:
    unit = _MICRO if use.limit.startswith("usd") else _MINUTE_MS if use.limit.startswith("minutes") else 1
    return {
        "name": use.limit,
        "used": round(use.used / unit, 6) if is_known else None,
        "maximum": use.maximum / unit,
        "used_ratio": round(use.ratio, 4) if is_known else None,
    }
