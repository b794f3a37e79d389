"""The limits of a client and its user as the store counts them, and how much of its budgets a session has used. Pure."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from service.access.clients import Client, ClientLimits
from service.store.interface import Amounts, Ceiling, Limits, Scope, Totals

_MINUTE_MS: Final = 60_000
_UNITS: Final = (("microusd", "usd"), ("tokens", "tokens"), ("milliseconds", "minutes"))
"""The fields of `Amounts` and `Ceiling`, and how the clients file names them."""


class Rates(NamedTuple):
    """What the operator lets something without a known price cost, in USD."""

    per_token: float
    per_second: float


class Use(NamedTuple):
    """How much of one limit is used. `limit` is its key in the clients file, `scope` None for that of a session."""

    limit: str
    scope: Scope | None
    used: int
    maximum: int

    @property
    def ratio(self) -> float:
        """The used share; 1 or more is exhausted."""
        return self.used / self.maximum if self.maximum else 1.0


def limits_of(client: Client, user: str | None) -> tuple[Limits, ...]:
    """What the store counts for a session: for its client, and for its user if there is one. Empty without any limit."""
    scopes = [(Scope(client.name), client.limits)]
    if user is not None:
        scopes.append((Scope(client.name, user), client.per_user))
    found = tuple(_limits(scope, limits) for scope, limits in scopes)
    return found if any(limits != Limits(scope=limits.scope) for limits in found) else ()


def _limits(scope: Scope, limits: ClientLimits) -> Limits:
    return Limits(
        scope=scope,
        sessions=limits.max_sessions,
        starts_per_minute=limits.starts_per_minute,
        day=Ceiling(
            microusd=limits.microusd_per_day, tokens=limits.tokens_per_day, milliseconds=_ms(limits.minutes_per_day)
        ),
        month=Ceiling(
            microusd=limits.microusd_per_month,
            tokens=limits.tokens_per_month,
            milliseconds=_ms(limits.minutes_per_month),
        ),
    )


def _ms(minutes: int | None) -> int | None:
    return None if minutes is None else minutes * _MINUTE_MS


def session_ceiling(client: Client, user: str | None) -> Ceiling:
    """What one session can use: the smaller of the client's and the user's."""
    limits = [client.limits, client.per_user] if user is not None else [client.limits]
    return Ceiling(
        microusd=_smallest(limit.microusd_per_session for limit in limits),
        tokens=_smallest(limit.tokens_per_session for limit in limits),
    )


def max_session_seconds(client: Client, user: str | None, default: float | None = None) -> float:
    """The duration of a session, the smaller of the client's and the user's; 0 is no limit.

    `default` is in the place of one that nothing has set.
    """
    is_replaced = client.has_default_duration and default is not None
    durations = [default if is_replaced else client.limits.max_session_seconds]
    if user is not None:
        durations.append(client.per_user.max_session_seconds)
    return min((seconds for seconds in durations if seconds), default=0.0)


def _smallest(values: Iterator[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)


class Budgets(NamedTuple):
    """The budgets of one session: its own, and those of its scopes in the day and the month."""

    session: Ceiling
    scopes: tuple[Limits, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing bounds what the session uses."""
        return not any(True for _ in self._ceilings())

    @property
    def are_shared(self) -> bool:
        """Whether what other sessions use counts as well."""
        return any(limits.day != Ceiling() or limits.month != Ceiling() for limits in self.scopes)

    @property
    def count_money(self) -> bool:
        """Whether one of them is in USD."""
        return any(ceiling.microusd is not None for _, _, ceiling in self._ceilings())

    @property
    def count_responses(self) -> bool:
        """Whether one of them is in USD or in tokens."""
        return any(ceiling.microusd is not None or ceiling.tokens is not None for _, _, ceiling in self._ceilings())

    @property
    def count_time(self) -> bool:
        """Whether one of them is in minutes."""
        return any(ceiling.milliseconds is not None for _, _, ceiling in self._ceilings())

    def most_used(self, amounts: Amounts, totals: Mapping[Scope, Totals]) -> Use | None:
        """The limit of which most is used; None if there is none. `amounts` are those of the session."""
        return max(self.uses(amounts, totals), key=lambda use: use.ratio, default=None)

    def uses(self, amounts: Amounts, totals: Mapping[Scope, Totals]) -> Iterator[Use]:
        """How much of each limit is used."""
        for scope, period, ceiling in self._ceilings():
            used = amounts if scope is None else getattr(totals.get(scope, Totals()), period)
            for unit, name in _UNITS:
                maximum = getattr(ceiling, unit)
                if maximum is not None:
                    yield Use(f"{name}_per_{period}", scope, getattr(used, unit), maximum)

    def _ceilings(self) -> Iterator[tuple[Scope | None, str, Ceiling]]:
        """Those that limit anything, each with its scope and its period."""
        if self.session != Ceiling():
            yield None, "session", self.session
        for limits in self.scopes:
            for period, ceiling in (("day", limits.day), ("month", limits.month)):
                if ceiling != Ceiling():
                    yield limits.scope, period, ceiling


def budgets_of(client: Client, user: str | None) -> Budgets:
    """The budgets of a session."""
    return Budgets(session_ceiling(client, user), limits_of(client, user))


def rates_of(client: Client) -> Rates | None:
    """What something without a known price costs, in USD; None unless the operator has set it for tokens and for time."""
    tokens, minute = client.unpriced_microusd_per_million_tokens, client.unpriced_microusd_per_minute
    return None if tokens is None or minute is None else Rates(tokens / 1e12, minute / 6e7)


def shown(use: Use | tuple[str, int, int]) -> str:
    """How much of a limit is used, for people: "1.02 of 1.00 USD"."""
    limit, used, maximum = (use.limit, use.used, use.maximum) if isinstance(use, Use) else use
    if limit.startswith("usd"):
        return f"{used / 1_000_000:.2f} of {maximum / 1_000_000:.2f} USD"
    if limit.startswith("minutes"):
        return f"{used / _MINUTE_MS:.1f} of {maximum / _MINUTE_MS:.0f} minutes"
    return f"{used} of {maximum} tokens"
