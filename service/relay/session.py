"""The life of a session, from two open sockets to its one ending."""

import asyncio
from collections.abc import Mapping
from functools import partial

from service.realtime.closing import close_code_to_forward
from service.realtime.events import Direction, event_id
from service.realtime.live_events import Transcript
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Message, Violation
from service.relay import ending
from service.relay.budget import SessionBudget
from service.relay.call import NewCall
from service.relay.closing_sides import (
    CLIENT_CLOSE_SECONDS,
    LOST_CLIENT_CLOSE_SECONDS,
    UPSTREAM_CLOSE_SECONDS,
    close_side,
    settle_response,
)
from service.relay.ending import CloseInstruction, Ending, Side, side_of
from service.relay.latency import ResponseTimer
from service.relay.own_events import DrainEvent, ErrorEvent, OwnEvents
from service.relay.pipe import Pipe
from service.relay.pipe_owner import Rewritten, Verdict
from service.relay.reporter import SessionReporter, SharedTelemetry
from service.relay.session_info import SessionInfo
from service.relay.session_watch import SessionWatch
from service.relay.start_reader import ClientStream
from service.relay.view import SessionView
from service.relay.watchdog import Lapse, SessionLimits
from service.upstream.dial import UpstreamConnection
from service.wire.leg import Leg


