"""Requests that no route serves: counted, logged and answered with a reason of the catalogue."""

import secrets
from contextlib import ExitStack

from aiohttp import web
from aiohttp.abc import AbstractMatchInfo
from aiohttp.web_request import BaseRequest
from multidict import CIMultiDictProxy

from service.access.forwarded import address_block
from service.access.limits import RefusalEventLimit
from service.failures import Failure
from service.telemetry.log_limit import LogLimit
from service.telemetry.metrics import Metrics
from service.web import unserved
from service.web.attempts import AttemptReporter, ConnectionAttempt
from service.web.client_address import ClientAddressReader
from service.web.console_files import WebSocketAtPage
from service.web.host_check import HostRefused
from service.web.refusals import answer_with_error_event, http_response
from service.web.request import asks_for_error_event, parse_handshake
from service.wire.seam import UPGRADE_RESPONSE


class UnservedRequests:
    """Counts and logs what no handler serves, and answers it. Logs at most 5 lines for each reason within 60 s.

    The public listener passes `refusal_events`, the limit on refusals by event. Without it the listener is the internal one:
    nothing is counted, since its requests are no client's, and hints name its paths.
    """

    def __init__(
        self,
        metrics: Metrics,
        addresses: ClientAddressReader,
        refusal_events: RefusalEventLimit | None = None,
    ) -> None:
        self._metrics = metrics
        self._addresses = addresses
        self._refusal_events = refusal_events
        self._reporter = AttemptReporter(metrics, lambda _failure: None)
        self._log_limit = LogLimit()

    def is_trusted_proxy(self, address: str) -> bool:
        """Whether connections from an address carry the requests of others."""
        return self._addresses.is_trusted_proxy(address)

    def client_behind_proxy(self, request: BaseRequest) -> str | None:
        """The address of the client whose request a trusted proxy forwards; None if the request names none."""
        return self._addresses.behind_proxy(request) if isinstance(request.headers, CIMultiDictProxy) else None

    def refuse(self, failure: Failure, request: BaseRequest) -> web.Response:
        """Count and log the failure; return the response, after which the connection is closed."""
        attempt = self._report(failure, request)
        refusal = http_response(failure, attempt.session_id)
        response = _Response(body=refusal.body, status=refusal.status, headers=refusal.headers)
        response.force_close()
        return response

    def failure_of_router(self, request: BaseRequest, refusal: web.HTTPException) -> Failure | None:
        """The failure for a response of aiohttp's router or of `HostCheck`; None for one that a handler raised."""
        if isinstance(refusal, web.HTTPExpectationFailed):
            return unserved.unsupported_expectation()
        if isinstance(refusal, HostRefused):
            return refusal.failure
        if isinstance(refusal, WebSocketAtPage):
            return unserved.path_not_found(request.method, request.path)
        match_info: AbstractMatchInfo | None = request.match_info if isinstance(request, web.Request) else None
        if match_info is None or match_info.http_exception is None:
            return None
        is_internal, is_method = self._refusal_events is None, isinstance(refusal, web.HTTPMethodNotAllowed)
        if is_method and request.path in unserved.CLIENT_SECRET_PATHS and not is_internal:
            return unserved.secret_method_not_allowed(request.method)
        if is_method:
            return unserved.method_not_allowed(request.method, is_internal=is_internal)
        if is_internal:
            return unserved.internal_path_not_found()
        return unserved.path_not_found(request.method, request.path)

    async def answer_with_event(self, request: BaseRequest, failure: Failure) -> web.StreamResponse | None:
        """Answer a WebSocket that asks for an error event with one; return None if it asks for none, or at the limit."""
        if self._refusal_events is None or not isinstance(request, web.Request) or not asks_for_error_event(request):
            return None
        try:
            handshake = parse_handshake(request)
        except Failure:
            return None
        with ExitStack() as slot:
            address = self._addresses.read(request)
            if not slot.enter_context(self._refusal_events.slot(address_block(address))):
                return None
            attempt = self._report(failure, request)
            await answer_with_error_event(request, handshake, failure, attempt.session_id)
        return request.pop(UPGRADE_RESPONSE, None) or web.Response(status=499)  # disconnected: the status is never sent

    def _report(self, failure: Failure, request: BaseRequest) -> ConnectionAttempt:
        # A request that could not be parsed has no headers: its address is the socket's.
        is_parsed = isinstance(request.headers, CIMultiDictProxy)
        address = self._addresses.read(request) if is_parsed else request.remote
        attempt = ConnectionAttempt(secrets.token_hex(8), address or "unknown")
        omitted = self._log_limit.omitted_before(failure.reason)
        if omitted is not None:
            if omitted:
                failure.detail = f"{failure.detail}; {omitted} more since the last line"
            self._reporter.refused(failure, attempt, is_counted=self._refusal_events is not None)
        elif self._refusal_events is not None:
            self._metrics.count_admission_failure(failure)
        return attempt


class _Response(web.Response):
    """A response without `Server`. aiohttp runs no signal for a request that it could not parse."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)
