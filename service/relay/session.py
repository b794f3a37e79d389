"""The life of a session, from two open sockets to its one ending."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from service.realtime.closing import close_code_to_forward
from service.realtime.events import Direction
from service.realtime.frames import Opcode
from service.realtime.incidents import RESPONSE_DONE
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Violation
from service.relay import ending
from service.relay.budget import SessionBudget
from service.relay.call import NewCall
from service.relay.ending import CloseInstruction, Ending, Side
from service.relay.live_call import settle
from service.relay.pipe import Pipe
from service.relay.pipe_owner import Rewritten, Verdict
from service.relay.reporter import SessionInfo, SessionReporter, SharedTelemetry
from service.relay.start_reader import ClientStream
from service.relay.ticker import TICK_SECONDS
from service.relay.view import SessionView
from service.relay.watchdog import (
    PING_ANSWER_SECONDS,
    ClientProber,
    Lapse,
    SessionLimits,
    SessionRates,
    due_ending,
    quiet_until,
)
from service.upstream.dial import UpstreamConnection
from service.wire.closing import close_leg
from service.wire.leg import Leg
from service.wire.receiver import InputDiscarder

UPSTREAM_CLOSE_SECONDS: Final = 1.25
"""Upper bound on flushing and closing upstream. An open upstream socket costs money: it is closed within two seconds of the
client's disconnect, also while it is held (see `ticker.TICK_SECONDS`)."""
CLIENT_CLOSE_SECONDS: Final = 5.0
"""Upper bound on flushing and closing the client."""
LOST_CLIENT_CLOSE_SECONDS: Final = TICK_SECONDS + UPSTREAM_CLOSE_SECONDS
"""Upper bound on noticing that a deadline has passed and ending the session of a lost client, which gets no handshake."""

BOUNDARY_SECONDS: Final = 2.0
"""How long a session that is due to end waits for a message boundary."""
RESPONSE_CANCEL: Final = b'{"type":"response.cancel"}'
RESPONSE_SETTLE_SECONDS: Final = 1.0
"""How long a session with a budget waits for the tokens of the response that its end cuts off."""
MAX_WAITING_ERRORS: Final = 16  # error events of the relay's own, which wait for a message boundary


class ErrorEvent(Protocol):
    """Builds the payload of an `error` event. Passed in, since `web` knows what a client's errors look like."""

    def __call__(self, reason: str, hint: str | None, param: str | None = None, event_id: str | None = None) -> bytes:
        """For a reason and a remedy, None for the catalogue's, and what of the client's event is the cause."""


DrainEvent = Callable[[float], bytes]
"""Builds the payload of the event that announces a drain, from the seconds until its deadline."""


