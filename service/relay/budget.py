"""The budgets of one session: reports what it uses to the store, warns at 80 %, and ends it once a budget is exhausted.

Nothing here is on the path of a frame. What is spent is noted; a task reports it and reads what others have spent, one call
at a time, with everything that has been noted meanwhile.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from service.access.budgets import Budgets, Rates, Use, shown
from service.realtime.incidents import RESPONSE_DONE
from service.realtime.pricing import cost_usd, model_label
from service.relay import ending
from service.relay.ending import Ending
from service.relay.latency import CREATE, ResponseTimer
from service.relay.response_counter import ResponseCounter
from service.relay.spent import Spent
from service.store.interface import Amounts, Scope, Spending, Store, Totals

REASON: Final = "budget_exhausted"
WARNING_RATIO: Final = 0.8
REPORT_SECONDS: Final = 5.0
"""How often a session with a budget in minutes reports, and how far it can exceed one."""
PAUSE_SECONDS: Final = 1.0
"""Between two reports of what costs by the second."""
LAST_RESPONSE_SECONDS: Final = 60.0
"""How long the response that runs while a budget is exhausted elsewhere can go on."""
_UNPRICED_HINT: Final = (
    "Use a model whose price the relay knows. Operator: set unpriced_usd_per_million_tokens and unpriced_usd_per_minute of "
    "the client in RELAY_CLIENTS_FILE."
)
_UNMEASURED_HINT: Final = (
    "Use a provider that reports the usage of each response and transcription: without it a budget in tokens or USD cannot "
    "hold. Operator: give the client budgets in minutes instead, in RELAY_CLIENTS_FILE."
)


class BudgetedSession(Protocol):
    """The session, as its budget sees it."""

    @property
    def received_bytes(self) -> int:
        """How much upstream has sent that was forwarded."""

    def end_at_boundary(self, end: Ending) -> None:
        """End it where an event of the relay's own can be sent."""

    def send_at_boundary(self, event: bytes) -> None:
        """Send the client an event of the relay's own."""


