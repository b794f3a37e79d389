"""The limits of a session and which of them it has exceeded: too slow, silent, idle, or open too long. Changes nothing."""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from service.relay import ending
from service.relay.ending import Ending, Side
from service.wire.leg import Leg
from service.wire.signs_of_life import ACK_CHECK_SECONDS, MIN_PROGRESS_BYTES

ACK_ONLY_SECONDS: Final = 120.0
"""A peer that acknowledges data but sends nothing for this long is lost: a proxy may be acknowledging for it. A live client
that plays slowly reaches the ping within this time: kernels buffer less than two minutes of speech."""

RATE_WINDOW_SECONDS: Final = 10.0
UPSTREAM_FRAMES_PER_SECOND: Final = 5000.0
"""An upstream that sends more ends the session: fifty times what the provider sends at its fastest."""
HELD_PING_SECONDS: Final = 1.0
"""A client that is not read is pinged each time this has passed. Its FIN cannot arrive behind bytes for which the receive
window has no room, but the kernel of one that has disconnected answers data with RST, which can."""
PING_ANSWER_SECONDS: Final = 10.0
"""After a stall of the process each peer has at least this long to answer a ping."""


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of a session. 0 switches off `idle_timeout_seconds`, `max_session_seconds` and the rates."""

    max_message_bytes: int
    idle_timeout_seconds: float = 0.0
    max_session_seconds: float = 0.0
    token_seconds: float | None = None  # until the client's token expires, if the session ends with it
    # What a client may send, averaged over RATE_WINDOW_SECONDS.
    max_messages_per_second: float = 0.0
    max_bytes_per_second: float = 0.0
    # How long a peer may leave everything unread. HAProxy recommends tens of seconds for tunnels; at the pace at which
    # responses arrive, 20 s is a minute of speech.
    slow_seconds: float = 20.0
    # Below the 60 s after which load balancers and ingresses close an idle connection.
    ping_seconds: float = 20.0
    # A peer that answers no ping is found within 40 s; see `Leg.check_progress` for a client that acknowledges data.
    silent_seconds: float = 39.0
    # How long a client may leave the ping unanswered that is sent when another of its connections is refused.
    probe_seconds: float = 10.0
    # How long a GPT-Live client may take for its first message.
    live_start_seconds: float = 60.0


class Lapse(NamedTuple):
    """When a client's session is over at the latest: one that is ending, or one whose client may be dead."""

    seconds: float
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """A ping sent to a client because another of its connections was refused, and what it had acknowledged by then.

    Or one sent to an upstream connection that waits to take over.
    """

    sent_at: float
    acknowledged_bytes: int

    def is_answered(self, client: Leg) -> bool:
        """Whether the client has sent anything since."""
        return client.last_received_at >= self.sent_at

    def has_failed(self, now: float, client: Leg, seconds: float) -> bool:
        """Whether the client has not answered within `seconds`, and is lost.

        A pong may wait behind data that the client still reads, or that the relay does not.
        """
        return (
            now - self.sent_at >= seconds
            and not self.is_answered(client)
            and client.held_since is None
            and client.full_since is None
            and client.can_send
            and client.acknowledged_bytes - self.acknowledged_bytes < MIN_PROGRESS_BYTES
        )


def seconds_until_lost(now: float, client: Leg, probe: Probe, limits: SessionLimits) -> float | None:
    """The seconds within which the session of a client that is dead ends; None for one that is alive, or is not read."""
    if probe.is_answered(client) or client.held_since is not None:
        return None
    if client.full_since is not None:
        return max(0.0, client.full_since + limits.slow_seconds - now)
    if client.acknowledged_bytes - probe.acknowledged_bytes >= MIN_PROGRESS_BYTES:
        return max(0.0, client.last_received_at + ACK_ONLY_SECONDS - now)
    if not client.can_send:  # the ping waits for the end of a frame
        return max(0.0, client.last_alive_at + limits.silent_seconds - now)
    return max(0.0, probe.sent_at + limits.probe_seconds - now)


