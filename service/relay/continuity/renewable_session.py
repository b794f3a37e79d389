"""A session that may outlive its upstream connection: the client keeps its socket while the relay replaces what is behind."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.kept import DELTAS, KEEP_FROM_UPSTREAM, TRANSCRIBED, TRANSCRIPTION_ENDS
from service.realtime.events import PARSED_EVENT_TYPES, Direction, ErrorEvent, event_type, parse_error
from service.realtime.incidents import ERROR, RESPONSE_DONE
from service.realtime.policy import SESSION_EVENT_TYPES
from service.realtime.scanner_items import Message
from service.relay import own_events
from service.relay.budget import SessionBudget
from service.relay.call import NewCall
from service.relay.continuity.kept_conversation import KeptConversation
from service.relay.continuity.kept_pipes import KeptClientPipe, KeptUpstreamPipe
from service.relay.continuity.pool import ContinuityPool, Redial
from service.relay.continuity.sideband import SidebandContinuity
from service.relay.continuity.swap_report import SwapReport
from service.relay.continuity.swapper import Swapper
from service.relay.ending import CloseInstruction, Ending, Side, relay_ended
from service.relay.latency import ResponseTimer
from service.relay.pipe import Pipe
from service.relay.pipe_owner import Rewritten, Verdict, is_unsearchable, replacement
from service.relay.reporter import SharedTelemetry
from service.relay.session import Session
from service.relay.session_info import SessionInfo
from service.relay.start_reader import ClientStream
from service.relay.view import SessionView
from service.relay.watchdog import SessionLimits
from service.upstream import translate
from service.upstream.dial import UpstreamConnection
from service.wire.leg import Leg

_ONLY_KEPT: Final = KEEP_FROM_UPSTREAM - PARSED_EVENT_TYPES - SESSION_EVENT_TYPES - TRANSCRIPTION_ENDS
"""What a session without continuity does not read, so that nothing of it is counted or hidden."""
EXPIRED_SECONDS: Final = 2.0
"""How long upstream may take to close the connection behind the error that says that the session has expired."""
_ERROR_SECONDS: Final = 1.0
"""How long an `error` explains the loss behind it. Most sessions go on after one."""
_EXPIRED: Final = Ending("session_expired", CloseInstruction(1001), CloseInstruction(1000))
_LOST_REASONS: Final = frozenset({"upstream_lost", "upstream_too_slow", "session_expired"})
"""The limits of upstream that another connection may keep."""
_COUNTED_LATE: Final = TRANSCRIPTION_ENDS | {RESPONSE_DONE}


class RenewableSession(Session):
    """See `Session`.

    `client_stream` has a scanner that yields everything but audio as `Message`, the upstream scanner reads the types of
    `KEEP_FROM_UPSTREAM`, and `redial` dials as the first dial did. A sideband only joins its call again.

    The client sees no event of the relay's own: one `session.created`, and each answer ends once. What upstream says about
    its own end is hidden, unless the session ends with it.
    """

    def __init__(
        self,
        info: SessionInfo,
        client: Leg,
        connected: UpstreamConnection,
        *,
        limits: SessionLimits,
        telemetry: SharedTelemetry,
        error_event: own_events.ErrorEvent,
        call: NewCall,
        pool: ContinuityPool,
        redial: Redial,
        is_sideband: bool = False,
        drain_event: own_events.DrainEvent | None = None,
        client_stream: ClientStream | None = None,
        budget: SessionBudget | None = None,
    ) -> None:
        self._at_boundary: Callable[[], object] | None = None
        continuity = SidebandContinuity() if is_sideband else Continuity(pool.limits)
        self._kept = KeptConversation(continuity, client, connected.leg, self.send_to_client)
        super().__init__(
            info,
            client,
            connected,
            limits=limits,
            telemetry=telemetry,
            error_event=error_event,
            call=call,
            drain_event=drain_event,
            client_stream=client_stream,
            budget=budget,
        )
        self._swapper = Swapper(self, self._kept, pool, redial, SwapReport(info, pool.metrics))
        self._last_error: tuple[ErrorEvent | None, float] | None = None  # of upstream, if nothing followed it, and when
        self._hidden_errors: list[bytes] = []  # that upstream has expired, unless the session goes on
        self._expired_at: float | None = None  # when upstream said so, and was to close the connection

    def _new_pipes(self, timer: ResponseTimer) -> tuple[Pipe, Pipe]:
        api, telemetry, scanner = self.info.api, self._telemetry, self._client_stream.scanner
        kept: dict[str, Any] = {"latency": timer, "owner": self, "keeper": self._kept}
        return (
            KeptClientPipe(self._client, self._upstream, scanner, traffic=telemetry.client_to_upstream[api], **kept),
            KeptUpstreamPipe(
                self._upstream,
                self._client,
                self._connected.scanner,
                traffic=telemetry.upstream_to_client[api],
                **kept,
            ),
        )

    async def run(self) -> str:
        """See `Session.run`."""
        try:
            return await super().run()
        finally:
            self._swapper.stop()
            await self._swapper.wait_stopped()

    def view(self) -> SessionView | None:
        """See `Session.view`."""
        view, report = super().view(), self._swapper.report
        return view and dataclasses.replace(view, renewals=report.renewals, recoveries=report.recoveries)

    def abort(self) -> None:
        """See `Session.abort`."""
        super().abort()
        self._swapper.stop()

    def announce_drain(self, seconds: float) -> None:
        """See `Session.announce_drain`. A connection that was lost is still replaced, one that carries is not."""
        super().announce_drain(seconds)
        self._swapper.stop_renewing()

    def _end(self, end: Ending) -> None:
        if self._ended.done():
            return
        if end.reason == "session_expired":
            for payload in self._hidden_errors:
                self.send_to_client(payload)
        report = self._swapper.report
        self._further_summary = {"renewals": report.renewals, "recoveries": report.recoveries}
        super()._end(end)
        self._swapper.stop()

    def _tick(self) -> None:
        super()._tick()
        self._swapper.tick()
        if self._expired_at is not None and self._loop.time() - self._expired_at >= EXPIRED_SECONDS:
            self._expired_at = None
            self._limit_reached(_EXPIRED)

    def _limit_reached(self, end: Ending) -> None:
        if end.reason not in _LOST_REASONS or not self._swapper.lost(end, None, is_fatal=False):
            super()._limit_reached(end)

    # -- called by the pipes ------------------------------------------------------------------------------------------

    def event_read(self, direction: Direction, message: Message) -> Verdict | Rewritten:
        """Keep what another connection would need, and hide what the client must not see."""
        if direction == Direction.CLIENT_TO_UPSTREAM:
            verdict = super().event_read(direction, message)
            return self._kept.client_event(message) if verdict is Verdict.FORWARD else verdict
        if message.type in DELTAS:
            self._last_error = None
            self._kept.delta_read(message)
            return Verdict.FORWARD
        self._to_client.count_audio()
        if self._kept.is_swallowed(message):
            if message.type == TRANSCRIBED:  # upstream bills each
                super().event_read(direction, message)
            return Verdict.DROP
        placed = self._kept.placed(message)
        message = placed or message
        verdict = Verdict.FORWARD if message.type in _ONLY_KEPT else super().event_read(direction, message)
        self._note_error(message)
        if message.type == ERROR and self._call.has_expired:
            self._hide_error(message, verdict)
            return Verdict.DROP
        self._kept.upstream_event(message)
        if isinstance(self._to_client, KeptUpstreamPipe):
            self._to_client.read_audio(is_needed=self._kept.open_answers > 1)
        self._swapper.event_kept()
        if placed is None or not isinstance(verdict, Verdict) or verdict is Verdict.DROP:
            return verdict
        return Rewritten(placed.payload, is_redacted=verdict is Verdict.REDACT)

    def _note_error(self, message: Message) -> None:
        self._last_error = None
        if message.type == ERROR:
            self._last_error = parse_error(message.payload), self._loop.time()

    def _hide_error(self, message: Message, verdict: Verdict | Rewritten) -> None:
        """Keep what upstream says of its end until another connection carries the session, or it ends with this one."""
        if self._expired_at is None:
            self._expired_at = self._loop.time()
        if len(self._hidden_errors) < own_events.MAX_WAITING_EVENTS and not is_unsearchable(verdict, message.payload):
            self._hidden_errors.append(replacement(verdict, message.payload, self.redact) or message.payload)

    def _peer_ended(self, side: Side, end: Ending, code: int | None = None, text: str = "") -> None:
        if side == "upstream" and self._swapper.is_lost:
            return  # the connection that was lost says so again
        if side == "client" or not self._swapper.lost(end, code, is_fatal=self._is_fatal(code, text)):
            super()._peer_ended(side, end, code, text)

    def _is_fatal(self, code: int | None, text: str) -> bool:
        """Whether upstream closed for a reason of key, account or model, which the next connection meets as well."""
        error, since = self._last_error or (None, 0.0)
        is_recent = self._loop.time() - since < _ERROR_SECONDS
        failure = translate.from_events(error if is_recent else None, code, text)
        return failure.row.is_definite and failure.reason != "request_rejected"

    # -- called by the swaps ------------------------------------------------------------------------------------------

    @property
    def connection(self) -> UpstreamConnection:
        """The upstream connection that carries the session, or the one that was lost."""
        return self._connected

    @property
    def can_swap(self) -> bool:
        """Whether client and upstream are between two messages."""
        return (
            not self._ended.done()
            and self._to_client.at_message_boundary
            and self._to_upstream.at_message_boundary
            and self._client.can_send
        )

    def await_boundary(self, call: Callable[[], object]) -> None:
        """Call `call` once `can_swap` may be true, in a turn of its own; another call replaces it."""
        self._at_boundary = call
        self._to_upstream.on_processed = self._to_client.on_processed = self._delivery_processed

    def _delivery_processed(self) -> None:
        call = self._at_boundary
        if call is not None and self.can_swap:
            self._at_boundary = self._to_upstream.on_processed = self._to_client.on_processed = None
            self._loop.call_soon(call)  # within this one a pipe cannot get another source
        self._send_own_events()

    def _send_own_events(self) -> None:
        super()._send_own_events()
        if self._at_boundary is not None and not self._ended.done():  # both wait for the same
            self._to_client.on_processed = self._delivery_processed

    def send_to_client(self, payload: bytes) -> None:
        """Send the client an event at a message boundary, whether it reads or not, as far as it may see it."""
        shown = self._call.shown(payload)
        if shown is not None:
            self._own_events.add(shown, is_needed=True)
            self._send_own_events()
            if self._own_events.is_overfull:
                self._end(relay_ended("client_too_slow"))

    def count_received(self) -> None:
        """Have all that upstream has sent so far counted and kept."""
        self._to_client.count_audio()

    def upstream_missing(self, settled: list[bytes]) -> None:
        """Go on without upstream; `settled` are the events that end its open answers for the client."""
        self._watch.upstream = self._expired_at = None
        ended = [payload for payload in settled if event_type(payload) == RESPONSE_DONE]
        if self._budget is not None and ended:  # those of a sideband go on
            self._budget.count_unreported()
        for payload in settled:
            self.send_to_client(payload)
        for _ in ended:
            self._to_client.event_sent(RESPONSE_DONE)

    def forward_late(self, message: Message, *, is_shown: bool) -> None:
        """Count an event of a connection that was replaced, and forward it if `is_shown`, as the client would have got it."""
        is_estimated = message.type == RESPONSE_DONE and self._budget is not None
        verdict: Verdict | Rewritten = Verdict.FORWARD
        if message.type in _COUNTED_LATE and not is_estimated:
            verdict = super().event_read(Direction.UPSTREAM_TO_CLIENT, message)
        if is_shown and verdict is not Verdict.DROP and not is_unsearchable(verdict, message.payload):
            self.send_to_client(replacement(verdict, message.payload, self.redact) or message.payload)

    def replace_upstream(self, connected: UpstreamConnection) -> None:
        """Join the client to another upstream connection, between two messages of both sides; `read_upstream` follows.

        The caller then owns the one before, and starts another receiver on it.
        """
        self._connected, self._upstream = connected, connected.leg
        self._call.upstream_replaced()
        self._hidden_errors.clear()
        self._last_error = self._expired_at = None
        self._watch.upstream = connected.leg
        self._watch.quiet_until = 0.0
        self._to_upstream.replace_sink(connected.leg)
        self._to_client.replace_source(connected.leg, connected.scanner)

    def read_upstream(self) -> None:
        """Read the connection that has replaced another. What has arrived of it is processed now, its end included.

        Its `items` come first.
        """
        items, self._connected.items = self._connected.items, []
        self._to_client.process(items)
        self._upstream.start(self._to_client, self._to_client.read)

    def end_unrecovered(self, end: Ending) -> None:
        """End the session as it would have ended without continuity."""
        self._end(end)
