"""The life of a session, from two open sockets to its single end.

Rules of this file:

* `end` may be called by anybody at any time; the first caller wins, later calls are no-ops.
* One deadline covers flushing and closing; after it the sockets are aborted. Upstream is gone within two seconds of the
  client, since it costs money, also while its reading is held back.
* One canonical log line, one count.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from service.failures import CATALOGUE
from service.realtime.closing import close_code_to_forward
from service.realtime.events import Direction
from service.realtime.frames import Opcode
from service.realtime.incidents import ERROR, Incident
from service.realtime.pricing import model_label
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Violation
from service.realtime.server_events import ParsedEvent
from service.relay import ending
from service.relay.ending import CloseInstruction, Ending, Side
from service.relay.latency import LatencyTimer
from service.relay.pipe import Pipe
from service.relay.watchdog import RateMeter, SessionLimits, verdict
from service.telemetry.metrics import Metrics
from service.telemetry.redact import Redactor
from service.upstream.dial import Connected
from service.wire.closing import close_leg
from service.wire.leg import Leg

UPSTREAM_CLOSE_SECONDS: Final = 1.25
CLIENT_CLOSE_SECONDS: Final = 5.0
ErrorEvent = Callable[[str], bytes]
"""Makes the payload of an error event for a reason; belongs to the room that knows the client's surface."""
DrainEvent = Callable[[float], bytes]
"""Makes the payload of the event that tells of a drain, for the seconds until its deadline."""


