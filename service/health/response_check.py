"""The deep check: one minimal text response over a socket that is open. It costs tokens, so that it is off by default.

A key, a model and a handshake that pass do not prove that a response comes: access to a model is checked again, and the
credit is looked at, when the first response is asked for.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final

from service.failures import Failure, Phase
from service.realtime.events import ERROR_CODES, ErrorEvent, find_error
from service.realtime.incidents import ERROR, RESPONSE_DONE, find_incident
from service.upstream import translate
from service.upstream.dial import Connected
from service.upstream.stream import EventStream, ProtocolViolation, StreamClosed

RESPONSE_SECONDS: Final = 20.0
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


async def request_response(connected: Connected, timeout_seconds: float = RESPONSE_SECONDS) -> None:
    """Request a response and wait until it is done; raises Failure if there is none. The caller closes the connection."""
    stream = EventStream(connected)
    stream.send(REQUEST)
    try:
        async with asyncio.timeout(timeout_seconds):
            await _response_done(stream, timeout_seconds)
    except TimeoutError:
        detail = f"no response within {timeout_seconds:g} s"
        raise Failure("upstream_error", Phase.FIRST_EVENT, detail=detail) from None
    except ProtocolViolation as violation:
        raise Failure("bad_reply", Phase.FIRST_EVENT, detail=violation.reason) from None
    except StreamClosed as closed:
        raise translate.from_events(None, closed.code, closed.reason) from None


async def _response_done(stream: EventStream, timeout_seconds: float) -> None:
    while True:
        event = await stream.next_event(timeout_seconds)
        if event.type == ERROR:
            raise translate.from_events(find_error(event.body) or ErrorEvent("", None, ""), None, "")
        if event.type == RESPONSE_DONE and event.body:  # one that is too large to be read shows nothing
            incident = find_incident(RESPONSE_DONE, event.body)
            if incident is None:
                return
            code = incident.code if incident.code in ERROR_CODES else None
            raise translate.from_events(ErrorEvent("", code, ""), None, "")
