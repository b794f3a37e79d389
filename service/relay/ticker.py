"""One clock for all sessions: a timer for each would cost memory and a wake-up of the loop each time."""

import asyncio
from typing import Final, Protocol

TICK_SECONDS: Final = 0.5
"""How often each session is looked at. A held leg's loss is found then, so that this and the time that upstream gets for its
CLOSE (`session.UPSTREAM_CLOSE_SECONDS`) together stay below two seconds."""
_GROUPS: Final = 10
"""Sessions are looked at in turns: nine thousand at once would delay the frames of all by tens of milliseconds."""


class Ticked(Protocol):
    """A session, as its clock sees it."""

    def tick(self) -> None:
        """Look whether the time has come for something; raises nothing."""


class Ticker:
    """Looks at everything added, every `TICK_SECONDS`; it stands still while there is nothing."""

    def __init__(self) -> None:
        self._groups: list[set[Ticked]] = [set() for _ in range(_GROUPS)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, session: Ticked) -> None:
        """Look at a session from now on, the first time within `TICK_SECONDS`."""
        min(self._groups, key=len).add(session)
        if self._timer is None:
            self._due = asyncio.get_running_loop().time()
            self._wind()

    def remove(self, session: Ticked) -> None:
        """Look at it no longer."""
        for group in self._groups:
            group.discard(session)
        if self._timer is not None and not any(self._groups):
            self._timer.cancel()
            self._timer = None

    def _wind(self) -> None:
        loop = asyncio.get_running_loop()
        # By the time that it was due, so that lateness does not add up; but not to catch up after a long stall.
        self._due = max(self._due + TICK_SECONDS / _GROUPS, loop.time())
        self._timer = loop.call_at(self._due, self._strike)

    def _strike(self) -> None:
        self._wind()
        self._turn = (self._turn + 1) % _GROUPS
        for session in tuple(self._groups[self._turn]):
            session.tick()
