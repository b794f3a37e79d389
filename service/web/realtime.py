"""GET /v1/realtime and its aliases: admit, dial, answer 101, start the session."""

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from aiohttp import web

from service.access.clients import ClientDirectory
from service.access.forwarded import address_block
from service.access.jwt_verifier import JwtVerifier
from service.access.limits import RefusalEventLimit
from service.access.policy import AccessPolicy
from service.access.secrets import ClientSecrets
from service.failures import Failure, Phase
from service.realtime.incidents import TRANSCRIPTION_COMPLETED
from service.relay.continuity.pool import ContinuityPool
from service.relay.drain import Drainer
from service.relay.reporter import SharedTelemetry
from service.relay.watchdog import SessionLimits
from service.store.interface import Store
from service.upstream.connector import UpstreamConnector
from service.upstream.dial import DialProgress, UpstreamConnection
from service.upstream.dials import DialsInFlight
from service.upstream.target import DialRequest, Endpoint
from service.web import live, refusals
from service.web.admission import AdmissionControl
from service.web.attempts import AttemptReporter, ConnectionAttempt
from service.web.client_address import ClientAddressReader
from service.web.client_dialler import ClientDialler
from service.web.client_secrets import ClientSecretHandler
from service.web.continuity import continuity_header, with_continuity
from service.web.places import ClientPlaces, DialSlots
from service.web.request import OpeningHandshake, asks_for_error_event, parse_handshake, wants_error_event
from service.web.session_factory import SessionFactory, budgets_for
from service.web.unserved import REALTIME_PATHS
from service.wire.seam import UPGRADE_RESPONSE, answer_client

TRANSLATION_PATHS: Final = ("/v1/realtime/translations",)
_CLIENT_CLOSED_REQUEST: Final = 499
_BUDGET_TYPES: Final = frozenset({TRANSCRIPTION_COMPLETED})


