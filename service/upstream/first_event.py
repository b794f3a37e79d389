"""Reads upstream after the 101 until the first event, which shows that a session exists."""

import asyncio
from typing import Final

from service.deadlines import DeadlineTimer
from service.failures import Failure, Phase
from service.realtime.events import ErrorEvent, parse_error
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, MessageEnd, Violation
from service.upstream import translate
from service.wire.control import handle_control
from service.wire.leg import Leg
from service.wire.turns import feed_some

CLOSE_AFTER_ERROR_SECONDS: Final = 0.25
"""How long to wait for the close frame after an `error` event. OpenAI sends both in the same millisecond."""
MAX_FIRST_EVENT_BYTES: Final = 1_048_576
"""A larger first event is streamed instead of collected: its type, which is not `error`, shows that upstream works. Messages
without a type show nothing; a dial that collects more of them fails."""
_ITEM_BYTES: Final = 256
_FRAGMENT_BYTES: Final = 64
"""What an item and a fragment cost beside their bytes: a flood of empty ones must not exceed the limit."""


class FirstEventReader:
    """The receiver of a leg during a dial, and in GPT-Live until `session.started`, which is then `awaited_type`.

    `items` resolves once the first event whose type is known is complete or exceeds `MAX_FIRST_EVENT_BYTES`: all items
    received so far, that is the event, messages without a type before it, and what followed it in the same read. The leg is
    held from then on. `items` fails with the Failure if upstream refuses, violates the protocol, disconnects first, or sends
    too much without a type. The reader does not close the leg; its owner does.
    """

    def __init__(
        self,
        leg: Leg,
        scanner: Scanner,
        *,
        phase: Phase = Phase.FIRST_EVENT,
        awaited_type: str | None = None,
    ) -> None:
        self._phase = phase
        self._awaited_type = awaited_type
        self._leg = leg
        self._scanner = scanner
        self._received: list[Item] = []
        self._received_bytes = 0
        self._has_failed = False
        self._error: ErrorEvent | None = None
        self.refusal: bytes | None = None  # the payload of the `error` event, which may contain a part of the key
        self._close_timer: DeadlineTimer | None = None
        self.items: asyncio.Future[list[Item]] = asyncio.get_running_loop().create_future()

    def receive(self, data: bytes) -> None:
        """Process the next bytes; called by the leg."""
        if self._has_failed:
            return
        items = feed_some(self._leg, self._scanner, data)
        if self.items.done():
            self._received += items  # the same list that `items` resolved with
            return
        for number, item in enumerate(items):
            self._process(item)
            if self.items.done():
                self._received += items[number + 1 :]
                return
        if self._error is None and self._is_over_limit:  # of a message that has no end yet
            self._decide(self._scanner.open_type)

    def take(self, items: list[Item]) -> None:
        """Process what another receiver of this leg has received, before the leg starts this one."""
        for item in items:
            self._process(item)

    def peer_lost(self) -> None:
        """Fail the dial: upstream disconnected; called by the leg."""
        self._fail(self.known_failure() or Failure("dropped_early", self._phase))

    def known_failure(self) -> Failure | None:
        """The failure that the `error` event alone decides, if there was one."""
        return None if self._error is None else translate.from_events(self._error, None, "", phase=self._phase)

    def _process(self, item: Item) -> None:
        if isinstance(item, ControlFrame | Violation):
            end = handle_control(self._leg, item)
            if end is not None:
                self._fail(
                    Failure("bad_reply", self._phase, detail=end.reason)
                    if end.is_violation
                    else translate.from_events(self._error, end.code, end.reason, phase=self._phase)
                )
            return
        match item:
            case Message("error", payload, _) if self._error is None:
                self.refusal = payload
                self._wait_for_close(parse_error(payload) or ErrorEvent("", None, ""))
            case _ if self._error is not None:
                pass  # between the error and its close frame
            case Message(_, _, raw) | Chunk(raw, _):
                self._received.append(item)
                self._received_bytes += len(raw) + _ITEM_BYTES
            case MessageEnd(event_type, _):
                self._received.append(item)
                self._decide(event_type)

    @property
    def _is_over_limit(self) -> bool:
        return self._received_bytes + self._scanner.fragments * _FRAGMENT_BYTES > MAX_FIRST_EVENT_BYTES

    def _decide(self, event_type: str | None) -> None:
        """Succeed with the first type; a message without one, such as a greeting in plain text, shows nothing."""
        if event_type is not None and self._awaited_type in {None, event_type}:
            self._succeed()
        elif self._is_over_limit:
            self._fail(Failure("bad_reply", self._phase, detail="messages without an event type"))

    def _wait_for_close(self, error: ErrorEvent) -> None:
        """The code of the close frame refines the failure; without one the `error` event alone decides."""
        self._error = error
        self._close_timer = DeadlineTimer(
            CLOSE_AFTER_ERROR_SECONDS, lambda: self._fail(translate.from_events(error, None, "", phase=self._phase))
        )

    def _succeed(self) -> None:
        self._leg.hold("no_receiver")
        if not self.items.done():
            self.items.set_result(self._received)

    def _fail(self, failure: Failure) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        if not self.items.done():
            self._has_failed = True
            self.items.set_exception(failure)
