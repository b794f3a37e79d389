"""Counts the responses of one session that run, or that its client has requested, for its budget."""

from collections import deque
from collections.abc import Callable
from typing import Final

from service.realtime.incidents import RESPONSE_DONE
from service.realtime.usage import Tokens, Usage
from service.relay.latency import CREATED, ResponseTimer

MAX_RESPONSES: Final = 4
"""Responses of a session with a budget that run at once: one of the conversation, the others out of band."""
REQUEST_SECONDS: Final = 5.0
"""How long a request counts that the provider does not answer with a response: it may have refused it."""
_BYTES_PER_TOKEN: Final = 3200
"""Of the output: 50 ms of PCM in base64. Other formats and text have fewer, so an estimate from it is a low one."""


class ResponseCounter:
    """Passes events to the timer of the session, and counts. A `ResponseTimer`.

    `received_bytes` returns how much upstream has sent so far.
    """

    def __init__(
        self,
        timer: ResponseTimer,
        on_ended: Callable[[], object],
        *,
        clock: Callable[[], float],
        received_bytes: Callable[[], int],
    ) -> None:
        self._timer = timer
        self._on_ended = on_ended
        self._clock = clock
        self._received_bytes = received_bytes
        self._requested: deque[float] = deque(maxlen=MAX_RESPONSES)
        self._idle_until = 0  # in bytes: the end of the last one while no other ran
        self.running = 0
        self.client_types = timer.client_types
        self.watched_types = timer.watched_types | {CREATED, RESPONSE_DONE}

    def event_passed(self, event_type: str) -> None:
        """Process an event, after it was forwarded."""
        if event_type in self._timer.watched_types or event_type in self._timer.client_types:
            self._timer.event_passed(event_type)
        if event_type == CREATED:
            if self._requested:
                self._requested.popleft()
            self.running += 1
        elif event_type == RESPONSE_DONE:
            self.ended()
            self._on_ended()
        self.watched_types = self._timer.watched_types | {CREATED, RESPONSE_DONE}

    def ended(self) -> None:
        """Count the end of a response."""
        self.running = max(0, self.running - 1)
        if not self.running:
            self._idle_until = self._received_bytes()

    def request(self) -> bool:
        """Count a request for another response, before it is forwarded; returns whether it may be."""
        now = self._clock()
        while self._requested and now - self._requested[0] >= REQUEST_SECONDS:
            self._requested.popleft()
        if self.running + len(self._requested) >= MAX_RESPONSES:
            return False
        self._requested.append(now)
        return True

    def unreported_usage(self, last: Usage) -> Usage:
        """An estimate of what those that run have used: each the context after the `last` response, and what has arrived."""
        context = Tokens(
            (last.input.text + last.output.text) * self.running,
            (last.input.audio + last.output.audio) * self.running,
            last.input.image * self.running,
        )
        arrived = self._received_bytes() - self._idle_until
        return Usage(context, Tokens(audio=arrived // _BYTES_PER_TOKEN)) if self.running else Usage()