class Session:
    """One client connection joined to one upstream connection.

    Ownership: the session owns both legs from its creation on, and has closed both when `run` returns.
    Ending: `end`, a peer or a limit can end it at any time, even before `run` starts. Only the first reason counts.
    Deadlines: after the reason is set, the client has `CLIENT_CLOSE_SECONDS` and upstream `UPSTREAM_CLOSE_SECONDS` for
    flushing and the closing handshake, then the socket is aborted. `abort` ends these waits early.
    Cancellation: `run` must not be cancelled. It would abort both legs, and neither count nor log the ending.
    Errors: an unexpected exception ends only this session, as `internal_error`. `run` raises only if its report fails.
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
        self.info, self._client = info, client
        self._connected, self._upstream = connected, connected.leg
        self._telemetry, self._error_event = telemetry, error_event
        self._is_closed = self._skips_tick = False  # the latter: the last tick
        self._further_summary: Mapping[str, object] = {}  # fields of the log line `session.ended`
        self.client_informed = True  # False if the client was aborted before its close frame reached the kernel
        self._reporter = SessionReporter(info, telemetry)
        self._call = call(self._reporter, self._send_error)
        self._budget = budget
        timer = self._call.timer
        if budget is not None:
            timer = budget.start(self, self._reporter.spending, timer)
        self.settle_seconds = self._call.settle_seconds  # how long upstream may outlast the end of the session
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._watch = SessionWatch(client, connected.leg, limits, self._loop.time())
        self._over_by = 0.0  # once the session is ending
        self._client_at_boundary = True  # when the session ended
        self._client_stream = client_stream or ClientStream(
            Scanner(masked=True, max_message_bytes=limits.max_message_bytes)
        )
        self._own_events = OwnEvents(client, drain_event)
        self._to_upstream, self._to_client = self._new_pipes(timer)
        self._to_upstream.rate, self._to_client.rate = self._watch.frame_rates

    def _new_pipes(self, timer: ResponseTimer) -> tuple[Pipe, Pipe]:
        api, telemetry = self.info.api, self._telemetry
        pipe = partial(Pipe, latency=timer, owner=self)
        return (
            pipe(self._client, self._upstream, self._client_stream.scanner, traffic=telemetry.client_to_upstream[api]),
            pipe(self._upstream, self._client, self._connected.scanner, traffic=telemetry.upstream_to_client[api]),
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
            for pipe in (self._to_upstream, self._to_client):
                pipe.finish()
            active.dec()
            if self._budget is not None:
                self._budget.finish()
        try:
            seconds = self._loop.time() - self._watch.started_at
            summary = {**self._call.summary(), **self._further_summary}
            self._reporter.ended(end, seconds, self._to_upstream, self._to_client, summary)
        finally:
            self._is_closed = True
            # They refer to this object: a reference cycle would wait for the garbage collector.
            del self._to_upstream, self._to_client, self._call
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

    def end(self, reason: str, detail: str | None = None) -> None:
        """End the session for a reason of the relay's own. Has no effect on a session that is ending already."""
        self._end(ending.relay_ended(reason, detail))

    def abort(self) -> None:
        """Abort both sockets of a session that is ending, without waiting for the closing handshakes."""
        self.client_informed = not self._client.buffered_bytes
        self._client.abort()
        self._connected.abort()

    def probe_client(self) -> Lapse | None:
        """Ping the client, unless it was pinged so within `probe_seconds`; end the session if it has not answered that ping.

        Returns when a session that is ending, or whose client is dead, is over; None if this client is alive.
        """
        if self._is_closed:  # its task ends in this turn of the event loop, and with it its place
            return Lapse(0.0, is_ending=True)
        now = self._loop.time()
        self._to_upstream.count_audio()
        if (lost := self._watch.failed_probe(now)) is not None:
            self._end(lost)
        if self._ended.done():
            return Lapse(max(0.0, self._over_by - now), is_ending=True)
        seconds = self._watch.probe(now)
        return None if seconds is None else Lapse(seconds + self.settle_seconds + LOST_CLIENT_CLOSE_SECONDS)

    def view(self) -> SessionView | None:
        """What the session has done so far, read from its pipes; None once both sides are closed."""
        if self._is_closed:
            return None
        now, ending_as = self._loop.time(), self._ended.result().reason if self._ended.done() else None
        times = (now - self._watch.started_at, now - self._watch.active_at)
        return SessionView(self.info, *times, ending_as, self._to_upstream, self._to_client, self._reporter.spending)

    @property
    def received_bytes(self) -> int:
        """What upstream has sent so far and the client was sent."""
        return self._to_client.forwarded_bytes

    def announce_drain(self, seconds: float) -> None:
        """Send the client the drain event at the next message boundary, if it asked for it; the drain ends in `seconds`."""
        self._own_events.announce_drain(self._loop.time() + seconds)
        self._send_own_events()

    def end_at_boundary(self, end: Ending) -> None:
        """End the session at the next message boundary, so that the client gets the error event after whole events."""
        self._own_events.end_with(end, self._loop.time())
        self._send_own_events()

    def send_at_boundary(self, event: bytes) -> None:
        """Send the client an event at the next message boundary; none to a client that does not read them."""
        self._own_events.add(event)
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
            close_side(self._client, end.client, now + CLIENT_CLOSE_SECONDS), self._close_upstream(end.upstream)
        )
        self.client_informed = self.client_informed and is_informed

    async def _close_upstream(self, close: CloseInstruction) -> None:
        if not close.is_final and self._to_upstream.at_message_boundary:
            if self.settle_seconds:
                await self._call.settle(self._connected, self._loop.time() + self.settle_seconds)
            elif (budget := self._budget) is not None and budget.is_response_running:
                await settle_response(
                    self._connected, self.event_discarded, is_running=lambda: budget.is_response_running
                )
        await close_side(self._upstream, close, self._loop.time() + UPSTREAM_CLOSE_SECONDS)

    # -- called by the pipes ------------------------------------------------------------------------------------------

    def peer_closed(self, direction: Direction, code: int | None, reason: str) -> None:
        """End the session, or complete the closing handshake that the relay started."""
        if self._ended.done():
            leg = self._leg_of(direction)
            # Unless one has been sent already.
            leg.send_close(code if code is None else close_code_to_forward(code), "")
            leg.close()
            return
        side = side_of(direction)
        text = self.redact(reason) if side == "upstream" else reason
        self._peer_ended(side, ending.peer_closed(side, code, text, expired=self._call.has_expired), code, text)

    def peer_lost(self, direction: Direction) -> None:
        """End the session, or close the socket of a session that is ending."""
        if self._ended.done():
            self._leg_of(direction).close()
        else:
            self._peer_ended(side_of(direction), ending.peer_lost(side_of(direction)))

    def _peer_ended(self, _side: Side, end: Ending, _code: int | None = None, _text: str = "") -> None:
        self._end(end)

    def peer_broke_protocol(self, direction: Direction, violation: Violation) -> None:
        """End the session."""
        side = side_of(direction)
        self._reporter.protocol_broken(side, violation.detail)
        self._end(ending.peer_broke_protocol(side, violation))

    def event_read(self, direction: Direction, message: Message) -> Verdict | Rewritten:
        """Count what an upstream event reports; refuse what a client may not request."""
        if direction == Direction.CLIENT_TO_UPSTREAM and self._budget is not None:
            reason = self._budget.refusal(message.type)
            if reason is not None:
                self._send_error(reason, None, None, event_id(message.payload))
                return Verdict.DROP
        return self._call.event_read(direction, message.type, message.payload, self._to_client.count_audio)

    def transcripts_passed(self, transcripts: list[Transcript]) -> None:
        """Measure the answers."""
        self._call.transcripts_passed(transcripts)

    def _send_error(self, reason: str, hint: str | None, param: str | None = None, event_id: str | None = None) -> None:
        """Send the client an error event at the next message boundary; none to a client that does not read them."""
        self.send_at_boundary(self._error_event(reason, hint, param, event_id))

    def event_discarded(self, event_type: str | None, payload: bytes) -> None:
        """Count what upstream reports after the end."""
        self._call.event_discarded(event_type, payload)
        if self._budget is not None:
            self._budget.event_discarded(event_type)

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
        self._watch.credit_stall(self._loop.time(), seconds)

    def _tick(self) -> None:
        if self._ended.done():
            return
        now, watch = self._loop.time(), self._watch
        watch.ticked_at = now
        is_quiet = watch.is_quiet(now) and self._budget is None and self._call.due_ending() is None
        self._skips_tick = is_quiet and not self._skips_tick  # nearly all are quiet: one of two counts nothing
        if self._skips_tick:
            return
        messages, frames, size = self._to_upstream.totals()
        upstream_messages, upstream_frames, _ = self._to_client.totals()
        watch.note_activity(now, self._call.activity(messages + upstream_messages))
        if not (is_quiet and watch.allows(frames, size, upstream_frames)):
            self._check_limits(now, frames, size, upstream_frames)

    def _check_limits(self, now: float, frames: int, size: int, upstream_frames: int) -> None:
        if self._budget is not None:
            self._budget.tick()
        end = self._watch.due_ending(now, frames, size, upstream_frames) or self._call.due_ending()
        end = end or self._own_events.overdue_end(now)
        if end is not None:
            self._limit_reached(end)
            return
        self._send_own_events()
        if self._client.held_since is not None:
            self._to_upstream.scan_for_close()  # the session must not last until upstream reads again
        self._watch.rest(now, is_waiting=self._to_client.on_processed is not None)

    def rate_exceeded(self) -> None:
        """End the session, unless the process has been paused: the next tick decides then."""
        end = self._watch.exceeded_rate(self._loop.time(), self._to_upstream, self._to_client)
        if end is not None and not self._ended.done():
            self._limit_reached(end)

    def _limit_reached(self, end: Ending) -> None:
        self._end(end)

    def _send_own_events(self) -> None:
        if not self._own_events.are_waiting or self._ended.done():
            return
        if not (self._to_client.at_message_boundary and self._client.can_send):
            self._to_client.on_processed = self._send_own_events
            self._watch.quiet_until = 0.0  # or at the next tick
        else:
            self._to_client.on_processed = None
            due_end = self._own_events.send(self._loop.time())
            if due_end is not None:
                self._end(due_end)
        self._to_client.count_waiting(self._own_events.waiting_bytes)

    def _leg_of(self, direction: Direction) -> Leg:
        return self._client if direction == Direction.CLIENT_TO_UPSTREAM else self._upstream