class SessionBudget:
    """Watches one session, from `start` to `finish`.

    `model` is that of the session. `place` names where the limit of a `Use` is set; `warning` builds the event for a client
    that asked for it. `rates` are the operator's for what has no known price. `usd_per_second` is the price of a session that
    no event reports; `live_usd_per_second` that of GPT-Live, whose events report it after 15 seconds and then once or twice a
    minute.
    """

    def __init__(
        self,
        budgets: Budgets,
        store: Store,
        record: str,
        *,
        model: str | None = None,
        place: Callable[[Use], str],
        warning: Callable[[Use], bytes] | None = None,
        rates: Rates | None = None,
        usd_per_second: float = 0.0,
        live_usd_per_second: float = 0.0,
    ) -> None:
        self._budgets = budgets
        self._store = store
        self._record = record
        self._model = model_label(model)
        self._place = place
        self._warning = warning
        self._rates = rates
        self._usd_per_second = usd_per_second
        self._live_usd_per_second = live_usd_per_second
        self._clock = asyncio.get_running_loop().time
        self._spent = Spent()
        self._session: BudgetedSession | None = None
        self._responses: ResponseCounter | None = None
        self._started_at = self._reported_at = self._counted_until = self._clock()
        self._is_dirty = False
        self._task: asyncio.Task[None] | None = None
        self._exhausted: tuple[Use, float] | None = None  # by others, while a response runs: and since when
        self._has_ended = False

    def start(self, session: BudgetedSession, spent: Spent, timer: ResponseTimer) -> ResponseTimer:
        """Begin; returns the timer for the pipes of the session."""
        self._session, self._spent = session, spent
        spent.on_change, spent.rates = self.note, self._rates
        self._responses = ResponseCounter(
            timer, self._response_ended, clock=self._clock, received_bytes=lambda: session.received_bytes
        )
        self.note()
        return self._responses

    def note(self) -> None:
        """Have what was spent reported, soon."""
        self._is_dirty = True
        if self._task is None and not self._has_ended:
            self._task = asyncio.get_running_loop().create_task(self._report())
            self._task.add_done_callback(self._reported)

    @property
    def is_response_running(self) -> bool:
        """Whether a response runs, of which the provider has not reported the tokens yet."""
        return self._responses is not None and self._responses.running > 0

    def refusal(self, event_type: str | None) -> str | None:
        """The reason for which an event of the client is not forwarded; None if it is. It has then been counted.

        A response out of band runs beside others, so a client could request any number before the first one has a price.
        """
        if event_type != CREATE or self._responses is None:
            return None
        if self._has_ended or self._exhausted is not None:
            return REASON
        return None if self._responses.request() else "too_many_responses"

    def event_discarded(self, event_type: str | None) -> None:
        """Note an event that upstream sent after the end of the session."""
        if event_type == RESPONSE_DONE and self._responses is not None:
            self._responses.ended()

    def tick(self) -> None:
        """Called twice a second."""
        now = self._clock()
        if self._usd_per_second and not self._has_ended:
            self._count_time(now)
        if self._exhausted is not None and now - self._exhausted[1] >= LAST_RESPONSE_SECONDS:
            self._end(self._exhausted[0])
        elif (self._budgets.count_time or self._live_usd_per_second) and now - self._reported_at >= REPORT_SECONDS:
            self.note()

    def finish(self) -> None:
        """Report the whole use, at the end of the session. Never waits."""
        self._has_ended = True
        self._spent.on_change = None
        if self._usd_per_second:
            self._count_time(self._clock())
        if self._live_usd_per_second and not self._spent.is_confirmed:
            seconds = self._unreported_seconds()
            self._spent.add(seconds * self._live_usd_per_second, seconds=seconds)
        self.count_unreported()
        self._session = None
        if self._task is not None:
            self._task.cancel()
        self._responses = None  # it refers to this object: the cycle would wait for the garbage collector
        if self._budgets.are_shared:
            self._store.spend(self._spending(self._amounts(), is_final=True))

    def count_unreported(self) -> None:
        """Count the response that runs when upstream is gone: a client must not be able to hear one and never pay for it."""
        if self._responses is None or not self.is_response_running:
            return
        usage = self._responses.unreported_usage(self._spent.last)
        self._spent.is_estimated = True
        self._spent.add(cost_usd(self._model, usage), tokens=usage.total, usage=usage)

    def _count_time(self, now: float) -> None:
        seconds, self._counted_until = now - self._counted_until, now
        self._spent.add(seconds * self._usd_per_second, seconds=seconds)

    def _unreported_seconds(self) -> float:
        """Of GPT-Live, silence included."""
        return max(0.0, self._clock() - self._started_at - self._spent.billed_seconds)

    def _response_ended(self) -> None:
        self.note()
        if self._exhausted is not None:
            # Not here: the pipe is in the middle of a delivery.
            asyncio.get_running_loop().call_soon(self._end, self._exhausted[0])

    async def _report(self) -> None:
        while self._is_dirty and not self._has_ended:
            self._is_dirty = False
            # A response that begins while the store is asked begins after the limit was reached.
            is_running = self.is_response_running
            amounts, totals = self._amounts(), dict[Scope, Totals]()
            unreported = int(self._unreported_seconds() * self._live_usd_per_second * 1_000_000)
            self._reported_at = self._clock()
            if self._budgets.are_shared:
                totals |= await self._store.spend_and_read(self._spending(amounts))
            self._judge(*_with(unreported, amounts, totals), is_running=is_running)
            if self._spent.billed_seconds:
                await asyncio.sleep(PAUSE_SECONDS)

    def _reported(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()  # an exception of the relay's own is logged by the loop
            if self._is_dirty:
                self.note()

    def _judge(self, amounts: Amounts, totals: Mapping[Scope, Totals], *, is_running: bool) -> None:
        if self._budgets.count_responses and not self._spent.is_measured:
            self._end_with("a response or transcription without its usage", _UNMEASURED_HINT)
            return
        if self._budgets.count_money and not self._spent.is_priced:
            self._end_with("a charge without a known price", _UNPRICED_HINT)
            return
        use = self._budgets.most_used(amounts, totals)
        if use is None or use.ratio < WARNING_RATIO:
            return
        if use.ratio < 1:
            self._warn(use)
        elif is_running:
            self._exhausted = self._exhausted or (use, self._clock())
        else:
            self._end(use)

    def _warn(self, use: Use) -> None:
        warning, self._warning = self._warning, None
        if warning is not None and self._session is not None:
            self._session.send_at_boundary(warning(use))

    def _end(self, use: Use) -> None:
        hint = f"{_renewal(use)} Operator: the limit is {self._place(use)}."
        self._end_with(f"{use.limit}: {shown(use)} used", hint)

    def _end_with(self, detail: str, hint: str) -> None:
        if self._session is None or self._has_ended:
            return
        self._has_ended = True
        self._session.end_at_boundary(replace(ending.relay_ended(REASON), hint=hint, detail=detail))

    def _amounts(self) -> Amounts:
        spent = self._spent
        return Amounts(spent.microusd, spent.tokens, int((self._clock() - self._started_at) * 1000))

    def _spending(self, amounts: Amounts, *, is_final: bool = False) -> Spending:
        scopes = tuple(limits.scope for limits in self._budgets.scopes)
        return Spending(self._record, scopes, amounts, is_final=is_final)


def _with(microusd: int, amounts: Amounts, totals: Mapping[Scope, Totals]) -> tuple[Amounts, Mapping[Scope, Totals]]:
    """The same with what the session owes and the provider has not reported."""
    if not microusd:
        return amounts, totals

    def more(used: Amounts) -> Amounts:
        return used._replace(microusd=used.microusd + microusd)

    return more(amounts), {scope: Totals(more(total.day), more(total.month)) for scope, total in totals.items()}


def _renewal(use: Use) -> str:
    match use.limit.rpartition("_")[2]:
        case "session":
            return "Connect again: the budget is that of one session."
        case "day":
            return "Connect again after midnight UTC."
    return "Connect again after the end of the month (UTC)."
