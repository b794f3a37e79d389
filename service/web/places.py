"""What a client takes before its session starts.

Its place in the limits that all instances share: sessions at once, starts per minute, budgets. And a slot for its dial.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from service.access.budgets import limits_of, shown
from service.access.clients import Client
from service.access.limits import ConcurrencyLimit, PerClientConcurrencyLimit, explain_lapse
from service.failures import Failure
from service.relay.watchdog import Lapse
from service.store.interface import Refused, Store
from service.telemetry.metrics import Metrics
from service.upstream.dials import DialsInFlight
from service.web.attempts import ConnectionAttempt
from service.web.client_rules import limit_key, limit_setting, session_limit_hint

_SESSIONS: Final = "max_sessions"
_STARTS: Final = "starts_per_minute"


class DialSlots:
    """The slots for dials. One client holds at most half of them, so that others can dial whatever it does."""

    def __init__(self, maximum: int, in_flight: DialsInFlight, metrics: Metrics) -> None:
        self._limit = ConcurrencyLimit(maximum, "relay_full", "dials")
        self._client_limit = PerClientConcurrencyLimit(math.ceil(maximum / 2), "relay_full", "dials")
        self._in_flight = in_flight
        metrics.dials_limit.set(maximum)
        metrics.dials_active.set_function(lambda: self.active)

    @property
    def active(self) -> int:
        """How many slots are held."""
        return self._limit.active

    def take(self, client: str, slot: ExitStack) -> None:
        """Take a slot that `slot` frees, and count a dial until then; raises Failure if none is free."""
        slot.enter_context(self._limit.acquire())
        slot.enter_context(self._client_limit.acquire(client))
        slot.enter_context(self._in_flight.track())


class ClientPlaces:
    """Takes the places of the clients in a clients file. Others have no limit that instances share, and need no call.

    `probe_client` is that of `AdmissionControl`. `end_session` ends an open session, by its id, for a reason.
    """

    def __init__(
        self, store: Store, *, probe_client: Callable[[str], Lapse | None], end_session: Callable[[str, str], object]
    ) -> None:
        self._store = store
        self._probe_client = probe_client
        self._end_session = end_session

    async def take(self, attempt: ConnectionAttempt, slot: ExitStack) -> None:
        """Take a place that `slot` frees; raises Failure with the limit that is used up, or with store_unavailable."""
        client, user = attempt.identity.client, attempt.identity.user
        limits = limits_of(client, user) if client.is_from_file else ()
        if not limits:
            return

        def lose_place() -> None:
            attempt.lost_place = True  # for a session that has not started
            self._end_session(attempt.session_id, "store_unavailable")

        lease = await self._store.acquire(limits, on_over_limit=lose_place)
        if isinstance(lease, Refused):
            raise self._refusal(lease, client, attempt)
        slot.callback(lease.release)

    def _refusal(self, refused: Refused, client: Client, attempt: ConnectionAttempt) -> Failure:
        wait = None if refused.retry_after_seconds is None else max(1, math.ceil(refused.retry_after_seconds))
        place = limit_key(client, refused.limit, of_user=refused.scope.user is not None)
        if refused.limit == _SESSIONS:
            refusal = Failure("too_many_sessions", hint=session_limit_hint(client, place))
            # A dead connection of another user would not make room for this one.
            lapse = self._probe_client(attempt.limited_as) if refused.scope.user is None else None
            if lapse is not None:
                explain_lapse(refusal, lapse.seconds, limit_setting(client), is_ending=lapse.is_ending)
            return refusal
        if refused.limit == _STARTS:
            return Failure(
                "too_many_connects",
                retry_after_seconds=wait,
                detail=f"{refused.maximum} starts in 60 s",
                hint=f"Open at most {refused.maximum} sessions a minute. Operator: the limit is {place}.",
            )
        return Failure(
            "budget_exhausted",
            retry_after_seconds=wait,
            detail=f"{refused.limit}: {shown((refused.limit, refused.used, refused.maximum))} used",
            hint=f"Connect again after {_when(refused.limit)}. Operator: the limit is {place}.",
        )


def _when(limit: str) -> str:
    return "the end of the month (UTC)" if limit.endswith("month") else "midnight UTC"
