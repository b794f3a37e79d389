"""Watches the limits of one session: what is due at a tick, and until when nothing can be."""

from service.deadlines import STALL_SECONDS
from service.realtime.frames import Opcode
from service.relay import ending
from service.relay.ending import Ending
from service.relay.pipe import Pipe
from service.relay.ticker import TICK_SECONDS
from service.relay.watchdog import (
    HELD_PING_SECONDS,
    PING_ANSWER_SECONDS,
    ClientProber,
    RateMeter,
    SessionLimits,
    SessionRates,
    due_ending,
    quiet_until,
)
from service.wire.leg import Leg


class SessionWatch:
    """The state behind the limits of a session. Reads the legs and pings their peers; ends nothing.

    `upstream` is None while the session has no upstream connection. `quiet_until`: before this time a tick need not check the
    limits; set it to 0 to have them checked at the next tick. `ticked_at`: the time of the last tick.
    """

    __slots__ = (
        "_activity",
        "_client",
        "_client_pinged_at",
        "_limits",
        "_pinged_at",
        "_prober",
        "_rates",
        "active_at",
        "quiet_until",
        "started_at",
        "ticked_at",
        "upstream",
    )

    def __init__(self, client: Leg, upstream: Leg, limits: SessionLimits, now: float) -> None:
        self._client = client
        self.upstream: Leg | None = upstream
        self._limits = limits
        self.started_at = self.active_at = self._pinged_at = self._client_pinged_at = self.ticked_at = now
        self._activity = 0
        self._rates = SessionRates(limits, now)
        self._prober = ClientProber(client)
        self.quiet_until = 0.0

    def is_quiet(self, now: float) -> bool:
        """Whether no limit can be exceeded, unless `allows` denies it. True at nearly every tick."""
        upstream = self.upstream
        return (
            now < self.quiet_until
            and self._client.held_since is None
            and self._client.full_since is None
            and upstream is not None
            and upstream.full_since is None
        )

    def allows(self, frames: int, size: int, upstream_frames: int) -> bool:
        """Whether no rate is exceeded. The totals are those of `SessionRates.due_ending`."""
        return self._rates.allow(frames, size, upstream_frames)

    def note_activity(self, now: float, activity: int) -> None:
        """Note a number that grows while the conversation goes on."""
        if activity != self._activity:
            self._activity, self.active_at = activity, now

    def due_ending(self, now: float, frames: int, size: int, upstream_frames: int) -> Ending | None:
        """The ending that a limit requires, or None. The totals are those of `SessionRates.due_ending`."""
        for leg in self._legs():
            leg.check_progress()
        if (lost := self.failed_probe(now)) is not None:
            return lost
        times = {"started_at": self.started_at, "active_at": self.active_at}
        end = due_ending(now, self._client, self.upstream, self._limits, **times)
        return end or self._rates.due_ending(now, frames, size, upstream_frames)

    @property
    def frame_rates(self) -> tuple[RateMeter, RateMeter]:
        """Those of the frames of client and upstream."""
        return self._rates.client_frames, self._rates.upstream_frames

    def exceeded_rate(self, now: float, to_upstream: Pipe, to_client: Pipe) -> Ending | None:
        """The ending that a rate requires between two ticks, or None.

        After a pause of the process the tick comes first: what the peers sent meanwhile is credited to them.
        """
        if now - self.ticked_at > TICK_SECONDS + STALL_SECONDS:
            return None
        _, frames, size = to_upstream.totals()
        return self._rates.due_ending(now, frames, size, to_client.totals()[1])

    def rest(self, now: float, *, is_waiting: bool) -> None:
        """Ping if it is time, and set `quiet_until`; `is_waiting`: something else is to be checked at the next tick."""
        if now - self._pinged_at >= self._limits.ping_seconds:
            self._ping(now)
        self._ping_held_client(now)
        if is_waiting or self.upstream is None or self._prober.is_waiting:
            self.quiet_until = 0.0
            return
        times = {"started_at": self.started_at, "active_at": self.active_at}
        until = quiet_until(self._client, self.upstream, self._limits, **times)
        self.quiet_until = min(until, self._rates.window_ends_at, self._pinged_at + self._limits.ping_seconds)

    def credit_stall(self, now: float, seconds: float) -> None:
        """Credit both peers with a stall of the process, and ping them, but not upstream while it is not read."""
        alive_until = now - max(0.0, self._limits.silent_seconds - PING_ANSWER_SECONDS)
        for leg in self._legs():
            leg.credit_stall(seconds, alive_until=alive_until)
        self._rates.credit_stall(now, seconds)
        self.ticked_at = now
        self.active_at = min(now, self.active_at + seconds)
        self._prober.last = None  # the answer may have arrived unread
        self.quiet_until = 0.0
        self._ping(now)

    def probe(self, now: float) -> float | None:
        """See `ClientProber.probe`."""
        self.quiet_until = 0.0
        return self._prober.probe(now, self._limits)

    def failed_probe(self, now: float) -> Ending | None:
        """The ending of a session whose client has not answered the last probe."""
        return ending.peer_lost("client") if self._prober.has_failed(now, self._limits) else None

    def _ping_held_client(self, now: float) -> None:
        held_since, client = self._client.held_since, self._client
        if held_since is None or now - max(held_since, self._client_pinged_at) < HELD_PING_SECONDS:
            return
        if client.can_send and client.full_since is None:  # else what it has not read yet does the same
            self._client_pinged_at = now
            client.send_control(Opcode.PING, b"")

    def _ping(self, now: float) -> None:
        self._pinged_at = self._client_pinged_at = now
        self._client.send_control(Opcode.PING, b"")
        # Upstream that is not read cannot answer. If it has closed, the ping is answered with RST, and the next one ends its
        # connection with all that waits in it; its silence counts from the moment at which it is read again.
        if self.upstream is not None and self.upstream.held_since is None:
            self.upstream.send_control(Opcode.PING, b"")

    def _legs(self) -> tuple[Leg, ...]:
        return (self._client,) if self.upstream is None else (self._client, self.upstream)
