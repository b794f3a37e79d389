"""What a GPT-Live session adds to a session: its bill, its own end, and closing upstream in the way that stops the meter.

The provider bills the seconds from the start to `session.closed`. A socket that vanishes leaves the bill open, so the relay
sends `session.close` when a session ends from the client's side, and reads on for the answer.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from service.failures import Failure
from service.realtime import live
from service.realtime.events import Direction
from service.realtime.live_events import (
    RESPONSE_FAILED,
    BackendResponse,
    LiveEvent,
    Transcript,
    is_possible,
    parse_live_event,
)
from service.realtime.live_start import InvalidStart, RequestedModels, parse_update
from service.realtime.live_usage import Charge, LiveMeter, SpeechTimer
from service.realtime.pricing import live_cost_usd, live_model_label
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Item, Message
from service.realtime.values import OTHER
from service.relay import ending
from service.relay.call import Position, SendError
from service.relay.ending import CloseInstruction, Ending
from service.relay.live_activity import LiveActivity
from service.relay.pipe_owner import Verdict
from service.relay.reporter import SessionReporter
from service.telemetry.metrics import Metrics
from service.upstream.dial import UpstreamConnection
from service.wire.control import handle_control
from service.wire.leg import Leg
from service.wire.turns import feed_some

SETTLE_SECONDS: Final = 15.0
"""How long a session waits for `session.closed` after `session.close`. The provider's documents name the same time."""
SESSION_CLOSE: Final = b'{"type":"session.close"}'
CLOSED_SECONDS: Final = 2.0
"""How long the provider may keep the socket open after `session.closed`, before the relay closes it."""


class LiveCall:
    """A GPT-Live session. See `Call`.

    `check_models` raises Failure for models that the client may not request. A sideband has no bill and no end of its own:
    the session belongs to another connection.
    """

    def __init__(
        self,
        reporter: SessionReporter,
        send_error: SendError,
        *,
        metrics: Metrics,
        check_models: Callable[[RequestedModels], object],
        model: str | None = None,
        is_sideband: bool = False,
    ) -> None:
        self._reporter = reporter
        self._send_error = send_error
        self._metrics = metrics
        self._check_models = check_models
        self._model = live_model_label(model)
        self._is_sideband = is_sideband
        self.settle_seconds = 0.0 if is_sideband else SETTLE_SECONDS
        self.timer = LiveActivity()
        self.has_expired = False
        self._meter = LiveMeter()
        self._speech = SpeechTimer()
        self._session_id: str | None = None  # the provider's, which its support asks for
        self._closed_reason: str | None = None
        self._closed_at = 0.0

    def event_read(self, direction: Direction, event_type: str | None, payload: bytes, position: Position) -> Verdict:
        """Count what an upstream event reports; let no client event pass that requests what it may not."""
        if direction == Direction.CLIENT_TO_UPSTREAM:
            return self._review(event_type, payload)
        if event_type is None:
            return Verdict.REDACT
        event = parse_live_event(event_type, payload)
        if event.incident is not None:
            self._reporter.incident_seen(event.incident, position())
        self._take(event)
        is_text = event.closed_reason == OTHER  # not one of the provider's known words
        return Verdict.FORWARD if event.incident is None and not is_text else Verdict.REDACT

    def transcripts_passed(self, transcripts: list[Transcript]) -> None:
        """Count them as activity, and measure the answers."""
        self.timer.events += len(transcripts)
        if not self._is_sideband:
            for transcript in transcripts:
                if is_possible(transcript):
                    self._observe_answer(self._speech.add(transcript))

    def event_discarded(self, event_type: str | None, payload: bytes) -> None:
        """Count usage, which arrives after the end as well."""
        if event_type is not None:
            self._take(parse_live_event(event_type, payload))

    def _review(self, event_type: str | None, payload: bytes) -> Verdict:
        try:
            if event_type == live.SESSION_UPDATE:
                self._check_models(parse_update(payload))
        except InvalidStart as invalid:
            return self._refuse("start_invalid", f"{invalid.problem}. {invalid.remedy}.")
        except Failure as failure:
            return self._refuse(failure.reason, failure.hint)
        return self._refuse("start_repeated", None) if event_type == live.SESSION_START else Verdict.FORWARD

    def _refuse(self, reason: str, hint: str | None) -> Verdict:
        self._metrics.live.refused_events.labels(reason).inc()
        self._send_error(reason, hint)
        return Verdict.DROP

    def _take(self, event: LiveEvent) -> None:
        if event.transcript is not None:
            if not self._is_sideband:  # each of them hears the same speech
                self._observe_answer(self._speech.add(event.transcript))
            return  # nothing else is in it
        self._session_id = self._session_id or event.session_id
        if event.closed_reason is not None and self._closed_reason is None:
            self._closed_reason, self._closed_at = event.closed_reason, time.monotonic()
        if not self._is_sideband:
            charge = self._meter.add(event)
            self._reporter.spending.is_confirmed = self._meter.is_confirmed
            self._metrics.live.count_charge(self._model, charge)
            self._spend(charge)

    def _spend(self, charge: Charge) -> None:
        spending, active, paused = self._reporter.spending, charge.active_seconds, charge.paused_seconds
        if active or paused:
            spending.add(live_cost_usd(self._model, active, paused), seconds=active + paused)
        ended = charge.backend
        if ended is None or (
            ended.usage is None and isinstance(ended, BackendResponse) and ended.event == RESPONSE_FAILED
        ):
            return
        if ended.usage is None:
            spending.add_unmeasured()
        else:
            spending.add(None, tokens=ended.usage.total)  # backend models have no price

    def _observe_answer(self, seconds: float | None) -> None:
        if seconds is not None:
            self._metrics.live.speech_to_speech.observe(seconds)

    def activity(self, messages: int) -> int:  # noqa: ARG002 - of the protocol
        """The events that are no audio: audio flows in silence as well."""
        return self.timer.events

    def ending(self, end: Ending) -> Ending:
        """The ending that `session.closed` reported, if a peer then closed: clients close as soon as they have read it."""
        if self._closed_reason is None or end.reason not in _ENDED_BY_PEER:
            return end
        return ending.session_closed(end, self._closed_reason, had_audio=self.timer.had_audio or self._is_sideband)

    def shown(self, payload: bytes) -> bytes | None:
        """All of it."""
        return payload

    def upstream_replaced(self) -> None:
        """Never happens."""

    def due_ending(self) -> Ending | None:
        """The end of a session whose socket the provider leaves open."""
        if self._closed_reason is None or time.monotonic() - self._closed_at < CLOSED_SECONDS:
            return None
        normal = CloseInstruction(1000)
        return self.ending(Ending("upstream_closed", normal, normal))

    async def settle(self, connected: UpstreamConnection, deadline: float) -> None:
        """Send `session.close` and wait for the final usage."""
        if self._closed_reason is None:
            await settle(
                connected,
                deadline,
                lambda message: self.event_discarded(message.type, message.payload),
                is_requested=self.timer.close_requested,
            )

    def summary(self) -> Mapping[str, object]:
        """What the session cost, and whether the provider confirmed it."""
        if self._is_sideband:
            return {"upstream_session_id": self._session_id}
        self._observe_answer(self._speech.finish())
        self._metrics.live.count_end(self._meter)
        active, paused = self._meter.billable_seconds()
        return {
            "upstream_session_id": self._session_id,
            "usage_seconds": round(active + paused, 3),
            "usage_confirmed": self._meter.is_confirmed,
            "closed_reason": self._closed_reason,
        }


