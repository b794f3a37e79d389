"""One timer for all sessions. A timer for each would cost memory and one wake-up of the event loop per session and tick."""

import asyncio
from time import perf_counter
from typing import Final, Protocol

from service.deadlines import STALL_SECONDS

TICK_SECONDS: Final = 0.5
"""The interval between two ticks of a session. A tick finds the loss of a held leg, so that this and
`closing_sides.UPSTREAM_CLOSE_SECONDS` together stay below two seconds."""
_GROUPS: Final = 10
"""The sessions tick in this many groups, one after the other: nine thousand in one iteration of the event loop would delay
all frames by tens of milliseconds."""
TURN_SECONDS: Final = 0.002
"""After this much work in one turn of the event loop, the rest of a group ticks in the next turns: a renewable session may
read much that it has kept."""


class Tickable(Protocol):
    """A session, as the ticker sees it."""

    def tick(self) -> None:
        """Check deadlines. Must not raise: the other sessions of the group would miss their tick."""

    def stalled(self, seconds: float) -> None:
        """Exclude a stall of the process, which has just ended, from what counts against the peers. Must not raise."""


class Ticker:
    """Calls `tick` of every session that was added, every `TICK_SECONDS`. Sets no timer while there is none."""

    def __init__(self) -> None:
        self._groups: list[set[Tickable]] = [set() for _ in range(_GROUPS)]
        self._current_group = 0
        self._due_sessions: dict[Tickable, None] = {}  # in the order of their ticks
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, session: Tickable) -> None:
        """Tick a session from now on, the first time within `TICK_SECONDS`, unless the process stalls."""
        min(self._groups, key=len).add(session)
        if self._timer is None:
            self._due = asyncio.get_running_loop().time()
            self._schedule()

    def remove(self, session: Tickable) -> None:
        """Stop ticking a session. Removing it again has no effect."""
        self._due_sessions.pop(session, None)
        for group in self._groups:
            group.discard(session)
        if self._timer is not None and not any(self._groups):
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        # Relative to the time at which this tick was due, so that lateness does not accumulate. After a long stall the
        # ticks that were missed are skipped.
        self._due = max(self._due + TICK_SECONDS / _GROUPS, loop.time())
        self._timer = loop.call_at(self._due, self._tick_next_group)

    def _tick_next_group(self) -> None:
        late = asyncio.get_running_loop().time() - self._due
        self._schedule()
        if late > STALL_SECONDS:
            for session in tuple(set[Tickable]().union(*self._groups)):
                session.stalled(late)
            return
        self._current_group = (self._current_group + 1) % _GROUPS
        is_scheduled = bool(self._due_sessions)
        self._due_sessions.update(dict.fromkeys(self._groups[self._current_group]))
        if not is_scheduled:
            self._tick_due_sessions()

    def _tick_due_sessions(self) -> None:
        until = perf_counter() + TURN_SECONDS
        while self._due_sessions:
            session = next(iter(self._due_sessions))
            del self._due_sessions[session]
            session.tick()
            if perf_counter() >= until and self._due_sessions:
                asyncio.get_running_loop().call_soon(self._tick_due_sessions)
                return
