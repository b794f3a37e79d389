"""The steps `live_start` and `live_close`: a session of GPT-Live of about one second, which is billed. They raise StepFailed.

The session is closed with `session.close`, whatever happens after `session.start`: a socket that just disappears leaves open
until when the provider bills.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from service.deadlines import Deadline
from service.doctor.reply import refused_by_relay, relay_error_in
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure, Phase
from service.realtime import live
from service.realtime.events import ErrorEvent, find_error
from service.realtime.pricing import live_cost_usd, live_model_label
from service.upstream import translate
from service.upstream.stream import EventStream, ProtocolViolation, ServerEvent, StreamClosed

COST: Final = (
    "The steps 'live_start' and 'live_close' open a session of about two seconds, which is billed: about "
    f"{live_cost_usd(live.DEFAULT_MODEL, 2.0, 0.0):.3f} USD on gpt-live-1 and gpt-live-1.1 (list prices of November 2026)."
)
CHUNKS: Final = 10
CHUNK_SECONDS: Final = 0.1
_SILENCE: Final = "A" * 6400  # 100 ms of PCM, 24 kHz, 16 bit, in base64
_CLOSED_SECONDS: Final = 15.0
"""How long the provider may take to finish running work before it reports the end (its documentation)."""
_RELAY_ERROR_SECONDS: Final = 3.0
"""For the relay's own error after the provider's."""
_CLOSE: Final[Mapping[str, object]] = {"type": live.SESSION_CLOSE}


class LiveSession:
    """One session over an open connection, to the provider or through a relay. Close it.

    `explain` turns a failure into that of a step, with the remedies of the peer: provider or relay.
    """

    def __init__(
        self,
        stream: EventStream,
        model: str,
        explain: Callable[[Failure], StepFailed],
        *,
        through_relay: bool = False,
    ) -> None:
        self._through_relay = through_relay
        self._relay_error: Mapping[str, object] | None = None
        self._stream = stream
        self._model = model
        self._explain = explain
        self._is_open = False

    async def start(self, timeout_seconds: float) -> Finding:
        """Send `session.start` and wait for `session.started`: only that proves access, model and credit."""
        self._stream.send({"type": live.SESSION_START, "session": {"model": self._model}})
        self._is_open = True
        try:
            event = await self._next_of({live.SESSION_STARTED, live.SESSION_CLOSED, "error"}, timeout_seconds)
        except TimeoutError:
            raise self._explain(translate.from_timeout(Phase.SESSION_START)) from None
        except ProtocolViolation as violation:
            raise self._explain(Failure("bad_reply", Phase.SESSION_START, detail=violation.reason)) from None
        except StreamClosed as closed:
            failure = translate.from_events(None, closed.code, closed.reason, phase=Phase.SESSION_START)
            raise self._explain(failure) from None
        if event.type != live.SESSION_STARTED:
            raise await self._refused(event)
        session = event.body.get("session")
        model = session.get("model") if isinstance(session, Mapping) else None
        suffix = f", model {model[:80]}" if isinstance(model, str) else ""
        return Finding(f"session ready: {event.type}{suffix}", ["This proves key, access, model and credit together."])

    async def end(self) -> Finding:
        """Send a second of silence and `session.close`, and wait for the final usage."""
        try:
            for _ in range(CHUNKS):
                self._stream.send({"type": live.INPUT_AUDIO, "audio": _SILENCE})
                await self._read_for(CHUNK_SECONDS)
            self._stream.send(_CLOSE)
            event = await self._next_of({live.SESSION_CLOSED}, _CLOSED_SECONDS)
        except TimeoutError:
            raise StepFailed(
                f"No session.closed arrived within {_CLOSED_SECONDS:.0f} s: the usage is unconfirmed.",
                reason="upstream_too_slow",
                remedy="Check the usage page of the provider for what it billed, and https://status.openai.com.",
            ) from None
        except StreamClosed as closed:
            code = f"with code {closed.code}" if closed.code is not None else "without a close code"
            note = f"The connection was closed {code} before session.closed: the usage is unconfirmed."
            if self._relay_error is not None:
                raise refused_by_relay(self._relay_error, note) from None
            raise StepFailed.from_failure(
                Failure("upstream_closed" if closed.code else "upstream_lost"), note
            ) from None
        self._is_open = False
        return _judge_end(event.body, self._model)

    async def close(self) -> None:
        """End the session if it may be open, and close the connection."""
        if self._is_open:
            self._stream.send(_CLOSE)
        await self._stream.close()

    async def _refused(self, event: ServerEvent) -> StepFailed:
        self._is_open = False
        if self._through_relay and self._relay_error is None:
            await self._wait_for_relay_error()
        if self._relay_error is not None:
            return refused_by_relay(self._relay_error, model=self._model)
        refusal = find_error(event.body) or ErrorEvent("", None, "")
        return self._explain(translate.from_events(refusal, None, "", phase=Phase.SESSION_START))

    async def _wait_for_relay_error(self) -> None:
        """Wait for the error that a relay sends after the provider's."""
        with suppress(TimeoutError, StreamClosed):
            async with Deadline(_RELAY_ERROR_SECONDS):
                while self._relay_error is None:
                    await self._next_of({"error"}, _RELAY_ERROR_SECONDS)

    async def _next_of(self, types: set[str], timeout_seconds: float) -> ServerEvent:
        async with Deadline(timeout_seconds):
            while True:
                event = await self._stream.next_event(timeout_seconds)
                if event.type == "error":
                    self._relay_error = relay_error_in(event.body) or self._relay_error
                if event.type in types:
                    return event

    async def _read_for(self, seconds: float) -> None:
        """Read and discard events, so that none accumulate. The session can end meanwhile, which is no request of ours."""
        try:
            event = await self._next_of({live.SESSION_CLOSED}, seconds)
        except TimeoutError:
            return
        self._is_open = False
        shown = _shown_reason(event.body)
        ending = live.ENDING_BY_CLOSED_REASON.get(shown, "upstream_closed")
        failure = Failure("upstream_closed" if ending == "client_closed" else ending)
        raise StepFailed.from_failure(failure, f"session.closed arrived during the silence: {shown}.")


def _shown_reason(body: Mapping[str, object]) -> str:
    reason = body.get("reason")
    return reason if isinstance(reason, str) and reason in live.ENDING_BY_CLOSED_REASON else "an unknown reason"


def _judge_end(body: Mapping[str, object], model: str) -> Finding:
    shown, usage = _shown_reason(body), body.get("usage")
    seconds = usage.get("seconds") if isinstance(usage, Mapping) else None
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
        return Finding(f"session.closed: {shown}; the provider reported no usage", status="warn")
    cost = live_cost_usd(live_model_label(model), seconds, 0.0)
    price = "the price of this model is unknown" if cost is None else f"about {cost:.4f} USD"
    text = f"session.closed: {shown}; {seconds:.1f} s used, {price}"
    return Finding(text, status="ok" if shown == "close_requested" else "warn")
