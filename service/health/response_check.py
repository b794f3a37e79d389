"""The deep check: one minimal text response over a socket that is open. It costs tokens, so that it is off by default.

A key, a model and a handshake that pass do not prove that a response comes: access to a model is checked again, and the
credit is looked at, when the first response is asked for.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from typing import Final

from service.failures import Failure, Phase
from service.realtime.closing import parse_close
from service.realtime.events import ERROR_CODES, ErrorEvent, parse_error, parse_object
from service.realtime.framing import Opcode
from service.realtime.incidents import ERROR, RESPONSE_DONE, incident_in
from service.realtime.items import Control, Item, Message, Violation
from service.upstream import translate
from service.upstream.dial import Connected

TURN_SECONDS: Final = 20.0
DAY_SECONDS: Final = 86_400.0
MAX_OUTPUT_TOKENS: Final = 16
REQUEST: Final[Mapping[str, object]] = {
    "type": "response.create",
    "response": {
        "conversation": "none",
        "output_modalities": ["text"],
        "instructions": "Answer with the one word OK.",
        "max_output_tokens": MAX_OUTPUT_TOKENS,
    },
}
"""Out of the conversation and with instructions of its own it needs no item and leaves no history. About 120 tokens in and at
most 16 out, hidden reasoning included: 0.0007 USD on gpt-realtime (list price of November 2026)."""


class ResponseCheckBudget:
    """So many turns within any 24 hours, spread evenly. `most` 0 is none at all."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Whether a turn is due now; if so, it is spent."""
        if self.most <= 0:
            return False
        while self._taken and now - self._taken[0] >= DAY_SECONDS:
            self._taken.popleft()
        if self._taken and now - self._taken[-1] < DAY_SECONDS / self.most:
            return False
        if len(self._taken) >= self.most:
            return False
        self._taken.append(now)
        return True


async def request_response(connected: Connected, seconds: float = TURN_SECONDS) -> None:
    """Ask for a response and wait until it is done; raises Failure if there is none. The caller closes the socket."""
    turn = _Turn(connected)
    connected.leg.start(turn)
    connected.leg.release("gate")
    connected.leg.send_event(json.dumps(REQUEST).encode())
    try:
        async with asyncio.timeout(seconds):
            await turn.done
    except TimeoutError:
        raise Failure("upstream_error", Phase.FIRST_EVENT, detail=f"no response within {seconds:g} s") from None


class _Turn:
    """Reads upstream until the response is done. `done` yields nothing, or raises the Failure."""

    def __init__(self, connected: Connected) -> None:
        self._leg = connected.leg
        self._scanner = connected.scanner
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(self, data: bytes) -> None:
        """Take the next bytes."""
        for item in self._scanner.feed(data):
            if not self.done.done():
                self._look_at(item)

    def peer_lost(self) -> None:
        """Upstream is gone."""
        self._fail(Failure("dropped_early", Phase.FIRST_EVENT, detail="lost during the response"))

    def _look_at(self, item: Item) -> None:
        match item:
            case Control(Opcode.PING, payload):
                self._leg.send_control(Opcode.PONG, payload)
            case Control(Opcode.CLOSE, payload):
                self._fail(translate.from_events(None, *parse_close(payload)))
            case Violation(_, detail):
                self._fail(Failure("bad_reply", Phase.FIRST_EVENT, detail=detail))
            case Message(kind, payload, _) if kind == ERROR:
                self._fail(translate.from_events(parse_error(payload), None, ""))
            case Message(kind, payload, _) if kind == RESPONSE_DONE:
                self._judge(payload)

    def _judge(self, payload: bytes) -> None:
        incident = incident_in(RESPONSE_DONE, parse_object(payload))
        if incident is None:
            self.done.set_result(None)
            return
        code = incident.code if incident.code in ERROR_CODES else None
        self._fail(translate.from_events(ErrorEvent("", code, ""), None, ""))

    def _fail(self, failure: Failure) -> None:
        if not self.done.done():
            self.done.set_exception(failure)
