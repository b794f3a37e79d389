"""The limits of a session and which of them it has exceeded: too slow, silent, idle, or open too long. Changes nothing."""

from dataclasses import dataclass
from typing import Final

from service.relay import ending
from service.relay.ending import Ending, Side
from service.wire.leg import Leg

RATE_WINDOW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of a session. 0 switches off `idle_timeout_seconds`, `max_session_seconds` and the rates."""

    max_message_bytes: int
    idle_timeout_seconds: float = 0.0
    max_session_seconds: float = 0.0
    # What a client may send, averaged over RATE_WINDOW_SECONDS.
    max_messages_per_second: float = 0.0
    max_bytes_per_second: float = 0.0
    # How long a peer may leave everything unread. HAProxy recommends tens of seconds for tunnels; at the pace at which
    # responses arrive, 20 s is a minute of speech.
    slow_seconds: float = 20.0
    # Below the 60 s after which load balancers and ingresses close an idle connection.
    ping_seconds: float = 20.0
    # A peer that answers no ping: a client that fell silent is found within 40 s.
    silent_seconds: float = 39.0


class RateMeter:
    """Compares the growth of a total in each `RATE_WINDOW_SECONDS` with a limit: a short burst does not exceed it."""

    __slots__ = ("_limit", "_total_at_start", "_window_started_at")

    def __init__(self, limit_per_second: float) -> None:
        self._limit = limit_per_second * RATE_WINDOW_SECONDS
        self._window_started_at = 0.0
        self._total_at_start = 0

    def is_exceeded(self, now: float, total: int) -> bool:
        """Whether the window at `now` has exceeded the limit so far; never for the limit 0."""
        if now - self._window_started_at >= RATE_WINDOW_SECONDS:
            is_exceeded = 0 < self._limit < total - self._total_at_start
            self._window_started_at, self._total_at_start = now, total
            return is_exceeded
        return 0 < self._limit < total - self._total_at_start


def due_ending(
    now: float, client: Leg, upstream: Leg, limits: SessionLimits, *, started_at: float, active_at: float
) -> Ending | None:
    """The ending that is due at `now`, or None. Within a side, loss comes before slowness; both come before idleness."""
    sides: tuple[tuple[Leg, Side], ...] = ((client, "client"), (upstream, "upstream"))
    for leg, side in sides:
        held = leg.held_since is not None
        # A held leg receives nothing, so silence proves nothing; only the kernel knows whether its peer is connected.
        # Upstream is not asked: after it has disconnected it costs nothing, and its last frames, perhaps a close frame, are
        # read when the client catches up.
        if held and side == "client" and leg.peer_disconnected():
            return ending.peer_lost(side)
        if leg.full_since is not None and now - leg.full_since > limits.slow_seconds:
            return ending.relay_ended(f"{side}_too_slow")
        if not held and now - leg.last_alive_at > limits.silent_seconds:
            return ending.peer_lost(side)
    if limits.max_session_seconds and now - started_at > limits.max_session_seconds:
        return ending.relay_ended("max_duration")
    if limits.idle_timeout_seconds and now - active_at > limits.idle_timeout_seconds:
        return ending.relay_ended("idle_timeout")
    return None