class ClientProber:
    """Pings a client of which another connection was refused."""

    __slots__ = ("_client", "last")

    def __init__(self, client: Leg) -> None:
        self._client = client
        self.last: Probe | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether the client has yet to answer the last ping."""
        return self.last is not None and not self.last.is_answered(self._client)

    def has_failed(self, now: float, limits: SessionLimits) -> bool:
        """Whether the client is lost: it has not answered the last ping."""
        return self.last is not None and self.last.has_failed(now, self._client, limits.probe_seconds)

    def probe(self, now: float, limits: SessionLimits) -> float | None:
        """Ping, unless it was done within `probe_seconds`; see `seconds_until_lost`."""
        if self.last is None or now - self.last.sent_at >= limits.probe_seconds:
            self.last = Probe(self._client.send_probe(), self._client.acknowledged_bytes)
        return seconds_until_lost(now, self._client, self.last, limits)


class RateMeter:
    """Compares the growth of a total in each `RATE_WINDOW_SECONDS` with a limit: a short burst does not exceed it."""

    __slots__ = ("_limit", "_limit_per_second", "_window_started_at", "maximum")

    def __init__(self, limit_per_second: float, *, started_at: float = 0.0) -> None:
        self._limit_per_second = limit_per_second
        self._limit = limit_per_second * RATE_WINDOW_SECONDS or math.inf
        self._window_started_at = started_at
        self.maximum = self._limit
        """The greatest total that does not exceed the limit of this window."""

    @property
    def window_ends_at(self) -> float:
        """When the next window begins."""
        return self._window_started_at + RATE_WINDOW_SECONDS

    def is_exceeded(self, now: float, total: int) -> bool:
        """Whether the window at `now` has exceeded the limit so far; never for the limit 0."""
        is_exceeded = total > self.maximum
        if now - self._window_started_at >= RATE_WINDOW_SECONDS:
            self._window_started_at, self.maximum = now, total + self._limit
        return is_exceeded

    def credit_stall(self, now: float, seconds: float) -> None:
        """Extend the window to its full length from `now`: what the peer sent during a stall of the process arrives at once.

        The limit then also covers the part of the window before the stall, which a steady peer has used.
        """
        passed = max(seconds, min(now - self._window_started_at, seconds + RATE_WINDOW_SECONDS))
        self._window_started_at = now
        self.maximum += passed * self._limit_per_second


UNLIMITED: Final = RateMeter(0.0)


class SessionRates:
    """The rates of one session: what the client sends, against its limits, and the frames of upstream."""

    __slots__ = ("_bytes", "client_frames", "upstream_frames")

    def __init__(self, limits: SessionLimits, started_at: float) -> None:
        self.client_frames = RateMeter(limits.max_messages_per_second, started_at=started_at)
        self._bytes = RateMeter(limits.max_bytes_per_second, started_at=started_at)
        self.upstream_frames = RateMeter(UPSTREAM_FRAMES_PER_SECOND, started_at=started_at)

    @property
    def window_ends_at(self) -> float:
        """When the next window begins, of all three."""
        return self.client_frames.window_ends_at

    def allow(self, frames: int, size: int, upstream_frames: int) -> bool:
        """Whether no rate is exceeded, whose window has not ended."""
        return (
            frames <= self.client_frames.maximum
            and size <= self._bytes.maximum
            and upstream_frames <= self.upstream_frames.maximum
        )

    def due_ending(self, now: float, frames: int, size: int, upstream_frames: int) -> Ending | None:
        """The ending that a rate requires, from the totals of the client's frames and bytes and of upstream's frames."""
        if self.client_frames.is_exceeded(now, frames) | self._bytes.is_exceeded(now, size):
            return ending.relay_ended("rate_exceeded")
        if self.upstream_frames.is_exceeded(now, upstream_frames):
            return ending.upstream_flood(UPSTREAM_FRAMES_PER_SECOND)
        return None

    def credit_stall(self, now: float, seconds: float) -> None:
        """See `RateMeter.credit_stall`."""
        for meter in (self.client_frames, self._bytes, self.upstream_frames):
            meter.credit_stall(now, seconds)


def due_ending(
    now: float, client: Leg, upstream: Leg | None, limits: SessionLimits, *, started_at: float, active_at: float
) -> Ending | None:
    """The ending that is due at `now`, or None. Within a side, loss comes before slowness; both come before idleness."""
    sides: tuple[tuple[Leg | None, Side], ...] = ((client, "client"), (upstream, "upstream"))
    for leg, side in sides:
        if leg is None:
            continue
        held = leg.held_since is not None
        # A held leg receives nothing, so silence proves nothing; only the kernel knows whether its peer is connected.
        # Upstream is not asked: after it has disconnected it costs nothing, and its last frames, perhaps a close frame, are
        # read when the client catches up.
        if held and side == "client" and leg.peer_disconnected():
            return ending.peer_lost(side)
        if leg.full_since is not None and now - leg.full_since > limits.slow_seconds:
            return ending.relay_ended(f"{side}_too_slow")
        is_silent = now - leg.last_alive_at > limits.silent_seconds or now - leg.last_received_at > ACK_ONLY_SECONDS
        if not held and is_silent:
            return ending.peer_lost(side)
    if limits.token_seconds is not None and now - started_at >= limits.token_seconds:
        return ending.relay_ended("token_expired")
    if limits.max_session_seconds and now - started_at > limits.max_session_seconds:
        return ending.relay_ended("max_duration")
    if limits.idle_timeout_seconds and now - active_at > limits.idle_timeout_seconds:
        return ending.relay_ended("idle_timeout")
    return None


def quiet_until(client: Leg, upstream: Leg, limits: SessionLimits, *, started_at: float, active_at: float) -> float:
    """Until when `due_ending` and `Leg.check_progress` need not be called, as long as no leg is full and the client not held.

    What happens meanwhile only postpones it: a leg receives something, or the session is active.
    """
    if client.full_since is not None or upstream.full_since is not None:
        return 0.0  # what it has acknowledged is forgotten once it is not full any more
    return min(
        min(client.last_alive_at, upstream.last_alive_at) + min(ACK_CHECK_SECONDS, limits.silent_seconds),
        min(client.last_received_at, upstream.last_received_at) + ACK_ONLY_SECONDS,
        started_at + (limits.max_session_seconds or math.inf),
        started_at + (math.inf if limits.token_seconds is None else limits.token_seconds),
        active_at + (limits.idle_timeout_seconds or math.inf),
    )
