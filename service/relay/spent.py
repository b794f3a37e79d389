"""What one session has used so far."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from service.access.budgets import Rates
from service.realtime.usage import Usage

_MICRO: Final = 1_000_000


@dataclass(slots=True)
class Spent:
    """What a session has used so far. `is_priced` is False once something had no price: the cost is then higher.

    `is_measured` is False once a response or transcription ended without its usage: then neither that nor the cost is known.
    `is_estimated`: a response whose tokens were never reported counts by an estimate. `rates` are those of the operator for
    what has no known price; `on_change` is called after each change.
    """

    tokens: int = 0
    cost_usd: float = 0.0
    billed_seconds: float = 0.0  # of what costs by the minute
    is_priced: bool = True
    is_measured: bool = True
    is_confirmed: bool = False  # of GPT-Live: the provider has reported the final seconds
    is_estimated: bool = False
    usage: Usage = field(default_factory=Usage)  # of responses
    last: Usage = field(default_factory=Usage)  # of the last one
    rates: Rates | None = None
    on_change: Callable[[], None] | None = None

    @property
    def microusd(self) -> int:
        """The cost in whole micro-USD, rounded up: as the store counts it and the record states it."""
        # Less than a thousandth of a micro-USD is the error of adding floats.
        return max(0, math.ceil(self.cost_usd * _MICRO - 1e-3))

    def add(self, cost_usd: float | None, *, tokens: int = 0, seconds: float = 0.0, usage: Usage | None = None) -> None:
        """Add what an event reports; without a price `cost_usd` is None."""
        if cost_usd is None and self.rates is not None:
            cost_usd = tokens * self.rates.per_token + seconds * self.rates.per_second
        self.tokens += tokens
        self.billed_seconds += seconds
        self.cost_usd += cost_usd or 0.0
        self.is_priced = self.is_priced and cost_usd is not None
        if usage is not None:
            self.usage += usage
            self.last = usage
        self._changed()

    def add_unmeasured(self) -> None:
        """Note what the provider does not report the usage of. No price of the operator's replaces that."""
        self.is_measured = self.is_priced = False
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()
