"""How a drain goes: its times, its haste, its tally. What it does to the sessions is in `registry.py`."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

CLOSES_PER_SECOND: Final = 50
"""What is left at the deadline is closed no faster than this where the spread allows: whoever is closed comes back at once,
and to relays that are still warming up."""
HURRY_SECONDS: Final = 1.0
"""So long may goodbyes take once somebody is in a hurry."""


@dataclass(frozen=True, slots=True)
class DrainTiming:
    """How long sessions may go on, and over how long the rest is then closed."""

    drain_seconds: float
    close_spread_seconds: float

    def spread_seconds(self, sessions: int) -> float:
        """Over how long so many sessions are closed."""
        return min(self.close_spread_seconds, sessions / CLOSES_PER_SECOND)


@dataclass(slots=True)
class DrainSignals:
    """What signals may change while a drain is under way: `hurry` waits for no session, `quit` not even for goodbyes."""

    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    quit: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class DrainResult:
    """What became of the sessions: ended by themselves, closed with 1001, cut without a word."""

    finished: int = 0
    closed: int = 0
    aborted: int = 0

    def count(self, reason: str, *, was_told: bool) -> None:
        """A session has ended."""
        if reason != "relay_draining":
            self.finished += 1
        elif was_told:
            self.closed += 1
        else:
            self.aborted += 1
