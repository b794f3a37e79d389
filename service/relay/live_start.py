"""The start of a GPT-Live session: from the client's 101 to the provider's `session.started`.

In GPT-Live the client speaks first, and the provider refuses key, credit, access and model after its 101. So a session exists
once `session.started` has arrived; until then everything that goes wrong is a failed connection.

* Order: the client's `session.start` is read whole and checked before a byte of it is sent upstream, unchanged. What the
  client sends after it is kept and forwarded after `session.started`, because the provider discards earlier audio.
* A start is never repeated: it would be a second session, with a second bill.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Final

from service.deadlines import Deadline, DeadlineTimer
from service.failures import Failure, Phase
from service.realtime.frames import Opcode
from service.realtime.live import SESSION_START, SESSION_STARTED, SESSION_UPDATE
from service.realtime.live_start import InvalidStart, RequestedModels, parse_start
from service.realtime.pricing import OTHER, live_model_label
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Item, Message
from service.realtime.scanner_strict import MAX_CLIENT_EVENT_BYTES, StrictScanner
from service.relay.live_call import SETTLE_SECONDS, settle
from service.relay.start_reader import ByteBudget, StartReader, invalid_start
from service.relay.watchdog import ClientProber, Lapse, SessionLimits
from service.upstream.dial import UpstreamConnection
from service.upstream.first_event import FirstEventReader
from service.wire.leg import Leg

REPLY_SECONDS: Final = 30.0
"""Upper bound on the time from `session.start` to `session.started`, which takes 0.3 to 1.3 seconds."""
_PING_SECONDS: Final = 20.0
"""Load balancers close a connection that is idle for 60 s."""
_POLL_SECONDS: Final = 0.5
"""A client that is not read is asked at this interval whether it is connected."""
_CLOSE_SECONDS: Final = 2.0
"""Upper bound on closing both sides of a session that has not started."""


@dataclass(frozen=True, slots=True)
class StartPolicy:
    """What a start may ask for. `allowed_models` is empty if every model is allowed. `permit` is entered with the model."""

    allowed_models: frozenset[str]
    limits: SessionLimits
    permit: Callable[[str], AbstractContextManager[object]] = nullcontext
    model_hint: str | None = None  # the remedy for a model that is not allowed, in place of the catalogue's
    unpriced_hint: str | None = None  # the remedy for one without a known price; None if those are allowed
    is_user_named: bool = False  # by the relay: the client could name another user

    @property
    def reads_updates(self) -> bool:
        """Whether models are checked in `session.update` as well: then no event may hide its type."""
        return bool(self.allowed_models) or self.unpriced_hint is not None

    def scanner(self) -> Scanner:
        """A scanner of the client's bytes."""
        if self.reads_updates:
            return StrictScanner(
                max_message_bytes=self.limits.max_message_bytes, parsed_types=frozenset({SESSION_START, SESSION_UPDATE})
            )
        return Scanner(
            masked=True,
            max_message_bytes=self.limits.max_message_bytes,
            parsed_types=frozenset({SESSION_START}),
            max_event_bytes=MAX_CLIENT_EVENT_BYTES,
        )

    def check(self, requested: RequestedModels) -> None:
        """Raise Failure: model_refused for a model that is not allowed, start_invalid for the name of another user."""
        if self.is_user_named and requested.names_user:
            raise invalid_start(_NAMES_USER)
        refused = [model for model in requested.all if self.allowed_models and model not in self.allowed_models]
        if refused:
            is_backend = refused[0] in requested.backends
            raise Failure(
                "model_refused",
                Phase.SESSION_START,
                detail=f"the model of {'session.delegation or session.triggers' if is_backend else 'session.model'}",
                hint=self.model_hint or (_BACKEND_HINT if is_backend else None),
            )
        if self.unpriced_hint is not None and (
            requested.backends or (requested.model and live_model_label(requested.model) == OTHER)
        ):
            raise Failure(
                "model_refused",
                Phase.SESSION_START,
                detail="the price of a model is unknown, and the client has a budget in USD",
                hint=self.unpriced_hint,
            )


_BACKEND_HINT: Final = (
    "Request a model that RELAY_ALLOWED_MODELS lists in session.delegation and session.triggers as well, or add the model to "
    "RELAY_ALLOWED_MODELS and restart the relay."
)


_NAMES_USER: Final = InvalidStart(
    "session.start has safety_identifier",
    "Leave session.safety_identifier out: the relay names the user of the client's token",
)


