"""Who comes in: everything that can be refused without asking the provider, in the order in which it is asked."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from service.access.limits import ConcurrencyLimit, PerClientLimit
from service.access.origins import OriginPolicy
from service.access.policy import AccessPolicy
from service.access.reconnects import ReconnectLimiter
from service.access.tokens import ANYBODY, TokenAuthenticator
from service.failures import CATALOGUE, Failure
from service.realtime.names import is_loopback
from service.telemetry.metrics import Metrics
from service.upstream.target import DialRequest
from service.web.request import parse_route, parse_token, wants_draining_event

NOTICE: Final = web.RequestKey("notice", str)
"""Where a request keeps what its client is told in the header `Relay-Notice`, whatever it is answered."""
WRONG_TOKENS_A_MINUTE: Final = 60
_STRANGER: Final = "stranger"


@dataclass(slots=True)
class Attempt:
    """What is known of one client's request so far; the log line and the metrics are made from it."""

    session_id: str
    address: str
    client: str = "unknown"
    model: str | None = None
    began_at: float = field(default_factory=time.perf_counter)  # uvloop's own time counts whole milliseconds
    wants_draining_event: bool = False
    is_own_doing: bool = True  # whatever ends it; an outage of the provider's is not counted against its callers


class AdmissionControl:
    """Origins, tokens, models, and how much at once and how often.

    `closed` yields the reason for which nobody comes in now, or None.
    """

    def __init__(self, policy: AccessPolicy, metrics: Metrics, *, closed: Callable[[], str | None]) -> None:
        clock = asyncio.get_running_loop().time
        self._clock = clock
        self._policy = policy
        self._metrics = metrics
        self._closed = closed
        self._tokens = TokenAuthenticator(policy.mode, policy.client_tokens)
        self._origins = OriginPolicy(policy.allowed_origins)
        self._sessions = ConcurrencyLimit(policy.max_sessions, "relay_full", "sessions")
        self._sessions_of = PerClientLimit(policy.max_sessions_per_client, "too_many_sessions")
        self._reconnects = ReconnectLimiter(policy.max_reconnects_per_minute, clock)
        self._strangers = ReconnectLimiter(WRONG_TOKENS_A_MINUTE, clock)
        self._told_of_proxy = False
        self._log = structlog.get_logger()

    def admit(self, request: web.Request, attempt: Attempt, slot: ExitStack, *, translation: bool) -> DialRequest:
        """Let a client in, holding its place until `slot` is closed; raises Failure."""
        self._origins.admit(request.headers.getall("Origin", []))
        self._know(request, attempt)
        self._look_for_a_proxy(request, attempt)
        slot.enter_context(self._visit(request, attempt))
        route = parse_route(request, translation=translation, allowed_models=self._policy.allowed_models)
        attempt.model = dict(route.query).get("model")
        attempt.wants_draining_event = wants_draining_event(request, default=self._policy.draining_event)
        reason = self._closed()
        if reason is not None:
            raise Failure(reason)
        owner = attempt.client if attempt.client != ANYBODY else attempt.address
        slot.enter_context(self._sessions_of.acquire(owner))
        slot.enter_context(self._sessions.acquire())
        return route

    def _look_for_a_proxy(self, request: web.Request, attempt: Attempt) -> None:
        """Open access is for this machine; behind a proxy it is for whoever reaches the proxy. Told once."""
        if self._told_of_proxy or attempt.client != ANYBODY or self._policy.open_anywhere:
            return
        host = urlsplit(f"//{request.host}").hostname or ""
        if not is_loopback(host) or {"X-Forwarded-For", "Forwarded"} & request.headers.keys():
            self._told_of_proxy = True
            self._log.warning(
                "access.open_behind_proxy",
                message="A caller came through a proxy, and access is open: whoever reaches the proxy can spend the credit.",
                remedy="Set RELAY_ACCESS=tokens and RELAY_CLIENT_TOKENS; RELAY_TRUSTED_PROXIES names the proxy.",
            )

    def _know(self, request: web.Request, attempt: Attempt) -> None:
        shown = parse_token(request)
        try:
            attempt.client = self._tokens.admit(shown).client
        except Failure as failure:
            if failure.reason == "token_invalid":  # somebody guesses, and is slowed down; who shows none does not
                stranger = (_STRANGER, attempt.address)
                try:
                    self._strangers.admit(stranger)
                except Failure as flood:
                    flood.detail = "too many wrong tokens from this address"
                    raise
                self._told(self._strangers.left(stranger, 0), attempt)
            raise

    @contextmanager
    def _visit(self, request: web.Request, attempt: Attempt) -> Iterator[None]:
        """From here to the end of the session, whatever ends it."""
        client = (attempt.client, attempt.address)
        if self._reconnects.admit(client):
            request[NOTICE] = "too_many_connects"
        started = self._clock()
        try:
            yield
        finally:
            if attempt.is_own_doing:
                self._told(self._reconnects.left(client, self._clock() - started), attempt)

    def _told(self, times: int | None, attempt: Attempt) -> None:
        if times is None:
            return
        self._metrics.reconnect_loops.inc()
        row = CATALOGUE["too_many_connects"]
        self._log.warning(
            "client.reconnects_noticed",
            reason=row.reason,
            message=row.sentence,
            remedy=row.remedy,
            client=attempt.client,
            address=attempt.address,
            short_sessions=times,
        )
