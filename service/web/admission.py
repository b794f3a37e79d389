"""Admission: every check of a request that needs no upstream connection, in a fixed order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Final

import structlog
from aiohttp import web

from service.access.clients import OPEN_ACCESS_CLIENT, Client, ClientDirectory, Identity
from service.access.forwarded import address_block
from service.access.jwt_verifier import JwtVerifier
from service.access.limits import ConcurrencyLimit, PerClientConcurrencyLimit, explain_lapse
from service.access.origins import OriginPolicy
from service.access.policy import AccessPolicy
from service.access.reconnects import ReconnectLimiter
from service.access.secrets import ClientSecrets, explain_foreign, is_client_secret
from service.failures import CATALOGUE, Failure
from service.realtime.names import host_of, is_loopback
from service.relay.watchdog import Lapse
from service.telemetry.metrics import Metrics
from service.upstream.target import DialRequest, Endpoint
from service.web.attempts import ConnectionAttempt
from service.web.client_rules import (
    check_api,
    check_price,
    for_client_secret,
    key_of,
    limit_setting,
    model_hint,
    origin_place,
    with_policy,
    with_safety_identifier,
)
from service.web.request import (
    explain_missing_token,
    header_token,
    parse_dial_request,
    parse_token,
    wants_budget_event,
    wants_draining_event,
)

NOTICE: Final = web.RequestKey("notice", str)
"""The value of the response header `Relay-Notice`, which goes with every response to the request, whatever its status."""
INVALID_TOKENS_PER_MINUTE: Final = 60
"""Per address. Further invalid tokens are answered 429 instead of 401; a valid token is still accepted."""
_INVALID_TOKEN: Final = "invalid token"  # noqa: S105 - a key of the limiter, in place of a client's name
_LIMITED: Final = frozenset({"token_invalid", "token_expired", "token_not_yet_valid", "secret_used", "secret_expired"})
"""Not a missing token, which is no guess."""


class AdmissionControl:
    """Checks a request in this order. The first check that fails gives the reason of the refusal.

    1. The origin, unless the next check finds a valid token in a header, which proves that the client is no web page.
    2. The client token, and the number of invalid tokens from the address.
    3. The client's rate of reconnects.
    4. The API, the query, the model in it, and whether the client's policy applies to such a session.
    5. The state of the relay: `refusal` returns the failure with which it refuses every client at present, or None.
    6. The limit on the client's sessions, then the limit on all sessions. At the first,
       `probe_client` pings the client on its sessions and returns the seconds within which one of them ends if it is dead.
       At the second it does not: one client's request must not shorten the sessions of others.

    `RealtimeHandler` checks the opening handshake before this; after it `ClientPlaces`, which has the limits of a client of
    the clients file in place of the first limit above, then the limit on dials, then `redeem`. `jwt` is None where no clients
    file can name the issuer of a JWT, `client_secrets` where there is no store. All of it happens within `prepared`; `admit`
    waits for nothing.
    """

    def __init__(
        self,
        policy: AccessPolicy,
        clients: ClientDirectory,
        metrics: Metrics,
        *,
        refusal: Callable[[], Failure | None],
        probe_client: Callable[[str], Lapse | None],
        jwt: JwtVerifier | None = None,
        client_secrets: ClientSecrets | None = None,
    ) -> None:
        clock = asyncio.get_running_loop().time
        self._clock = clock
        self._policy = policy
        self._metrics = metrics
        self._refusal = refusal
        self._probe_client = probe_client
        self._clients = clients
        self._jwt = jwt
        self._secrets = client_secrets
        self._secrets_used = metrics.tokens.client_secrets.labels("used")
        self._authenticator = jwt or clients
        self._session_limit = ConcurrencyLimit(policy.max_sessions, "relay_full", "sessions")
        self._client_session_limit = PerClientConcurrencyLimit(policy.max_sessions_per_client, "too_many_sessions")
        self._reconnects = ReconnectLimiter(policy.max_reconnects_per_minute, clock)
        self._invalid_tokens = ReconnectLimiter(INVALID_TOKENS_PER_MINUTE, clock)
        self._proxy_reported = False
        self._log = structlog.get_logger()

    @asynccontextmanager
    async def prepared(self, request: web.Request, attempt: ConnectionAttempt) -> AsyncIterator[None]:
        """Wait for what the client's credential needs: the keys of its JWT, or what the store has of its secret.

        Other requests with the same client secret wait until the context ends.
        """
        async with AsyncExitStack() as turn:
            await self._prepare(request, attempt, turn)
            yield

    async def _prepare(self, request: web.Request, attempt: ConnectionAttempt, turn: AsyncExitStack) -> None:
        try:
            token = parse_token(request)
        except Failure:  # `identify` finds it again, in its order
            return
        if self._secrets is not None and token is not None and is_client_secret(token):
            await turn.enter_async_context(self._secrets.turn(token))
            try:
                attempt.secret = await self._secrets.read(token)
            except Failure as refusal:
                refusal.forget_frames()  # which refer to the attempt
                attempt.secret_refusal = refusal
        elif self._jwt is not None:
            await self._jwt.prepare(token)

    async def redeem(self, attempt: ConnectionAttempt) -> None:
        """Use up the client secret of an attempt that is admitted; raises Failure if another request has done so."""
        if self._secrets is not None and attempt.secret is not None:
            await self._secrets.redeem(attempt.secret)
            self._secrets_used.inc()

    def admit(
        self, request: web.Request, attempt: ConnectionAttempt, slot: ExitStack, endpoint: Endpoint
    ) -> DialRequest:
        """Return what to dial for the client. Raises Failure, with the reason of the first check that refuses.

        Fills in `attempt` as far as the checks get. `slot` holds the client's places in all limits until it is closed.
        """
        client = self.identify(request, attempt).client
        self._warn_of_proxy(request, attempt)
        slot.enter_context(self._track_reconnects(request, attempt))
        if endpoint in {"live", "attach"} and not self._policy.live:
            raise Failure("live_disabled")
        check_api(client, endpoint)
        dial_request = parse_dial_request(
            request,
            endpoint,
            allowed_models=client.models,
            model_hint=model_hint(client),
            bound=attempt.bound_session,
        )
        if attempt.secret is not None:
            dial_request = for_client_secret(dial_request, attempt.secret)
        dial_request = with_safety_identifier(dial_request, attempt.identity, attempt.secret, self._policy.safety_key)
        check_price(attempt.identity, dial_request)
        dial_request = with_policy(client, dial_request)
        attempt.model = dict(dial_request.query).get("model")
        attempt.wants_draining_event = wants_draining_event(request, default=self._policy.draining_event)
        attempt.wants_budget_event = wants_budget_event(request)
        self.check_state()
        self._acquire_client_slot(attempt.limited_as, client, slot)
        slot.enter_context(self._session_limit.acquire())
        return dial_request

    def identify(self, request: web.Request, attempt: ConnectionAttempt) -> Identity:
        """Return whose request it is, the first two checks. Raises Failure; called within `prepared`."""
        origins = request.headers.getall("Origin", [])
        is_page = self._clients.is_open or header_token(request) is None
        if is_page:  # before the token: a page that no client allows learns nothing about tokens
            OriginPolicy(self._clients.origins, origin_place(self._clients)).check(origins)
        identity = self._authenticate(request, attempt)
        if is_page and identity.client.is_from_file:
            OriginPolicy(identity.client.origins, key_of(identity.client, "origins")).check(origins)
        return identity

    def check_state(self) -> None:
        """Raise the failure with which the relay refuses every client at present."""
        refusal = self._refusal()
        try:
            if refusal is not None:
                raise refusal
        finally:
            del refusal  # its traceback refers to this frame: the cycle would wait for the garbage collector

    def _acquire_client_slot(self, limited_as: str, client: Client, slot: ExitStack) -> None:
        if client.is_from_file:
            return
        try:
            slot.enter_context(self._client_session_limit.acquire(limited_as, client.limits.max_sessions or 0))
        except Failure as refusal:
            lapse = self._probe_client(limited_as)
            if lapse is not None:
                explain_lapse(refusal, lapse.seconds, limit_setting(client), is_ending=lapse.is_ending)
            raise

    def _warn_of_proxy(self, request: web.Request, attempt: ConnectionAttempt) -> None:
        """Log, once, that open access meant for this machine is reachable through a proxy."""
        if self._proxy_reported or attempt.client != OPEN_ACCESS_CLIENT or self._policy.open_anywhere:
            return
        # Not request.host: aiohttp resolves the machine's own name where the header is missing.
        host = request.headers.get("Host", "")
        is_foreign = bool(host) and not is_loopback(host_of(host) or "")
        if is_foreign or {"X-Forwarded-For", "Forwarded"} & request.headers.keys():
            self._proxy_reported = True
            self._log.warning(
                "access.open_behind_proxy",
                message="A request came through a proxy while access is open: every client of the proxy can spend the "
                "provider's credit.",
                remedy="Set RELAY_ACCESS=tokens and RELAY_CLIENT_TOKENS, and list the proxy in RELAY_TRUSTED_PROXIES.",
            )

    def _authenticate(self, request: web.Request, attempt: ConnectionAttempt) -> Identity:
        token = parse_token(request)
        refusal, attempt.secret_refusal = attempt.secret_refusal, None
        try:
            if refusal is not None:
                raise refusal
            attempt.identity = (
                attempt.secret.identity if attempt.secret is not None else self._authenticator.authenticate(token)
            )
        except Failure as failure:
            explain_foreign(failure, token)
            explain_missing_token(failure, request)
            if failure.reason in _LIMITED:
                self._limit_invalid_tokens(attempt)
            raise
        finally:
            del refusal
        return attempt.identity

    def _limit_invalid_tokens(self, attempt: ConnectionAttempt) -> None:
        """Raise Failure with too_many_connects for an address that is guessing tokens."""
        guesser = (_INVALID_TOKEN, address_block(attempt.address))
        try:
            self._invalid_tokens.admit(guesser)
        except Failure as flood:
            flood.detail = "too many invalid tokens from this address"
            raise
        self._report_loop(self._invalid_tokens.record_end(guesser, 0), attempt)

    @contextmanager
    def _track_reconnects(self, request: web.Request, attempt: ConnectionAttempt) -> Iterator[None]:
        """Check the client's reconnect rate, and record the attempt when it ends: after a refusal or a whole session."""
        client = (attempt.client, address_block(attempt.address))
        if self._reconnects.admit(client):
            request[NOTICE] = "too_many_connects"
        started = self._clock()
        try:
            yield
        finally:
            if attempt.counts_as_reconnect:
                self._report_loop(self._reconnects.record_end(client, self._clock() - started), attempt)

    def _report_loop(self, short_attempts: int | None, attempt: ConnectionAttempt) -> None:
        if short_attempts is None:
            return
        self._metrics.reconnect_loops.inc()
        row = CATALOGUE["too_many_connects"]
        self._log.warning(
            "client.reconnects_noticed",
            reason=row.reason,
            message=row.sentence,
            remedy=row.operator_action,
            client=attempt.client,
            address=attempt.address,
            short_sessions=short_attempts,
        )