class Session:
    """One client connection joined to one upstream connection.

    Ownership: the session owns both legs from its creation on, and has closed both when `run` returns.
    Ending: a call of `end`, a peer or a limit can end the session at any time, even before `run` starts. The first reason
    counts; later calls have no effect.
    Deadlines: after the reason is set, the client has `CLIENT_CLOSE_SECONDS` and upstream `UPSTREAM_CLOSE_SECONDS` for
    flushing and the closing handshake, then the socket is aborted. `abort` ends these waits early.
    Cancellation: `run` must not be cancelled. It would abort both legs, and neither count nor log the ending.
    Errors: an unexpected exception ends this session with `internal_error`, and no other. `run` raises only if counting or
    logging the ending fails.
    """

    def __init__(
        self,
        info: SessionInfo,
        client: Leg,
        connected: UpstreamConnection,
        *,
        limits: SessionLimits,
        telemetry: SharedTelemetry,
        error_event: ErrorEvent,
        call: NewCall,
        drain_event: DrainEvent | None = None,
        client_stream: ClientStream | None = None,
        budget: SessionBudget | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.info = info
        self._client = client
        self._connected = connected
        self._upstream = connected.leg
        self._limits = limits
        self._telemetry = telemetry
        self._error_event = error_event
        self._drain_event = drain_event  # None for a client that has not asked for it
        self._drains_at: float | None = None  # set while the client has yet to be sent the event
        self._is_closed = False
        self.client_informed = True  # False if the client was aborted before its close frame reached the kernel
        self._reporter = SessionReporter(info, telemetry)
        self._call = call(self._reporter, self._send_error)
        self._budget = budget
        timer = self._call.timer
        if budget is not None:
            timer = budget.start(self, self._reporter.spending, timer)
        self.settle_seconds = self._call.settle_seconds  # how long upstream may outlast the end of the session
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._started_at = self._loop.time()
        self._pinged_at = self._started_at
        self._prober = ClientProber(client)
        self._over_by = 0.0  # once the session is ending
        self._active_at = self._started_at
        self._activity_at_tick = 0
        self._rates = SessionRates(limits, self._started_at)
        self._quiet_until = 0.0  # before this time a tick need not check the limits
        self._client_at_boundary = True  # when the session ended
        self._client_stream = client_stream or ClientStream(
            Scanner(masked=True, max_message_bytes=limits.max_message_bytes)
        )
        self._errors: list[bytes] = []  # events that wait for a message boundary
        self._due_end: tuple[Ending, float] | None = None  # waits for one as well, and since when
        self._to_upstream = Pipe(
            client,
            self._upstream,
            self._client_stream.scanner,
            traffic=telemetry.client_to_upstream[info.api],
            latency=timer,
            owner=self,
        )
        self._to_client = Pipe(
            self._upstream,
            client,
            connected.scanner,
            traffic=telemetry.upstream_to_client[info.api],
            latency=timer,
            owner=self,
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Forward until the session ends, close both sides, count and log; returns the reason. Must not be cancelled."""
        active = self._telemetry.metrics.sessions_active.labels(self.info.api)
        active.inc()
        try:
            self._start()
            end = await asyncio.shield(self._ended)
            await self._close(end)
        except Exception:  # noqa: BLE001 - a bug of the relay; the session has to end and be counted even so
            self.fail()
            end = self._ended.result()
        finally:
            self._client.abort()
            self._connected.abort()
            active.dec()
            if self._budget is not None:
                self._budget.finish()
        try:
            duration_seconds = self._loop.time() - self._started_at
            self._reporter.ended(end, duration_seconds, self._to_upstream, self._to_client, self._call.summary())
        finally:
            self._is_closed = True
            del self._to_upstream, self._to_client  # a reference cycle would wait for the garbage collector
        return end.reason

    def _start(self) -> None:
        try:
            self._reporter.started(sum(self._connected.progress.seconds.values()))
            self._to_client.process(self._connected.items)
        except Exception:  # noqa: BLE001 - a bug of the relay; the client gets an error event as for any other failure
            self.fail()
        self._to_upstream.process(self._client_stream.items)
        self._connected.items.clear()  # instructions and audio, which others refer to as well
        self._client_stream.items.clear()
        for leg, pipe in ((self._upstream, self._to_client), (self._client, self._to_upstream)):
            leg.start(pipe, pipe.read)
            leg.release("first_event")

    def end(self, reason: str) -> None:
        """End the session for a reason of the relay's own. Has no effect on a session that is ending already."""
        self._end(ending.relay_ended(reason))

    def abort(self) -> None:
        """Abort both sockets of a session that is ending, without waiting for the closing handshakes."""
        self.client_informed = not self._client.buffered_bytes
        self._client.abort()
        self._connected.abort()

    def probe_client(self) -> Lapse | None:
        """Ping the client, unless it was pinged so within `probe_seconds`; end the session if it has not answered that ping.

        Returns when a session that is ending, or whose client is dead, is over; None if this client is alive.
        """
        now = self._loop.time()
        self._to_upstream.count_audio()
        self._end_if_probe_failed(now)
        if self._ended.done():
            return Lapse(max(0.0, self._over_by - now), is_ending=True)
        self._quiet_until = 0.0
        seconds = self._prober.probe(now, self._limits)
        return None if seconds is None else Lapse(seconds + self.settle_seconds + LOST_CLIENT_CLOSE_SECONDS)

    def _end_if_probe_failed(self, now: float) -> None:
        if self._prober.has_failed(now, self._limits):
            self._end(ending.peer_lost("client"))

    def view(self) -> SessionView | None:
        """What the session has done so far, read from its pipes; None once both sides are closed."""
        if self._is_closed:
            return None
        now = self._loop.time()
        ending_as = self._ended.result().reason if self._ended.done() else None
        times = (now - self._started_at, now - self._active_at)
        return SessionView(self.info, *times, ending_as, self._to_upstream, self._to_client, self._reporter.spending)

    def announce_drain(self, seconds: float) -> None:
        """Send the client the drain event at the next message boundary, if it asked for it; the drain ends in `seconds`."""
        if self._drain_event is not None and not self._ended.done():
            self._drains_at = self._loop.time() + seconds
            self._send_own_events()

    def end_at_boundary(self, end: Ending) -> None:
        """End the session at the next message boundary, so that the client gets the error event behind whole events."""
        if self._due_end is None:
            self._due_end = end, self._loop.time()
            self._send_own_events()

    def send_at_boundary(self, event: bytes) -> None:
        """Send the client an event at the next message boundary; none to a client that does not read them."""
        if self._client.full_since is None and len(self._errors) < MAX_WAITING_ERRORS:
            self._errors.append(event)
            self._send_own_events()

    def _end(self, end: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(end := self._call.ending(end))
            client_seconds = LOST_CLIENT_CLOSE_SECONDS if end.client.abort else CLIENT_CLOSE_SECONDS
            settle_seconds = 0.0 if end.upstream.is_final else self.settle_seconds
            self._over_by = self._loop.time() + max(client_seconds, settle_seconds + UPSTREAM_CLOSE_SECONDS)
            # From here on upstream's data is discarded, and its scanner no longer shows what the client has received.
            self._client_at_boundary = self._to_client.at_message_boundary
            for pipe in (self._to_upstream, self._to_client):
                pipe.discard_data()

    async def _close(self, end: Ending) -> None:
        now = self._loop.time()
        if end.send_error and self._client.can_send and self._client_at_boundary:
            self._client.send_event(self._error_event(end.reason, end.hint))
        for pipe in (self._to_upstream, self._to_client):
            pipe.stop_backpressure()
        is_informed, _ = await asyncio.gather(
            self._close_side(self._client, end.client, now + CLIENT_CLOSE_SECONDS), self._close_upstream(end.upstream)
        )
        self.client_informed = self.client_informed and is_informed

    async def _close_upstream(self, close: CloseInstruction) -> None:
        if self.settle_seconds and not close.is_final and self._to_upstream.at_message_boundary:
            await self._call.settle(self._connected, self._loop.time() + self.settle_seconds)
        elif self._budget is not None and self._budget.is_response_running and not close.is_final:
            await self._settle_response()
        await self._close_side(self._upstream, close, self._loop.time() + UPSTREAM_CLOSE_SECONDS)

    async def _settle_response(self) -> None:
        """Cancel the response that runs and read what it cost: a client that leaves before its end must pay for it."""
        if self._to_upstream.at_message_boundary:
            await settle(
                self._connected,
                self._loop.time() + RESPONSE_SETTLE_SECONDS,
                lambda message: self.event_discarded(message.type, message.payload),
                request=RESPONSE_CANCEL,
                last_type=RESPONSE_DONE,
            )

    async def _close_side(self, leg: Leg, close: CloseInstruction, deadline: float) -> bool:
        if close.abort:
            leg.abort()
        elif close.close_received:
            leg.send_close(close.code, close.text)
            leg.close()
        elif close.unreadable and leg.send_close(close.code, close.text):
            leg.start(InputDiscarder(leg))
            leg.write_eof()
        return await close_leg(leg, close.code, close.text, deadline=deadline)

    # -- called by the pipes ------------------------------------------------------------------------------------------

    def peer_closed(self, direction: Direction, code: int | None, reason: str) -> None:
        """End the session, or complete the closing handshake that the relay started."""
        if self._ended.done():
            leg = self._leg_of(direction)
            # Unless one has been sent already.
            leg.send_close(code if code is None else close_code_to_forward(code), "")
            leg.close()
            return
        side = _side(direction)
        text = self.redact(reason) if side == "upstream" else reason
        self._end(ending.peer_closed(side, code, text, expired=self._call.has_expired))

    def peer_lost(self, direction: Direction) -> None:
        """End the session, or close the socket of a session that is ending."""
        if self._ended.done():
            self._leg_of(direction).close()
        else:
            self._end(ending.peer_lost(_side(direction)))

    def peer_broke_protocol(self, direction: Direction, violation: Violation) -> None:
        """End the session."""
        side = _side(direction)
        self._reporter.protocol_broken(side, violation.detail)
        self._end(ending.peer_broke_protocol(side, violation))

    def event_read(self, direction: Direction, event_type: str | None, payload: bytes) -> Verdict | Rewritten:
        """Count what an upstream event reports; refuse what a client may not request."""
        return self._call.event_read(direction, event_type, payload, self._to_client.count_audio)

    def _send_error(self, reason: str, hint: str | None, param: str | None = None, event_id: str | None = None) -> None:
        """Send the client an error event at the next message boundary; none to a client that does not read them."""
        self.send_at_boundary(self._error_event(reason, hint, param, event_id))

    def event_discarded(self, event_type: str | None, payload: bytes) -> None:
        """Count what upstream reports after the end."""
        self._call.event_discarded(event_type, payload)

    def redact(self, text: str) -> str:
        """Replace secrets in a text."""
        return self._telemetry.redactor.redact(text)

    def fail(self) -> None:
        """End the session because of an unexpected exception, and log it."""
        self.end("internal_error")
        self._reporter.failed()

    # -- the limits ---------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Check the limits and send what is due; called by the ticker every `TICK_SECONDS`. Raises nothing."""
        try:
            self._tick()
        except Exception:  # noqa: BLE001 - without its limits a session might never end
            self.fail()

    def stalled(self, seconds: float) -> None:
        """Credit both peers with a stall of the process, and ping them, before the limits are checked again."""
        now = self._loop.time()
        for leg in (self._client, self._upstream):
            leg.credit_stall(seconds, alive_until=now - max(0.0, self._limits.silent_seconds - PING_ANSWER_SECONDS))
        self._rates.credit_stall(now, seconds)
        self._active_at = min(now, self._active_at + seconds)
        self._prober.last = None  # the answer may have arrived unread
        self._pinged_at = now
        self._quiet_until = 0.0
        self._send_pings()

    def _tick(self) -> None:
        if self._ended.done():
            return
        now, client = self._loop.time(), self._client
        messages, frames, size = self._to_upstream.totals()
        upstream_messages, upstream_frames, _ = self._to_client.totals()
        activity = self._call.activity(messages + upstream_messages)
        if activity != self._activity_at_tick:
            self._activity_at_tick, self._active_at = activity, now
        # Nearly every tick ends here.
        if not (
            now < self._quiet_until
            and self._budget is None
            and client.held_since is None
            and client.full_since is None
            and self._upstream.full_since is None
            and self._rates.allow(frames, size, upstream_frames)
            and self._call.due_ending() is None
        ):
            self._check_limits(now, frames, size, upstream_frames)

    def _check_limits(self, now: float, frames: int, size: int, upstream_frames: int) -> None:
        for leg in (self._client, self._upstream):
            leg.check_progress()
        self._end_if_probe_failed(now)
        if self._budget is not None:
            self._budget.tick()
        times = {"started_at": self._started_at, "active_at": self._active_at}
        end = due_ending(now, self._client, self._upstream, self._limits, **times)
        end = end or self._rates.due_ending(now, frames, size, upstream_frames) or self._call.due_ending()
        if self._due_end is not None and now - self._due_end[1] >= BOUNDARY_SECONDS:
            end = end or self._due_end[0]
        if end is not None:
            self._end(end)
            return
        self._send_own_events()
        if self._client.held_since is not None:
            self._to_upstream.scan_for_close()  # the session must not last until upstream reads again
        if now - self._pinged_at >= self._limits.ping_seconds:
            self._pinged_at = now
            self._send_pings()
        if self._prober.is_waiting or self._to_client.on_processed is not None:
            self._quiet_until = 0.0
        else:
            until = quiet_until(self._client, self._upstream, self._limits, **times)
            self._quiet_until = min(until, self._rates.window_ends_at, self._pinged_at + self._limits.ping_seconds)

    def _send_pings(self) -> None:
        for leg in (self._client, self._upstream):
            leg.send_control(Opcode.PING, b"")

    def _send_own_events(self) -> None:
        is_due = bool(self._errors) or self._drains_at is not None or self._due_end is not None
        if not is_due or self._ended.done():
            return
        if not (self._to_client.at_message_boundary and self._client.can_send):
            self._to_client.on_processed = self._send_own_events
            self._quiet_until = 0.0  # or at the next tick
            return
        for event in self._errors:
            self._client.send_event(event)
        self._errors.clear()
        if self._drain_event is not None and self._drains_at is not None:
            self._client.send_event(self._drain_event(max(0.0, self._drains_at - self._loop.time())))
        self._drains_at = self._to_client.on_processed = None
        if self._due_end is not None:
            self._end(self._due_end[0])

    def _leg_of(self, direction: Direction) -> Leg:
        return self._client if direction == Direction.CLIENT_TO_UPSTREAM else self._upstream


def _side(direction: Direction) -> Side:
    """The peer at the source of a direction."""
    return "client" if direction == Direction.CLIENT_TO_UPSTREAM else "upstream"