class LiveStart:
    """Starts one GPT-Live session.

    `run` returns once the session has started: both legs then have more to deliver, which their next receivers get. It raises
    Failure, or CancelledError. `refusal` is the payload of the provider's `error` event, if that is why. After a failure the
    caller owns both legs and awaits `abandon`.
    """

    def __init__(
        self,
        client: Leg,
        connected: UpstreamConnection,
        policy: StartPolicy,
        budget: ByteBudget,
        *,
        limited_as: str,
    ) -> None:
        self._client = client
        self._connected = connected
        self._policy = policy
        self.scanner = policy.scanner()
        self._reader = StartReader(client, self.scanner, budget, limited_as)
        self._answer = FirstEventReader(
            connected.leg, connected.scanner, phase=Phase.SESSION_START, awaited_type=SESSION_STARTED
        )
        self._sent_at: float | None = None
        self.open_seconds = 0.0  # from the start that was sent to the failure
        self._prober = ClientProber(client)
        self._probe_timer: DeadlineTimer | None = None
        self._over_by: float | None = None  # after a failure
        self.requested = RequestedModels(None)
        self.start_seconds = 0.0

    @property
    def client_items(self) -> list[Item]:
        """What the client sent after its start; the list grows until the client's leg has another receiver."""
        return self._reader.items

    @property
    def refusal(self) -> bytes | None:
        """The payload of the provider's `error` event."""
        return self._answer.refusal

    async def run(self) -> None:
        """Wait for the client's start, send it, and wait for the provider's answer. `connected.items` then holds that."""
        self._connected.leg.start(self._answer)
        self._client.start(self._reader)
        try:
            async with self._refusal_first():
                message = await self._read_start()
            self._policy.check(self.requested)
            with self._policy.permit(self.requested.model or ""):
                async with self._refusal_first():
                    await self._send(message)
        except Failure:
            self._reader.answer_close()
            raise
        finally:
            if self._probe_timer is not None:
                self._probe_timer.cancel()
            self._reader.give_back()
            for future in (self._reader.start, self._answer.items):
                if not future.cancel():
                    future.exception()  # retrieved, so that asyncio does not report it

    def probe_client(self) -> Lapse | None:
        """See `Session.probe_client`. A client that does not answer the ping has left."""
        now, limits = asyncio.get_running_loop().time(), self._policy.limits
        if self._over_by is not None:
            return Lapse(max(0.0, self._over_by - now), is_ending=True)
        seconds = self._prober.probe(now, limits)
        if seconds is None:
            return None
        if self._probe_timer is None or not self._probe_timer.is_pending:
            self._probe_timer = DeadlineTimer(limits.probe_seconds, self._end_if_probe_failed)
        return Lapse(seconds + (SETTLE_SECONDS if self.may_be_billed else 0.0) + _CLOSE_SECONDS)

    def _end_if_probe_failed(self) -> None:
        if self._prober.has_failed(asyncio.get_running_loop().time(), self._policy.limits):
            self._client.abort()
            self._reader.peer_lost()

    @asynccontextmanager
    async def _refusal_first(self) -> AsyncIterator[None]:
        """What a client does between the provider's `error` and its close frame is not why its session does not start."""
        try:
            yield
        except Failure:
            if self._answer.refusal is None:
                raise
            await asyncio.wait((self._answer.items,), timeout=REPLY_SECONDS)  # in fact CLOSE_AFTER_ERROR_SECONDS
            if not self._answer.items.done():
                raise
            raise _at_start(self._answer.items.exception()) from None

    async def _read_start(self) -> Message:
        try:
            async with Deadline(self._policy.limits.live_start_seconds):
                await self._wait_for_start()
        except TimeoutError:
            raise Failure("start_timeout", Phase.SESSION_START) from None
        message = self._reader.start.result()
        try:
            self.requested = parse_start(message.payload, is_text=message.raw[0] & 0x0F == Opcode.TEXT)
        except InvalidStart as invalid:
            raise invalid_start(invalid) from None
        if self.requested.model is None:
            raise Failure("model_missing", Phase.SESSION_START, hint=_MODEL_HINT)
        return message

    async def _wait_for_start(self) -> None:
        answer, start = self._answer.items, self._reader.start
        while not start.done():
            await asyncio.wait((answer, start), timeout=_PING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                raise _at_start(answer.exception())
            if not start.done():
                for leg in (self._client, self._connected.leg):
                    leg.send_control(Opcode.PING, b"")

    async def _send(self, message: Message) -> None:
        loop = asyncio.get_running_loop()
        if self._reader.left.done():
            raise self._reader.left.result()
        self._connected.leg.write(message.raw)
        self._sent_at = sent_at = loop.time()
        try:
            async with Deadline(REPLY_SECONDS):
                await self._wait_for_reply()
        except TimeoutError:
            raise Failure("first_event_timeout", Phase.SESSION_START) from None
        if (problem := self._answer.items.exception()) is not None:
            raise _at_start(problem)
        self._connected.items = self._answer.items.result()
        self.start_seconds = loop.time() - sent_at

    async def _wait_for_reply(self) -> None:
        while not self._answer.items.done():
            if self._reader.left.done():
                raise self._reader.left.result()
            if self._client.held_since is not None and self._client.peer_disconnected():
                raise Failure("client_left", Phase.SESSION_START)
            await asyncio.wait(
                (self._answer.items, self._reader.left), timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )

    @property
    def may_be_billed(self) -> bool:
        """Whether a session may exist upstream: the start was sent, and not refused."""
        return self._sent_at is not None and self.refusal is None

    async def abandon(self, seconds: float, on_event: Callable[[Message], object]) -> None:
        """After a failure: close the session upstream if it may exist, and the connection. If cancelled, abort it.

        `on_event` is called with what the provider still reports.
        """
        now = asyncio.get_running_loop().time()
        self.open_seconds = now - self._sent_at if self._sent_at is not None else 0.0
        self._over_by = now + (seconds if self.may_be_billed else 0.0) + _CLOSE_SECONDS
        try:
            with suppress(Exception):
                if self.may_be_billed:
                    await settle(self._connected, now + seconds, on_event)
                await self._connected.close()
        finally:
            self._connected.abort()


def _at_start(problem: BaseException | None) -> Failure:
    """Why the provider's answer, which arrived too early or reports a failure, ends the start."""
    if isinstance(problem, Failure):
        return problem
    return Failure("bad_reply", Phase.SESSION_START, detail="session.started before session.start")


_MODEL_HINT: Final = 'Set session.model in session.start, for example "gpt-live-1".'