class SessionTelemetry:
    """What all sessions of a process share: metrics, the counts of what passes, redaction."""

    def __init__(self, metrics: Metrics, redactor: Redactor) -> None:
        self.metrics = metrics
        self.redactor = redactor
        self.client_to_upstream = metrics.traffic[Direction.CLIENT_TO_UPSTREAM]
        self.upstream_to_client = metrics.traffic[Direction.UPSTREAM_TO_CLIENT]


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What is known of a session when it starts, for its log lines. Nothing secret, nothing unescaped."""

    session_id: str
    client: str
    address: str
    model: str | None


class Session:
    """One client joined to one upstream connection."""

    def __init__(
        self,
        facts: SessionInfo,
        client: Leg,
        connected: Connected,
        *,
        limits: SessionLimits,
        instruments: SessionTelemetry,
        error_event: ErrorEvent,
        drain_event: DrainEvent | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.facts = facts
        self._client = client
        self._connected = connected
        self._upstream = connected.leg
        self._limits = limits
        self._instruments = instruments
        self._error_event = error_event
        self._drain_event = drain_event  # None for a client that has not asked for it
        self._drains_at: float | None = None  # what the client is still to be told
        self.peers_informed = True  # of its end; False for one that was cut
        self._log = structlog.get_logger().bind(session_id=facts.session_id)
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._started_at = self._loop.time()
        self._pinged_at = self._started_at
        self._active_at = self._started_at
        self._seen_messages = 0
        self._message_rate = RateMeter(limits.max_messages_per_second)
        self._byte_rate = RateMeter(limits.max_bytes_per_second)
        self._expired = False
        self._error_code: str | None = None
        self._may_tell = True
        self._incidents: set[Incident] = set()  # a closed set, so it stays small
        scanner = Scanner(masked=True, max_message_bytes=limits.max_message_bytes)
        talk = instruments.metrics.conversations
        self._model = model_label(facts.model)
        self._turn = LatencyTimer(time.perf_counter, talk.speech_to_audio.observe, talk.first_delta.observe)
        self._up = Pipe(
            client, self._upstream, scanner, traffic=instruments.client_to_upstream, turn=self._turn, owner=self
        )
        self._down = Pipe(
            self._upstream,
            client,
            connected.scanner,
            traffic=instruments.upstream_to_client,
            turn=self._turn,
            owner=self,
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Carry until the end; returns the reason. Not to be cancelled: call `end`."""
        metrics = self._instruments.metrics
        metrics.sessions_active.inc()
        try:
            self._start()
            end = await asyncio.shield(self._ended)
            await self._close(end)
        except Exception:  # noqa: BLE001 - our bug, whatever it is; the session still has to end and be counted
            self.failed()
            end = self._ended.result()
        finally:
            self._client.abort()
            self._connected.abort()
            metrics.sessions_active.dec()
        try:
            self._account(end)
        finally:
            del self._up, self._down  # they know the session: a circle would wait for the garbage collector
        return end.reason

    def _tell_start(self) -> None:
        facts = self.facts
        self._log.info(
            "session.started",
            client=facts.client,
            address=facts.address,
            model=facts.model,
            upstream=self._instruments.metrics.upstream,
            connect_seconds=round(sum(self._connected.progress.seconds.values()), 4),
        )

    def _start(self) -> None:
        try:
            self._tell_start()
            self._down.take(self._connected.items)
        except Exception:  # noqa: BLE001 - our bug; the client is told of it like of any other
            self.failed()
        self._connected.items = []
        self._upstream.start(self._down)
        self._client.start(self._up)
        self._upstream.release("first_event")

    def end(self, reason: str) -> None:
        """End for a reason of the relay's own."""
        self._end(ending.by_relay(reason))

    def abort(self) -> None:
        """Cut what is left of a session that is ending: there is no more time for goodbyes."""
        self.peers_informed = not self._client.buffered_bytes
        self._client.abort()
        self._connected.abort()

    def announce_drain(self, seconds: float) -> None:
        """The session will be ended in so long; a client that asked for it is told, between two messages."""
        if self._drain_event is not None and not self._ended.done():
            self._drains_at = self._loop.time() + seconds
            # The clock finds nearly every client between two messages; one whose messages come in pieces has to be caught.
            self._down.after_take = self._tell_drain

    def _end(self, end: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(end)
            # From here on nothing of upstream is forwarded, so that its scanner no longer tells what the client has got.
            self._may_tell = self._down.at_message_boundary
            for pipe in (self._up, self._down):
                pipe.draining_to_close = True

    async def _close(self, end: Ending) -> None:
        now = self._loop.time()
        if end.tell and self._client.can_send and self._may_tell:
            self._client.send_event(self._error_event(end.reason))
        for pipe in (self._up, self._down):
            pipe.stop_holding_back()
        is_told, _ = await asyncio.gather(
            self._say(self._client, end.client, now + CLIENT_CLOSE_SECONDS),
            self._say(self._upstream, end.upstream, now + UPSTREAM_CLOSE_SECONDS),
        )
        self.peers_informed = self.peers_informed and is_told

    async def _say(self, leg: Leg, farewell: CloseInstruction, deadline: float) -> bool:
        if farewell.abort:
            leg.abort()
        elif farewell.answered:
            leg.send_close(farewell.code, farewell.text)
            leg.close()
        elif farewell.failed and leg.send_close(farewell.code, farewell.text):
            leg.write_eof()
        return await close_leg(leg, farewell.code, farewell.text, deadline=deadline)

    def _account(self, end: Ending) -> None:
        metrics, row = self._instruments.metrics, CATALOGUE[end.reason]
        duration = self._loop.time() - self._started_at
        metrics.sessions_ended.labels(end.reason).inc()
        metrics.session_duration.observe(duration)
        self._log.log(
            row.level,
            "session.ended",
            reason=end.reason,
            blame=row.blame,
            runbook=row.runbook,
            duration_seconds=round(duration, 3),
            client=self.facts.client,
            address=self.facts.address,
            model=self.facts.model,
            client_to_upstream_messages=self._up.messages,
            client_to_upstream_bytes=self._up.bytes,
            upstream_to_client_messages=self._down.messages,
            upstream_to_client_bytes=self._down.bytes,
            held_back_seconds=round(self._up.held_back_seconds + self._down.held_back_seconds, 3),
            client_close_code=end.client.code,
            upstream_close_code=end.upstream.code,
            upstream_code=self._error_code,
        )

    # -- what the pipes tell ------------------------------------------------------------------------------------------

    def peer_closed(self, direction: Direction, code: int | None, reason: str) -> None:
        """A side said CLOSE: the end, or the answer to ours."""
        if self._ended.done():
            leg = self._leg_of(direction)
            leg.send_close(code if code is None else close_code_to_forward(code), "")  # unless ours is out already
            leg.close()
            return
        side = _side(direction)
        text = self.redact(reason) if side == "upstream" else reason
        self._end(ending.by_close(side, code, text, expired=self._expired))

    def peer_lost(self, direction: Direction) -> None:
        """A side is gone."""
        if self._ended.done():
            self._leg_of(direction).close()
        else:
            self._end(ending.by_loss(_side(direction)))

    def peer_broke_protocol(self, direction: Direction, violation: Violation) -> None:
        """A side sent what it must not."""
        self._log.debug("session.protocol_broken", side=_side(direction), detail=violation.detail)
        self._end(ending.by_violation(_side(direction), violation))

    def event_read(self, reading: ParsedEvent) -> None:
        """Count what an event of upstream tells of the conversation."""
        talk = self._instruments.metrics.conversations
        if reading.incident is not None:
            self._take_incident(reading.incident)
        if reading.response is not None:
            talk.count_response(self._model, reading.response)
            self._turn.response_ended()
        for limit, left in reading.remaining_ratios:
            talk.set_remaining_ratio(limit, left)

    def _take_incident(self, incident: Incident) -> None:
        """Something goes wrong within the session; mostly it goes on. Counted each time, logged once of a kind."""
        metrics, code = self._instruments.metrics, incident.code
        if incident.event == ERROR:
            self._error_code = code
            self._expired = self._expired or code == "session_expired"
            metrics.upstream_errors.labels(code).inc()
        else:
            metrics.incidents.labels(incident.event, code).inc()
        if incident not in self._incidents:
            self._incidents.add(incident)
            self._log.warning(
                "session.incident_seen",
                upstream_event=incident.event,
                upstream_code=code,
                message="The provider told the client of a failure within the session.",
                client=self.facts.client,
                model=self.facts.model,
            )

    def redact(self, text: str) -> str:
        """A text without secrets."""
        return self._instruments.redactor.redact(text)

    def failed(self) -> None:
        """The relay itself failed. The traceback is logged without values: they may hold what nobody may read."""
        self.end("internal_error")
        with suppress(Exception):  # the log may be what failed
            self._log.exception("session.failed")

    # -- the watchdog -------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Called by the clock, twice a second."""
        try:
            self._check_limits()
        except Exception:  # noqa: BLE001 - a session whose clock has stopped would never end
            self.failed()

    def _check_limits(self) -> None:
        if self._ended.done():
            return
        now = self._loop.time()
        messages = self._up.messages + self._down.messages
        if messages != self._seen_messages:
            self._seen_messages, self._active_at = messages, now
        for leg in (self._client, self._upstream):
            leg.check_progress()
        end = verdict(
            now, self._client, self._upstream, self._limits, started_at=self._started_at, active_at=self._active_at
        )
        up = self._up
        is_flood = self._message_rate.is_over(now, up.frames) or self._byte_rate.is_over(now, up.bytes)
        if end is None and is_flood:
            end = ending.by_relay("rate_exceeded")
        if end is not None:
            self._end(end)
            return
        self._tell_drain()
        if self._client.held_since is not None:
            self._up.look_for_close()  # a client that has hung up must not cost until upstream reads again
        if now - self._pinged_at >= self._limits.ping_seconds:
            self._pinged_at = now
            for leg in (self._client, self._upstream):
                leg.send_control(Opcode.PING, b"")

    def _tell_drain(self) -> None:
        if self._drain_event is None or self._drains_at is None or self._ended.done():
            return
        if self._down.at_message_boundary and self._client.can_send:
            self._client.send_event(self._drain_event(max(0.0, self._drains_at - self._loop.time())))
            self._drains_at = self._down.after_take = None

    def _leg_of(self, direction: Direction) -> Leg:
        return self._client if direction == Direction.CLIENT_TO_UPSTREAM else self._upstream


def _side(direction: Direction) -> Side:
    """Where a direction comes from."""
    return "client" if direction == Direction.CLIENT_TO_UPSTREAM else "upstream"
