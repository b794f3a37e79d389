"""Behind the 101: reads upstream until its first event shows that a session is really there."""

import asyncio
from typing import Final

from service.failures import Failure, Phase
from service.realtime.events import ErrorEvent, parse_error
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, Completed, Control, Item, Message, Violation
from service.upstream import translate
from service.wire.control import handle_control
from service.wire.leg import Leg

FIRST_EVENT_HOLD: Final = "first_event"
"""The name under which a leg is held from its first event until its owner reads it."""
CLOSE_AFTER_ERROR_SECONDS: Final = 0.25
"""How long the CLOSE behind a first `error` is waited for; on the wire it comes in the same millisecond."""
FIRST_EVENT_BYTES: Final = 1_048_576
"""A first event larger than this is streamed instead of awaited whole; it has shown that upstream is alive."""


class FirstEventReader:
    """Reads upstream until its first event is there whole. `opened` yields the items so far, or raises the Failure."""

    def __init__(self, leg: Leg, scanner: Scanner) -> None:
        self._leg = leg
        self._scanner = scanner
        self._items: list[Item] = []
        self._size = 0
        self._error: ErrorEvent | None = None
        self._late: asyncio.TimerHandle | None = None
        self.opened: asyncio.Future[list[Item]] = asyncio.get_running_loop().create_future()

    def receive(self, data: bytes) -> None:
        """Take the next bytes."""
        items = self._scanner.feed(data)
        if self.opened.done():
            self._items += items  # behind the gate, in the same read
            return
        for number, item in enumerate(items):
            self._look_at(item)
            if self.opened.done():
                self._items += items[number + 1 :]
                return

    def peer_lost(self) -> None:
        """Upstream is gone."""
        if self._error is not None:
            self._refuse(translate.from_events(self._error, None, ""))
        else:
            self._refuse(Failure("dropped_early", Phase.FIRST_EVENT))

    def _look_at(self, item: Item) -> None:
        if isinstance(item, Control | Violation):
            end = handle_control(self._leg, item)
            if end is not None:
                self._refuse(
                    Failure("bad_reply", Phase.FIRST_EVENT, detail=end.reason)
                    if end.is_violation
                    else translate.from_events(self._error, end.code, end.reason)
                )
            return
        match item:
            case Message("error", payload, _) if self._error is None:
                self._take_error(parse_error(payload) or ErrorEvent("", None, ""))
            case _ if self._error is not None:
                pass  # whatever stands between the error and its CLOSE
            case Message():
                self._items.append(item)  # its Completed, right behind it, opens
            case Chunk(raw, mid_frame):
                self._items.append(item)
                self._size += len(raw)
                if mid_frame and self._size > FIRST_EVENT_BYTES:
                    self._open()
            case Completed(kind, _) if kind == "error":
                self._take_error(ErrorEvent("", None, ""))  # too large to have been read
            case Completed():
                self._items.append(item)
                self._open()

    def _take_error(self, error: ErrorEvent) -> None:
        self._error = error
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(
            CLOSE_AFTER_ERROR_SECONDS, lambda: self._refuse(translate.from_events(error, None, ""))
        )

    def _open(self) -> None:
        self._leg.hold(FIRST_EVENT_HOLD)
        if not self.opened.done():
            self.opened.set_result(self._items)

    def _refuse(self, failure: Failure) -> None:
        if self._late is not None:
            self._late.cancel()
        if not self.opened.done():
            self.opened.set_exception(failure)
