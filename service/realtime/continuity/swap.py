"""When an upstream is replaced: the states of a session, their deadlines, and how often a loss is recovered. Pure.

Times are those of one monotonic clock, in seconds. The caller dials, writes and closes; it reports what happened, and asks
`due` what to do now.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from math import inf
from typing import Final

from service.realtime.continuity.continuity import Boundary

MAX_LOSSES: Final = ((120.0, 3), (3600.0, 10))
"""Losses that are recovered within a time: an event that ends each upstream connection must not repeat for ever."""
_COUNTED_LOSSES: Final = max(count for _, count in MAX_LOSSES)
_ATTEMPT_DELAYS: Final = (0.0, 0.5, 1.0, 2.0, 4.0)
_SHORTEST_SECONDS: Final = 1.0
_LONGEST_SECONDS: Final = 86_400.0
_LARGEST_RETRY: Final = 6  # doublings
_STORM_LOSSES: Final = 10  # more of them within a second are a storm
_STORM_RATE: Final = 100.0  # attempts a second
_LOST_CODES: Final = frozenset({1001, 1005, 1006, 1011, 1012, 1013})


def is_recoverable(close_code: int | None, *, is_fatal: bool = False, has_expired: bool = False) -> bool:
    """Whether another upstream may continue the session; `close_code` None: reset, end of file or silence.

    `is_fatal`: an `error` before it reported the key, the account or its balance.
    """
    if is_fatal:
        return False
    return has_expired or close_code is None or close_code in _LOST_CODES


class SwapState(StrEnum):
    """Which upstream a session has."""

    LIVE = "live"
    PREPARING = "preparing"  # it also has a new one, which is not in sync
    READY = "ready"  # it also has a new one in sync
    LOST = "lost"  # none
    REPLAY = "replay"  # a new one, which is not in sync
    FLUSH = "flush"  # a new one that is sent what the client has sent meanwhile


class Step(Enum):
    """What is to be done now."""

    PREPARE = auto()  # dial a second upstream
    ABANDON = auto()  # abort the second upstream: its preparation takes too long
    SWITCH = auto()  # a boundary: bring the second upstream in sync, check the boundary again, and go over
    FORCE = auto()  # give the old upstream up as if it were lost: it expires in a moment
    DIAL = auto()  # dial a new upstream
    RESTART = auto()  # abort the new upstream: it takes too long
    GIVE_UP = auto()  # end the session as the loss would have


@dataclass(frozen=True, slots=True)
class SwapTimes:
    """Seconds. `before` is before the session expires."""

    prepare_before: float = 300.0
    spread: float = 240.0  # at most this much earlier, so that sessions that began together do not renew together
    hard_before: float = 60.0  # from here on a hard boundary is enough
    force_before: float = 8.0
    dial: float = 8.0
    update: float = 5.0
    items: float = 20.0
    recovery: float = 15.0
    retry: float = 30.0  # after a failed preparation; twice as long after each further one
    renew_after: float = 0.0  # the life of an upstream that states none; 0: it is not renewed


class Swap:
    """The state of one session, LIVE at first. `random` returns numbers from 0 to 1."""

    def __init__(self, *, times: SwapTimes, random: Callable[[], float]) -> None:
        self._times = times
        self._random = random
        self.state = SwapState.LIVE
        self._expires_at = inf
        self._prepare_at = inf
        self._deadline = inf  # of the phase
        self._failures = 0  # of preparations
        self._is_dialled = False  # the new upstream has sent its first event
        self._dial_at = inf
        self._attempts = 0
        self._give_up_at = inf
        self.lost_at: float | None = None
        """When upstream was lost, until the session is LIVE again."""
        self._losses: list[float] = []  # the last ones

    # -- renewal ------------------------------------------------------------------------------------------------------

    def schedule(self, now: float, seconds_left: float | None) -> None:
        """Plan the renewal of the current upstream; `seconds_left`: by its own word, None if it has given none."""
        times = self._times
        if seconds_left is None or not _SHORTEST_SECONDS <= seconds_left <= _LONGEST_SECONDS:
            seconds_left = times.renew_after or inf
        self._expires_at = now + seconds_left
        # Of a short life, half is left for the preparation.
        before = min(times.prepare_before + times.spread * self._random(), seconds_left * 0.5)
        self._prepare_at = self._expires_at - before if seconds_left < inf else inf
        self._failures = 0

    def renew_never(self) -> None:
        """Plan no renewal; for a session that is LIVE or has lost its upstream."""
        self._expires_at = self._prepare_at = inf

    def due(self, now: float, boundary: Callable[[], Boundary]) -> Step | None:
        """Return what to do now. `boundary` is called only if it matters."""
        match self.state:
            case SwapState.LIVE:
                return Step.PREPARE if now >= self._prepare_at else None
            case SwapState.PREPARING:
                return Step.ABANDON if now >= self._deadline else None
            case SwapState.READY:
                return self._due_ready(now, boundary)
            case SwapState.LOST:
                if now >= self._give_up_at:
                    return Step.GIVE_UP
                return Step.DIAL if now >= self._dial_at else None
        if now >= self._give_up_at:
            return Step.GIVE_UP
        return Step.RESTART if now >= self._deadline else None

    def _due_ready(self, now: float, boundary: Callable[[], Boundary]) -> Step | None:
        if now >= self._expires_at - self._scaled(self._times.force_before):
            return Step.FORCE
        needed = Boundary.HARD if now >= self._expires_at - self._scaled(self._times.hard_before) else Boundary.SOFT
        return Step.SWITCH if boundary() >= needed else None

    def _scaled(self, before: float) -> float:
        """A time before the end, shorter if the preparation began late."""
        return min(before, (self._expires_at - self._prepare_at) * before / self._times.prepare_before)

    def next_at(self) -> float:
        """When `due` has something to do if nothing happens; for READY, boundaries aside."""
        match self.state:
            case SwapState.LIVE:
                return self._prepare_at
            case SwapState.READY:
                return self._expires_at - self._scaled(self._times.force_before)
            case SwapState.LOST:
                return min(self._dial_at, self._give_up_at)
        return min(self._deadline, self._give_up_at)

    def preparing(self, now: float) -> None:
        """The dial of a second upstream has begun."""
        self.state, self._deadline, self._is_dialled = SwapState.PREPARING, now + self._times.dial, False

    def postpone(self, now: float) -> None:
        """The session cannot be renewed at present. A dial was not tried, so that this is no failure."""
        self._prepare_at = now + _SHORTEST_SECONDS

    def dialled(self, now: float) -> None:
        """The new upstream has sent its first event; its configuration is sent."""
        self._deadline, self._is_dialled = now + self._times.update, True
        if self.state is SwapState.LOST:
            self.state, self._dial_at = SwapState.REPLAY, inf

    def configured(self, now: float) -> None:
        """The new upstream has accepted the configuration."""
        self._deadline = now + self._times.items

    def prepared(self) -> None:
        """The new upstream is in sync."""
        self.state, self._deadline = SwapState.READY, inf

    def preparation_failed(self, now: float) -> None:
        """The new upstream refused, was lost or took too long. The old one goes on."""
        self.state, self._deadline, self._is_dialled = SwapState.LIVE, inf, False
        wait = self._times.retry * 2 ** min(self._failures, _LARGEST_RETRY)
        self._failures += 1
        if now < self._expires_at:  # an upstream that goes on after its time is not worth a dial a second
            wait = min(wait, max(_SHORTEST_SECONDS, (self._expires_at - now) / 2))
        self._prepare_at = now + wait

    # -- recovery -----------------------------------------------------------------------------------------------------

    def lost(self, now: float, *, delay: float = 0.0, is_forced: bool = False) -> bool:
        """Upstream is lost, or given up (`is_forced`); False if the session has had too many losses.

        A READY upstream takes over: the state is REPLAY. One that is being prepared goes on as that of the recovery. A loss
        of the new one is `attempt_failed`.
        """
        if not is_forced and not self._count_loss(now):
            return False
        self.lost_at = now
        self._give_up_at = now + self._times.recovery
        self._give_up_at = max(self._give_up_at, now + delay + self._times.dial)
        self._attempts = 0
        if self.state is SwapState.READY or self._is_dialled:
            self.state, self._deadline = SwapState.REPLAY, now + self._times.items
        elif self.state is SwapState.PREPARING:
            self.state, self._dial_at = SwapState.LOST, inf
        else:
            self.state, self._dial_at = SwapState.LOST, now + delay
        return True

    def _count_loss(self, now: float) -> bool:
        if any(len([at for at in self._losses if at > now - within]) >= count for within, count in MAX_LOSSES):
            return False
        self._losses = [*self._losses, now][-_COUNTED_LOSSES:]
        return True

    def dialling(self) -> None:
        """An attempt has begun; the next one waits for its result."""
        self._dial_at = inf

    def attempt_failed(self, now: float) -> bool:
        """The new upstream refused, was lost, or took too long: another attempt follows; False: there were too many losses.

        An upstream that was lost after its first event counts as a loss: what it was sent may have caused it.
        """
        if self.state is not SwapState.LOST and not self._count_loss(now):
            return False
        self._attempts += 1
        self._is_dialled = False
        delay = _ATTEMPT_DELAYS[min(self._attempts, len(_ATTEMPT_DELAYS) - 1)]
        self.state, self._deadline = SwapState.LOST, inf
        self._dial_at = now + delay * (0.5 + 0.5 * self._random())
        return True

    def replayed(self) -> None:
        """The new upstream is in sync, and is sent the journal."""
        self.state = SwapState.FLUSH

    def live(self) -> None:
        """The new upstream has taken over; call `schedule` next."""
        self.state, self._deadline, self._give_up_at = SwapState.LIVE, inf, inf
        self._is_dialled, self.lost_at = False, None


class StormSpread:
    """Spreads the attempts of all sessions of a process when many lose their upstream at once."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_STORM_LOSSES + 1)
        self._began_at = -inf
        self._all = self._urgent = 0
        self._of_clients: Counter[str] = Counter()

    def delay(self, now: float, client: str, *, is_urgent: bool, random: float) -> float:
        """Return how long the first attempt of a session that was lost just now waits. `is_urgent`: its user waits.

        Clients take turns: behind the sessions of one that loses many, a session of another waits for one of each client.
        """
        self._recent.append(now)
        if len(self._recent) <= _STORM_LOSSES or self._recent[0] < now - 1.0:
            self._all = self._urgent = 0
            self._of_clients.clear()
            return 0.0
        if not self._all:
            self._began_at = now
        self._all += 1
        self._urgent += is_urgent
        self._of_clients[client] += 1
        turn = self._of_clients[client] * len(self._of_clients)
        place = min(self._urgent if is_urgent else self._all, turn) + random
        return max(0.0, place / _STORM_RATE - (now - self._began_at))
