"""/v1/realtime and its aliases: admit, dial, answer, carry.

The handler only ever waits; a session runs in a task of its own, so that a handler which aiohttp cancels (the client hung
up) leaves nothing half done.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

import structlog
from aiohttp import web

from service.access.limits import ConcurrencyLimit
from service.access.policy import AccessPolicy
from service.failures import Blame, Failure, Phase
from service.relay.drain import Drainer
from service.relay.session import Session, SessionInfo, SessionTelemetry
from service.relay.watchdog import SessionLimits
from service.upstream.connector import Connector
from service.upstream.dial import Connected, DialProgress
from service.upstream.dials import DialsInFlight
from service.upstream.target import DialRequest
from service.web import refusals
from service.web.admission import AdmissionControl, Attempt
from service.web.request import Handshake, client_address, parse_handshake, wants_events
from service.wire.seam import ANSWER, answer_client

PATHS: Final = ("/v1/realtime", "/realtime", "/openai/v1/realtime", "/openai/realtime")
TRANSLATION_PATHS: Final = ("/v1/realtime/translations",)


class RealtimeHandler:
    """Where clients come in.

    `on_dial_result` is told how each dial went, since live traffic is the best evidence for the health checks.
    """

    def __init__(
        self,
        policy: AccessPolicy,
        connector: Connector,
        drainer: Drainer,
        dials: DialsInFlight,
        *,
        telemetry: SessionTelemetry,
        session_limits: SessionLimits,
        max_dials: int,
        on_dial_result: Callable[[Failure | None], None],
    ) -> None:
        self._trusted_proxies = policy.trusted_proxies
        self._connector = connector
        self._drainer = drainer
        self._dials_in_flight = dials
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._session_limits = session_limits
        self._on_dial_result = on_dial_result
        self._admission = AdmissionControl(policy, self._metrics, closed=self._closed)
        self._dials = ConcurrencyLimit(max_dials, "relay_full", "dials")
        self._metrics.sessions_limit.set(policy.max_sessions)
        self._metrics.dials_limit.set(max_dials)
        self._metrics.dials_active.set_function(lambda: self._dials.active)
        self._log = structlog.get_logger()

    def routes(self) -> list[web.RouteDef]:
        """The public WebSocket routes."""
        return [
            *(web.get(path, self.conversation, allow_head=False) for path in PATHS),
            *(web.get(path, self.translation, allow_head=False) for path in TRANSLATION_PATHS),
        ]

    async def conversation(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/realtime: conversation, transcription, sideband."""
        return await self._attend(request, translation=False)

    async def translation(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/realtime/translations."""
        return await self._attend(request, translation=True)

    async def _attend(self, request: web.Request, *, translation: bool) -> web.StreamResponse:
        """A bug of ours is told like any failure, and its traceback goes through the redaction, not to the client."""
        attempt = Attempt(secrets.token_hex(8), client_address(request, self._trusted_proxies))
        try:
            return await self._handle(request, attempt, translation=translation)
        except Exception:
            self._log.exception("request.failed", session_id=attempt.session_id)
            if ANSWER in request:
                raise  # too late for an answer; aiohttp closes the socket
            failure = Failure("internal_error")
            self._metrics.count_refusal(failure)
            return refusals.http_response(failure, attempt.session_id)
        finally:
            request.pop(ANSWER, None)  # the answer knows its request: a circle would wait for the garbage collector

    async def _handle(self, request: web.Request, attempt: Attempt, *, translation: bool) -> web.StreamResponse:
        opened = await self._open(request, attempt, translation=translation)
        if not isinstance(opened, asyncio.Task):
            return opened
        # Shielded: when the client hangs up, aiohttp cancels this handler, and the session still has to end well.
        await asyncio.shield(opened)
        return _answered(request)

    async def _open(
        self, request: web.Request, attempt: Attempt, *, translation: bool
    ) -> asyncio.Task[str] | web.StreamResponse:
        """The task of the client's session, or the answer to a client that gets none."""
        handshake: Handshake | None = None
        with ExitStack() as session_slot:
            with ExitStack() as dial_slot:
                try:
                    handshake = parse_handshake(request)
                    route = self._admission.admit(request, attempt, session_slot, translation=translation)
                    dial_slot.enter_context(self._dials.acquire())
                    dial_slot.enter_context(self._dials_in_flight.track())
                except Failure as failure:
                    self._refused(failure, attempt)
                    return await self._say(request, handshake, failure, attempt)
                self._metrics.admissions.labels("admitted").inc()
                try:
                    connected = await self._dial(route, attempt)
                except Failure as failure:
                    dial_slot.close()
                    return await self._say(request, handshake, failure, attempt)
                task = await self._start(request, handshake, connected, attempt)
                if task is None:
                    return _answered(request)
            # The slot is the session's from here on: the handler may be cancelled seconds before the sockets are gone.
            held = session_slot.pop_all()
            task.add_done_callback(lambda _: held.close())
            return task

    def _closed(self) -> str | None:
        """Why nobody comes in now."""
        return "relay_draining" if self._drainer.is_draining else self._connector.key_problem

    async def _dial(self, route: DialRequest, attempt: Attempt) -> Connected:
        """Dial for a client: counted, timed, logged. Raises Failure; CancelledError if the client gave up."""
        progress = DialProgress()
        try:
            connected = await self._dials_in_flight.run(self._connector.dial(route, progress))
        except Failure as failure:
            if failure.reason == "relay_draining":
                self._refused(failure, attempt)
            else:
                self._dial_failed(failure, attempt, progress)
            raise
        except asyncio.CancelledError:
            self._dial_failed(Failure("client_left", _caller_phase(progress.phase)), attempt, progress)
            raise
        self._metrics.observe_dial(progress.seconds)
        waited = time.perf_counter() - attempt.began_at
        self._metrics.time_to_first_event.labels(self._metrics.upstream).observe(waited)
        self._metrics.upstream_connects.labels(self._metrics.upstream, "ok").inc()
        if self._connector.awaits_first_event(route):
            self._on_dial_result(None)
        return connected

    async def _start(
        self, request: web.Request, handshake: Handshake, connected: Connected, attempt: Attempt
    ) -> asyncio.Task[str] | None:
        """Answer the client and run its session; None if it left in the last moment."""
        try:
            client = await answer_client(request, handshake.key, handshake.subprotocol)
        except BaseException as exc:
            # ConnectionError: the client left in the last moment. CancelledError: so did it. Nobody owns the socket yet.
            connected.abort()
            self._log.info("session.abandoned", session_id=attempt.session_id)
            if isinstance(exc, ConnectionError):
                return None
            raise
        session = Session(
            SessionInfo(attempt.session_id, attempt.client, attempt.address, attempt.model),
            client,
            connected,
            limits=self._session_limits,
            instruments=self._telemetry,
            error_event=lambda reason: refusals.ending_event(reason, attempt.session_id),
            drain_event=partial(refusals.draining_event, session_id=attempt.session_id)
            if attempt.wants_draining_event
            else None,
        )
        return self._drainer.sessions.start(session)

    async def _say(
        self, request: web.Request, handshake: Handshake | None, failure: Failure, attempt: Attempt
    ) -> web.StreamResponse:
        if handshake is not None and refusals.is_told_by_event(failure, wanted=wants_events(request)):
            await refusals.tell_by_event(request, handshake, failure, attempt.session_id)
            return _answered(request)
        return refusals.http_response(failure, attempt.session_id)

    def _refused(self, failure: Failure, attempt: Attempt) -> None:
        attempt.is_own_doing = failure.row.blame is Blame.CLIENT
        self._metrics.count_refusal(failure)
        self._tell("admission.refused", failure, attempt)

    def _dial_failed(self, failure: Failure, attempt: Attempt, progress: DialProgress) -> None:
        attempt.is_own_doing = failure.row.blame is Blame.CLIENT
        self._metrics.observe_dial(progress.seconds)
        self._metrics.count_dial_failure(failure)
        self._on_dial_result(failure)
        self._tell("upstream.connect_failed", failure, attempt)

    def _tell(self, event: str, failure: Failure, attempt: Attempt) -> None:
        row = failure.row
        self._log.log(
            row.level,
            event,
            session_id=attempt.session_id,
            reason=failure.reason,
            message=row.sentence,
            remedy=row.remedy,
            runbook=row.runbook,
            blame=row.blame,
            retry=row.retry,
            phase=failure.phase,
            upstream_status=failure.wire_status,
            upstream_code=failure.upstream_code,
            detail=failure.detail,
            client=attempt.client,
            address=attempt.address,
            model=attempt.model,
            upstream=self._metrics.upstream,
        )


def _caller_phase(phase: Phase) -> Phase:
    """`client_left` is counted for the phases that take time; DNS belongs to connecting there."""
    return Phase.CONNECT if phase is Phase.DNS else phase


def _answered(request: web.Request) -> web.StreamResponse:
    """The 101 that was sent; without one, the client was gone before."""
    return request[ANSWER] if ANSWER in request else web.Response(status=499)