_ENDED_BY_PEER: Final = frozenset(
    {"upstream_closed", "upstream_lost", "session_expired", "client_closed", "client_lost"}
)


class SettlementReceiver:
    """The receiver of an upstream leg that waits for the message for which `is_last`. Everything else is only read.

    `closed` resolves with whether it arrived; False if upstream closed or lost the connection before.
    """

    def __init__(
        self, leg: Leg, scanner: Scanner, on_event: Callable[[Message], object], is_last: Callable[[Message], bool]
    ) -> None:
        self._is_last = is_last
        self._leg = leg
        self._scanner = scanner
        self._on_event = on_event
        self.closed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def receive(self, data: bytes) -> None:
        """Called by the leg."""
        for item in feed_some(self._leg, self._scanner, data):
            self._process(item)

    def peer_lost(self) -> None:
        """Called by the leg."""
        self._leg.close()
        self._resolve(closed=False)

    def _process(self, item: Item) -> None:
        if isinstance(item, Message):
            self._on_event(item)
            if self._is_last(item):
                self._resolve(closed=True)
        elif handle_control(self._leg, item) is not None:
            self._leg.close()
            self._resolve(closed=False)

    def _resolve(self, *, closed: bool) -> None:
        if not self.closed.done():
            self.closed.set_result(closed)


async def settle(
    connected: UpstreamConnection,
    deadline: float,
    on_event: Callable[[Message], object],
    *,
    is_requested: bool = False,
    request: bytes = SESSION_CLOSE,
    is_last: Callable[[Message], bool] = lambda message: message.type == live.SESSION_CLOSED,
) -> bool:
    """Send `request` and read until a message `is_last`, after `on_event`; returns whether it came before `deadline`.

    `is_requested`: the client has sent it already. The caller guarantees a message boundary. The connection stays open: the
    caller closes it.
    """
    leg = connected.leg
    if not leg.can_send:
        return False
    if not is_requested:
        leg.send_event(request)
    receiver = SettlementReceiver(leg, connected.scanner, on_event, is_last)
    for item in connected.items:
        receiver._process(item)  # noqa: SLF001 - received with the start, and not processed yet
    connected.items = []
    leg.start(receiver)
    try:
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(receiver.closed)
    except TimeoutError:
        return False
