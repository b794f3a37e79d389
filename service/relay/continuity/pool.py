"""What the sessions of a process share for continuity: slots for dials, memory, the spread of a storm, the limits."""

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.swap import StormSpread, SwapTimes
from service.relay.continuity.fair_slots import FairSlots
from service.telemetry.continuity import ContinuityMetrics
from service.upstream.dial import UpstreamConnection


class Redial(Protocol):
    """Dials upstream for a session that exists, as the first dial was."""

    def __call__(self, *, is_recovery: bool) -> Awaitable[UpstreamConnection]:
        """Dial; the caller owns the connection. Raises Failure. `is_recovery`: the session has lost its upstream."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ContinuityOptions:
    """The settings of continuity. `max_bytes` is the bound of the whole process.

    `max_session_seconds` is the maximum duration of a session for which nothing else is set; None if the operator has set
    that of all sessions.
    """

    mode: Literal["off", "ask", "renew"]
    max_bytes: int
    max_dials: int
    limits: ContinuityLimits = field(default_factory=ContinuityLimits)
    times: SwapTimes = field(default_factory=SwapTimes)
    max_session_seconds: float | None = None


class ContinuityPool:
    """Shared by the sessions of a process.

    Slots: renewals dial at most a quarter of RELAY_MAX_DIALS at the same time, recoveries half of it, both beside the dials
    of new clients, which therefore never wait for them. Clients take turns at both, and at the places in a storm.
    """

    def __init__(self, options: ContinuityOptions, metrics: ContinuityMetrics) -> None:
        self.options = options
        self.limits = options.limits
        self.times = options.times
        self.metrics = metrics
        self.renewals = FairSlots(max(1, options.max_dials // 4))
        self.recoveries = FairSlots(max(1, options.max_dials // 2))
        self._storm = StormSpread()
        self._max_bytes = options.max_bytes
        self._bytes = 0
        self._sessions = 0
        metrics.kept_bytes.set_function(lambda: self._bytes)

    @property
    def has_room(self) -> bool:
        """Whether another session may keep its conversation."""
        return self._bytes < self._max_bytes

    def join(self) -> None:
        """Count a session that keeps its conversation."""
        self._sessions += 1

    def leave(self, size: int) -> None:
        """Count one less, which has kept `size` bytes."""
        self._sessions -= 1
        self._bytes -= size

    def must_free(self, size: int) -> bool:
        """Whether a session that keeps `size` bytes has to free them: beyond the bound, those that keep at least the mean.

        So a client that fills the memory loses its own conversations, and not those of all others.
        """
        return not self.has_room and size * self._sessions >= self._bytes

    def account(self, more: int) -> None:
        """Count bytes that a session keeps, or below 0 no longer keeps."""
        self._bytes += more

    def delay_of_recovery(self, client: str, *, is_urgent: bool) -> float:
        """How long a session that has lost its upstream waits before it dials, so that many of them do not dial at once."""
        now = asyncio.get_running_loop().time()
        return self._storm.delay(now, client, is_urgent=is_urgent, random=random.random())  # noqa: S311 - jitter
