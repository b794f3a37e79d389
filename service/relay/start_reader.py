"""Reads a client's first message in GPT-Live, `session.start`, and keeps what is behind it."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

from service.failures import CATALOGUE, Failure, Phase
from service.realtime.closing import CloseCode
from service.realtime.frames import Opcode
from service.realtime.live import SESSION_START
from service.realtime.live_start import InvalidStart, parse_start
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, Violation
from service.wire.control import handle_control
from service.wire.leg import Leg
from service.wire.turns import feed_some

MAX_EARLY_BYTES: Final = 262_144
"""Of what a client sends before `session.started`: four seconds of audio. Beyond it the client is not read."""
MAX_WAITING_BYTES: Final = 32 << 20
"""Of the messages of all clients that are to begin a session and are not complete."""


@dataclass(frozen=True, slots=True)
class ClientStream:
    """The client's bytes before the session: the scanner that parses them, and the items that are to be forwarded."""

    scanner: Scanner
    items: list[Item] = field(default_factory=list)


class ByteBudget:
    """A limit on the bytes that all starting sessions keep."""

    def __init__(self, limit: int = MAX_WAITING_BYTES) -> None:
        self._left = limit

    def take(self, size: int) -> None:
        """Take a number of bytes; raises Failure with relay_full if there are fewer."""
        if size > self._left:
            raise Failure("relay_full", Phase.SESSION_START, detail="session.start messages of all clients")
        self._left -= size

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        self._left += size


class StartReader:
    """The receiver of a client's leg until its session starts.

    `start` resolves with the message `session.start`, or fails with the Failure of a client that sends anything else, breaks
    the protocol or leaves. `left` resolves if the client leaves, also later. `items` is what it sent behind its start.
    """

    def __init__(self, leg: Leg, scanner: Scanner, budget: ByteBudget) -> None:
        self._leg = leg
        self._scanner = scanner
        self._budget = budget
        self._taken = 0
        self._early_bytes = 0
        self.items: list[Item] = []
        loop = asyncio.get_running_loop()
        self.start: asyncio.Future[Message] = loop.create_future()
        self.left: asyncio.Future[Failure] = loop.create_future()

    def receive(self, data: bytes) -> None:
        """Process the next bytes; called by the leg."""
        if self.left.done() or (self.start.done() and self.start.exception() is not None):
            return
        if not self.start.done():
            try:
                self._budget.take(len(data))
            except Failure as failure:
                self.start.set_exception(failure)
                return
            self._taken += len(data)
        for item in feed_some(self._leg, self._scanner, data):
            self._process(item)
        if self.start.done():
            self.give_back()
            self._early_bytes += len(data)
            if self._early_bytes > MAX_EARLY_BYTES:
                self._leg.hold("first_event")

    def peer_lost(self) -> None:
        """Called by the leg: the client disconnected."""
        self._leave(Failure("client_left", Phase.SESSION_START))

    def give_back(self) -> None:
        """Give back the budget of an incomplete message."""
        self._budget.give_back(self._taken)
        self._taken = 0

    def _process(self, item: Item) -> None:
        if isinstance(item, ControlFrame | Violation):
            if handle_control(self._leg, item) is not None:
                is_violation = isinstance(item, Violation)
                self._leave(_violation(item) if is_violation else Failure("client_left", Phase.SESSION_START))
        elif self.start.done():
            self.items.append(item)
        elif isinstance(item, Message) and item.type == SESSION_START:
            self.start.set_result(item)
        else:
            self._fail(_no_start(item))

    def _leave(self, failure: Failure) -> None:
        self._fail(failure)
        if not self.left.done():
            self.left.set_result(failure)

    def _fail(self, failure: Failure) -> None:
        if not self.start.done():
            self.start.set_exception(failure)


def _violation(item: Item) -> Failure:
    assert isinstance(item, Violation)  # noqa: S101 - the caller has checked it
    is_size = item.close_code in {CloseCode.MESSAGE_TOO_BIG, CloseCode.POLICY_VIOLATION}
    reason = "message_too_big" if is_size else "client_protocol_error"
    hint = f"{item.detail[0].upper()}{item.detail[1:]}. {CATALOGUE[reason].remedy}" if is_size else None
    return Failure(reason, Phase.SESSION_START, detail=item.detail, hint=hint)


def _no_start(item: Item) -> Failure:
    """The failure of a first message that is no `session.start`."""
    match item:
        case Message(_, payload, raw):
            is_text = raw[0] & 0x0F == Opcode.TEXT
        case Chunk(raw, _):
            payload, is_text = b'{"type":""}', raw[0] & 0x0F == Opcode.TEXT
        case _:
            payload, is_text = b"", True
    try:
        parse_start(payload, is_text=is_text)
    except InvalidStart as invalid:
        return invalid_start(invalid)
    return invalid_start(InvalidStart("The first message is not session.start", "Send session.start first"))


def invalid_start(invalid: InvalidStart) -> Failure:
    """The failure of a message that cannot be read as a `session.start` or `session.update`."""
    return Failure(
        "start_invalid",
        Phase.SESSION_START,
        detail=invalid.problem,
        hint=f"{invalid.problem}. {invalid.remedy}.",
    )
