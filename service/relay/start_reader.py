"""Reads a client's first message in GPT-Live, `session.start`, and keeps what is after it."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from service.failures import Failure, Phase
from service.realtime.closing import CloseCode
from service.realtime.frames import Opcode
from service.realtime.live import SESSION_START
from service.realtime.live_start import InvalidStart, parse_start
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, Violation
from service.relay.ending import too_big_hint
from service.wire.control import handle_control
from service.wire.leg import Leg
from service.wire.turns import feed_some

MAX_EARLY_BYTES: Final = 262_144
"""Of what a client sends before `session.started`: four seconds of audio. Beyond it the client is not read."""
MAX_WAITING_BYTES: Final = 32 << 20
"""Of the messages of all clients whose sessions have not started."""
_ITEM_BYTES: Final = 128
"""What an item costs beside its bytes: a flood of the smallest frames must not exceed the limits."""


@dataclass(frozen=True, slots=True)
class ClientStream:
    """The client's bytes before the session: the scanner that parses them, and the items that are to be forwarded."""

    scanner: Scanner
    items: list[Item] = field(default_factory=list)


class ByteBudget:
    """A limit on the bytes that all starting sessions keep. One client may take half: others can start as well."""

    def __init__(self, limit: int = MAX_WAITING_BYTES) -> None:
        self._left = limit
        self._limit_of_client = limit // 2
        self._taken: Counter[str] = Counter()

    def take(self, client: str, size: int) -> None:
        """Take bytes for a client, or give them back below 0; raises Failure with relay_full if there are fewer."""
        if size > self._left or self._taken[client] + size > self._limit_of_client:
            whose = "all clients" if size > self._left else "one client"
            raise Failure("relay_full", Phase.SESSION_START, detail=f"messages of {whose} before their sessions")
        self._left -= size
        self._taken[client] += size

    def give_back(self, client: str, size: int) -> None:
        """Give back what was taken."""
        self._left += size
        self._taken[client] -= size
        if not self._taken[client]:
            del self._taken[client]


class StartReader:
    """The receiver of a client's leg until its session starts.

    `start` resolves with the message `session.start`, or fails with the Failure of a client that sends anything else, breaks
    the protocol or leaves. `left` resolves if the client leaves, also later. `items` is what it sent after its start, its
    close frame included, which is for the session to answer, or for `answer_close`.
    """

    def __init__(self, leg: Leg, scanner: Scanner, budget: ByteBudget, client: str) -> None:
        self._leg = leg
        self._scanner = scanner
        self._budget = budget
        self._client = client
        self._taken = 0
        self._has_given_back = False
        self._item_bytes = 0  # of the start and what is after it
        self._early_bytes = 0  # of what is after it
        self.items: list[Item] = []
        loop = asyncio.get_running_loop()
        self.start: asyncio.Future[Message] = loop.create_future()
        self.left: asyncio.Future[Failure] = loop.create_future()

    @property
    def _has_failed(self) -> bool:
        return self.start.done() and (self.start.cancelled() or self.start.exception() is not None)

    def receive(self, data: bytes) -> None:
        """Process the next bytes; called by the leg."""
        if self.left.done() or self._has_failed:
            return
        for item in feed_some(self._leg, self._scanner, data):
            self._process(item)
        failure = self._charge()
        if not self.start.done():
            if failure is not None:
                self.start.set_exception(failure)
        elif failure is not None or self._early_bytes + self._scanner.kept_bytes > MAX_EARLY_BYTES:
            self._leg.hold("no_receiver")

    def peer_lost(self) -> None:
        """Called by the leg: the client disconnected."""
        self._leave(Failure("client_left", Phase.SESSION_START))

    def give_back(self) -> None:
        """Give back the budget, at the end of the start. What the leg still delivers before its next receiver takes none."""
        self._budget.give_back(self._client, self._taken)
        self._taken, self._has_given_back = 0, True

    def answer_close(self) -> None:
        """Complete the closing handshake of a client that gets no session."""
        if self.items and isinstance(close := self.items[-1], ControlFrame):
            handle_control(self._leg, close)
            self._leg.close()

    def _charge(self) -> Failure | None:
        """Make what is taken from the budget what is kept now: pings and bytes that the leg took back are not."""
        if self._has_given_back:
            return None
        growth = self._scanner.kept_bytes + self._item_bytes - self._taken
        try:
            self._budget.take(self._client, growth)
        except Failure as failure:
            return failure
        self._taken += growth
        return None

    def _keep(self, item: Item) -> None:
        size = _ITEM_BYTES + (len(item.raw) if isinstance(item, Message | Chunk) else 0)
        self._item_bytes += size
        if self.start.done():
            self._early_bytes += size
            self.items.append(item)

    def _process(self, item: Item) -> None:
        is_close = isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE
        if is_close or isinstance(item, Violation):
            self.items.append(item)
            self._leave(
                _violation(item) if isinstance(item, Violation) else Failure("client_left", Phase.SESSION_START)
            )
        elif isinstance(item, ControlFrame):
            handle_control(self._leg, item)
        elif self.start.done():
            self._keep(item)
        elif isinstance(item, Message) and item.type == SESSION_START:
            self._keep(item)
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


def _violation(item: Violation) -> Failure:
    is_size = item.close_code == CloseCode.MESSAGE_TOO_BIG
    reason = "message_too_big" if is_size else "client_protocol_error"
    hint = too_big_hint(item.detail) if is_size else None
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
