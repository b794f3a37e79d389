"""What a session's clock finds: too slow, too silent, too idle, too long. Reads facts, decides, touches nothing."""

from dataclasses import dataclass
from typing import Final

from service.relay import ending
from service.relay.ending import Ending
from service.wire.leg import Leg

RATE_WINDOW_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The bounds of a session. 0 seconds is off for idle and duration."""

    max_message_bytes: int
    idle_timeout_seconds: float = 0.0
    max_session_seconds: float = 0.0
    # What a client may send, averaged over RATE_WINDOW_SECONDS; 0 is no limit.
    max_messages_per_second: float = 0.0
    max_bytes_per_second: float = 0.0
    # How long a peer may leave everything unread. HAProxy's advice for tunnels is tens of seconds; 20 s is a minute of
    # speech at the pace at which answers come.
    slow_seconds: float = 20.0
    # Below the 60 s after which load balancers and ingresses cut a quiet connection.
    ping_seconds: float = 20.0
    # A peer that answers no ping: a client that fell silent is found within 40 s.
    silent_seconds: float = 39.0


class RateMeter:
    """How much a total grows in each `RATE_WINDOW_SECONDS`, so that a burst at the start is no offence."""

    __slots__ = ("_before", "_most", "_since")

    def __init__(self, most_per_second: float) -> None:
        self._most = most_per_second * RATE_WINDOW_SECONDS
        self._since = 0.0
        self._before = 0

    def is_over(self, now: float, total: int) -> bool:
        """Whether the window that `now` lies in has brought more than the limit so far; 0 is no limit."""
        if now - self._since >= RATE_WINDOW_SECONDS:
            is_over = 0 < self._most < total - self._before
            self._since, self._before = now, total
            return is_over
        return 0 < self._most < total - self._before


def verdict(
    now: float, client: Leg, upstream: Leg, limits: SessionLimits, *, started_at: float, active_at: float
) -> Ending | None:
    """The end that the clock demands, or None. The dead come first, then the slow, then the merely idle."""
    for leg, side in ((client, "client"), (upstream, "upstream")):
        held = leg.held_since is not None
        # A held leg hears nothing because we do not listen; only the kernel can tell whether its peer is there. Upstream is
        # not asked: it costs nothing once it is gone, and its last words, a CLOSE perhaps, wait for the client to read on.
        if held and side == "client" and leg.peer_disconnected():
            return ending.by_loss("client")
        if leg.full_since is not None and now - leg.full_since > limits.slow_seconds:
            return ending.by_relay(f"{side}_too_slow")
        if not held and now - leg.last_alive_at > limits.silent_seconds:
            return ending.by_loss("client" if side == "client" else "upstream")
    if limits.max_session_seconds and now - started_at > limits.max_session_seconds:
        return ending.by_relay("max_duration")
    if limits.idle_timeout_seconds and now - active_at > limits.idle_timeout_seconds:
        return ending.by_relay("idle_timeout")
    return None
