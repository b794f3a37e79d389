"""The response check: one minimal text response over an open connection. It costs tokens, so it is off by default.

A key and a handshake that pass do not prove that a response comes: the provider checks the access to the model once more,
and the credit for the first time, when the first response is requested.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final

from service.deadlines import Deadline
from service.failures import Failure, Phase
from service.realtime.events import ERROR_CODES, ErrorEvent, find_error
from service.realtime.incidents import ERROR, RESPONSE_DONE, find_incident
from service.upstream import translate
from service.upstream.dial import UpstreamConnection
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
"""A response outside the conversation with its own instructions needs no item and leaves no history. It costs about 120 input
tokens and at most 16 output tokens, reasoning included: 0.0007 USD on gpt-realtime (list price of November 2026)."""


class ResponseCheckBudget:
    """Limits response checks to `per_day` within any 24 hours, evenly spread; 0 allows none."""

    def __init__(self, per_day: int) -> None:
        self._per_day = per_day
        self._acquired_at: deque[float] = deque()

    def try_acquire(self, now: float) -> bool:
        """Use one check of the budget if one is due; False if none is."""
        if self._per_day <= 0:
            return False
        while self._acquired_at and now - self._acquired_at[0] >= DAY_SECONDS:
            self._acquired_at.popleft()
        if self._acquired_at and now - self._acquired_at[-1] < DAY_SECONDS / self._per_day:
            return False
        if len(self._acquired_at) >= self._per_day:
            return False
        self._acquired_at.append(now)
        return True


async def request_response(connected: UpstreamConnection, timeout_seconds: float = RESPONSE_SECONDS) -> None:
    """Request a response and wait until it is done; raises Failure if there is none. The caller closes the connection."""
    stream = EventStream(connected)
    stream.send(REQUEST)
    try:
        async with Deadline(timeout_seconds):
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
        if event.type == RESPONSE_DONE and event.body:  # empty if it is not JSON: ignored
            incident = find_incident(RESPONSE_DONE, event.body)
            if incident is None:
                return
            code = incident.code if incident.code in ERROR_CODES else None
            raise translate.from_events(ErrorEvent("", code, ""), None, "")