class RealtimeHandler:
    """Handles WebSocket upgrade requests: each gets a session, or a refusal that names its reason.

    * Ordering: handshake, admission, limit on dials, dial, 101, session. The dial precedes the 101, because no HTTP status
      can be sent after it. A client that gets a 101 has an upstream that has sent its first event, where one is required.
    * Cancellation: aiohttp cancels a handler when its client disconnects. A dial is cancelled with it and counted as
      `client_left`, or as the refusal that the provider has begun to send. An upstream that has just connected is aborted,
      and logged as `session.abandoned`. The session's task is shielded, because it still has to close upstream.
    * Errors: an unexpected exception before the 101 is answered with `internal_error` (500). After the 101 it is raised, and
      aiohttp closes the socket. Both are logged as `request.failed`.
    * Ownership: the handler owns the upstream socket from the dial until the session's task is created. A dial's slot is
      held from admission to the 101, a session's slot until its task ends.

    `store` has the limits that instances share; `store_refusal` returns the failure with which every client is refused while
    it fails, or None. `jwt` is None where no clients file can name an issuer, `continuity` where no session has any.
    """

    def __init__(
        self,
        policy: AccessPolicy,
        connector: UpstreamConnector,
        drainer: Drainer,
        dials: DialsInFlight,
        *,
        reporter: AttemptReporter,
        telemetry: SharedTelemetry,
        session_limits: SessionLimits,
        max_dials: int,
        clients: ClientDirectory,
        store: Store,
        jwt: JwtVerifier | None = None,
        store_refusal: Callable[[], Failure | None] = lambda: None,
        continuity: ContinuityPool | None = None,
    ) -> None:
        self.addresses = ClientAddressReader(policy.trusted_proxies)
        self.refusal_events = RefusalEventLimit(asyncio.get_running_loop().time)
        self.dial_slots = DialSlots(max_dials, dials, telemetry.metrics)
        self._connector = connector
        self._dialler = ClientDialler(connector, dials)
        self._drainer = drainer
        self._store_refusal = store_refusal
        self._reporter = reporter
        self._metrics = telemetry.metrics
        self._metrics.sessions_limit.set(policy.max_sessions)
        sessions, client_secrets = drainer.sessions, ClientSecrets(store, clients)
        self._admission = AdmissionControl(
            policy,
            clients,
            self._metrics,
            refusal=self._refusal,
            probe_client=sessions.probe_client,
            jwt=jwt,
            client_secrets=client_secrets,
        )
        self._places = ClientPlaces(store, probe_client=sessions.probe_client, end_session=sessions.end)
        self._client_secrets = ClientSecretHandler(
            self._admission, client_secrets, reporter, self._metrics, self.addresses
        )
        self._continuity = continuity
        self._factory = SessionFactory(
            store, telemetry=telemetry, limits=session_limits, must_end=clients.must_end, continuity=continuity
        )
        self._live = live.LiveSessions(
            connector, drainer, dials, reporter=reporter, telemetry=telemetry, limits=session_limits, store=store
        )

    def routes(self) -> list[web.RouteDef]:
        """Return the public routes of the APIs."""
        return [
            *self._client_secrets.routes(),
            *(web.get(path, self.conversation, allow_head=False) for path in REALTIME_PATHS),
            *(web.get(path, self.translation, allow_head=False) for path in TRANSLATION_PATHS),
            *(web.get(path, self.live, allow_head=False) for path in live.PATHS),
            *(web.get(path, self.attach, allow_head=False) for path in live.ATTACH_PATHS),
        ]

    async def conversation(self, request: web.Request) -> web.StreamResponse:
        """Handle GET /v1/realtime: conversation, transcription and sideband sockets."""
        return await self._serve(request, "realtime")

    async def translation(self, request: web.Request) -> web.StreamResponse:
        """Handle GET /v1/realtime/translations."""
        return await self._serve(request, "translation")

    async def live(self, request: web.Request) -> web.StreamResponse:
        """Handle GET /v1/live/sessions."""
        return await self._serve(request, "live")

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """Handle GET /v1/live/sessions/{session}/attach: the sideband of a GPT-Live session."""
        return await self._serve(request, "attach")

    async def _serve(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Report an unexpected exception like any other failure; its traceback goes to the log, never to the client."""
        attempt = ConnectionAttempt(
            secrets.token_hex(8), self.addresses.read(request), is_live_start=endpoint == "live"
        )
        try:
            return await self._run_session(request, attempt, endpoint)
        except Exception:
            self._reporter.failed(attempt)
            if UPGRADE_RESPONSE in request:
                raise  # the 101 has been sent; aiohttp closes the socket
            failure = Failure("internal_error")
            self._metrics.count_admission_failure(failure)
            return refusals.http_response(failure, attempt.session_id)
        finally:
            # The response refers to its request; this cycle would wait for the garbage collector.
            request.pop(UPGRADE_RESPONSE, None)

    async def _run_session(
        self, request: web.Request, attempt: ConnectionAttempt, endpoint: Endpoint
    ) -> web.StreamResponse:
        outcome = await self._admit_and_dial(request, attempt, endpoint)
        if not isinstance(outcome, asyncio.Task):
            return outcome
        # Shielded: aiohttp cancels this handler when the client disconnects, and the session still has to close upstream.
        await asyncio.shield(outcome)
        return _sent_response(request)

    async def _admit_and_dial(
        self, request: web.Request, attempt: ConnectionAttempt, endpoint: Endpoint
    ) -> asyncio.Task[str] | web.StreamResponse:
        """Return the task of the client's session, or the response to a client that gets none."""
        handshake: OpeningHandshake | None = None
        with ExitStack() as session_slot:
            with ExitStack() as dial_slot:
                try:
                    handshake = parse_handshake(request)
                    async with self._admission.prepared(request, attempt):
                        dial_request = self._admission.admit(request, attempt, session_slot, endpoint)
                        dial_request = with_continuity(request, attempt, dial_request, self._continuity)
                        attempt.budgets = budgets_for(attempt.identity)
                        if attempt.budgets is not None:
                            further = dial_request.further_types | _BUDGET_TYPES
                            dial_request = dataclasses.replace(dial_request, further_types=further)
                        await self._places.take(attempt, session_slot)
                        self.dial_slots.take(attempt.limited_as, dial_slot)
                        await self._admission.redeem(attempt)  # last: a refused client can connect again
                except Failure as failure:
                    self._reporter.refused(failure, attempt)
                    session_slot.close()  # a refused client holds no place during its closing handshake
                    return await self._send_refusal(request, handshake, failure, attempt)
                except asyncio.CancelledError:  # the client left while the store was asked
                    self._reporter.abandoned(attempt)
                    raise
                self._reporter.admitted()
                try:
                    connected = await self._dial(dial_request, attempt)
                except Failure as failure:
                    dial_slot.close()
                    session_slot.close()
                    return await self._send_refusal(request, handshake, failure, attempt)
                task = await self._start(request, handshake, connected, attempt, dial_request)
                attempt.secret = None  # up to 64 KiB, which the session needs no more
                if task is None:
                    return _sent_response(request)
            # From here on the session holds the slot: the handler may be cancelled seconds before the sockets are closed.
            held = session_slot.pop_all()
            task.add_done_callback(lambda _: held.close())
            return task

    def _refusal(self) -> Failure | None:
        if self._drainer.is_draining:
            return Failure("relay_draining")
        problem = self._connector.key_problem
        return problem.failure() if problem is not None else self._store_refusal()

    async def _dial(self, dial_request: DialRequest, attempt: ConnectionAttempt) -> UpstreamConnection:
        """Dial and report the result. Raises Failure, or CancelledError if the client disconnected meanwhile."""
        progress = DialProgress()
        try:
            connected = await self._dialler.dial_for(dial_request, progress, attempt)
        except Failure as failure:
            if failure.reason == "relay_draining":
                self._reporter.refused(failure, attempt)
            else:
                self._reporter.dial_failed(failure, attempt, progress)
                if self._connector.breaker.is_provoked(
                    failure, self._connector.witness(attempt.limited_as, dial_request, attempt.identity.user)
                ):
                    attempt.counts_as_reconnect = True
            raise
        except asyncio.CancelledError:
            left = progress.refusal or Failure("client_left", _phase_left_in(progress))
            self._reporter.dial_failed(left, attempt, progress)
            raise
        if dial_request.endpoint == "live":
            self._reporter.connected_to_live(progress)
        else:
            awaited = self._connector.awaits_first_event(dial_request)
            self._reporter.dial_succeeded(attempt, progress, awaited_first_event=awaited)
        return connected

    async def _start(
        self,
        request: web.Request,
        handshake: OpeningHandshake,
        connected: UpstreamConnection,
        attempt: ConnectionAttempt,
        dial_request: DialRequest,
    ) -> asyncio.Task[str] | None:
        """Answer 101 and start the session's task; return None if the client has disconnected."""
        try:
            client = await answer_client(request, handshake.key, handshake.subprotocol, continuity_header(attempt))
        except BaseException as exc:
            # ConnectionError and CancelledError both mean that the client has disconnected. No session owns the upstream
            # socket yet, so it has to be closed here.
            connected.abort()
            self._reporter.abandoned(attempt)
            if isinstance(exc, ConnectionError):
                return None
            raise
        redial = partial(self._dialler.dial_again, dial_request, attempt)
        new_session = partial(self._factory.session, client, connected, attempt, dial_request, redial=redial)
        match dial_request.endpoint:
            case "live":
                return self._live.start(client, connected, attempt, new_session)
            case "attach":
                return self._drainer.sessions.start(self._live.sideband(attempt, new_session))
            case _:
                return self._drainer.sessions.start(self._factory.realtime_session(attempt, new_session))

    async def _send_refusal(
        self, request: web.Request, handshake: OpeningHandshake | None, failure: Failure, attempt: ConnectionAttempt
    ) -> web.StreamResponse:
        """Refuse with an error event and a close code where the client gets one, else with an HTTP status.

        A refusal of token, origin or rate is an event only on request, and only within `RefusalEventLimit`: any client can
        cause it, and it keeps a socket open for the closing handshake.
        """
        with ExitStack() as event_slot:
            if handshake is None or not self._is_sent_as_event(request, failure, attempt, event_slot):
                return refusals.http_response(failure, attempt.session_id)
            await refusals.answer_with_error_event(request, handshake, failure, attempt.session_id)
            return _sent_response(request)

    def _is_sent_as_event(
        self, request: web.Request, failure: Failure, attempt: ConnectionAttempt, event_slot: ExitStack
    ) -> bool:
        if failure.row.close_code is not None:
            return wants_error_event(request)
        return (
            failure.row.event_close_code is not None
            and asks_for_error_event(request)
            and event_slot.enter_context(self.refusal_events.slot(address_block(attempt.address)))
        )


def _phase_left_in(progress: DialProgress) -> Phase:
    """The phase label of `client_left`. DNS counts as connect: `client_left` has no series for the phase dns."""
    return Phase.CONNECT if progress.phase is Phase.DNS else progress.phase


def _sent_response(request: web.Request) -> web.StreamResponse:
    """The 101 that was sent; 499 if the client disconnected before it, which is for aiohttp only and is never sent."""
    return request[UPGRADE_RESPONSE] if UPGRADE_RESPONSE in request else web.Response(status=_CLIENT_CLOSED_REQUEST)
