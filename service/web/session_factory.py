"""What a session is made of: who its client is, the limits and budgets that hold for it, the call of its API."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial

from service.access.budgets import Budgets, budgets_of, max_session_seconds, rates_of
from service.access.clients import Identity
from service.failures import Failure
from service.realtime.continuity.kept_scanner import KeptScanner
from service.realtime.events import Api
from service.realtime.policy_scanner import ReviewedScanner
from service.realtime.pricing import live_cost_usd, live_model_label, translation_usd_per_second
from service.realtime.scanner_strict import StrictScanner
from service.relay.budget import SessionBudget
from service.relay.call import NewCall, RealtimeCall
from service.relay.continuity.pool import ContinuityPool, Redial
from service.relay.continuity.renewable_session import RenewableSession
from service.relay.continuity.swap_report import SwapReport
from service.relay.latency import CREATE
from service.relay.reporter import SharedTelemetry
from service.relay.reviewed_call import ReviewedCall
from service.relay.session import Session
from service.relay.session_info import SessionInfo
from service.relay.start_reader import ClientStream
from service.relay.watchdog import SessionLimits
from service.store.interface import Store
from service.upstream.dial import UpstreamConnection
from service.upstream.target import DialRequest
from service.web import refusals
from service.web.attempts import ConnectionAttempt
from service.web.client_rules import limit_key
from service.wire.leg import Leg


class SessionFactory:
    """Creates the sessions of admitted clients.

    `limits` are those of the settings; a client of the clients file has its own in their place. `must_end(credential,
    client)` returns whether the credential was withdrawn from the client of this name, and its open sessions end with it.
    """

    def __init__(
        self,
        store: Store,
        *,
        telemetry: SharedTelemetry,
        limits: SessionLimits,
        must_end: Callable[[str, str], bool],
        continuity: ContinuityPool | None = None,
    ) -> None:
        self._store = store
        self._telemetry = telemetry
        self._limits = limits
        self._must_end = must_end
        self._continuity = continuity

    def realtime_session(self, attempt: ConnectionAttempt, new_session: Callable[..., Session]) -> Session:
        """The session of a client of the Realtime API, whose events are reviewed if its policy locks fields."""
        metrics, policy = self._telemetry.metrics.conversations, attempt.policy
        if policy is None or not policy.locked:
            plain_call = partial(RealtimeCall, metrics=metrics)
            if not attempt.continuity:
                return new_session(call=plain_call)
            # Where responses count, no event may hide a request for one.
            is_strict = attempt.budgets is not None and attempt.budgets.count_responses
            kept_scanner = ReviewedScanner if is_strict else KeptScanner
            stream = ClientStream(kept_scanner(max_message_bytes=self._limits.max_message_bytes))
            return new_session(call=plain_call, client_stream=stream)
        scanner = ReviewedScanner(max_message_bytes=self._limits.max_message_bytes)
        call = partial(ReviewedCall, metrics=metrics, policy=policy, instructions=attempt.instructions)
        return new_session(call=call, client_stream=ClientStream(scanner))

    def session(
        self,
        client: Leg,
        connected: UpstreamConnection,
        attempt: ConnectionAttempt,
        dial_request: DialRequest,
        *,
        call: NewCall,
        client_stream: ClientStream | None = None,
        redial: Redial | None = None,
    ) -> Session:
        """The session of an attempt; it ends at once if the client's token was withdrawn or its place lost meanwhile."""
        info = _info_of(attempt, dial_request.api)
        draining_event = partial(refusals.draining_event, session_id=attempt.session_id)
        if self._continuity is not None and attempt.lacks_room:
            SwapReport(info, self._continuity.metrics).not_renewable("no_room")
        new_session: Callable[..., Session] = Session
        duration: float | None = None
        if self._continuity is not None and redial is not None and attempt.continuity:
            new_session = partial(
                RenewableSession, pool=self._continuity, redial=redial, is_sideband=dial_request.has("call_id")
            )
            duration = self._continuity.options.max_session_seconds
        session = new_session(
            info,
            client,
            connected,
            limits=self._limits_of(attempt.identity, duration),
            telemetry=self._telemetry,
            call=call,
            error_event=lambda reason, hint, param=None, event_id=None: refusals.error_event(
                Failure(reason, hint=hint), attempt.session_id, param, event_id
            ),
            drain_event=draining_event if attempt.wants_draining_event else None,
            client_stream=client_stream or self._budget_stream(attempt, dial_request),
            budget=self._new_budget(attempt, dial_request),
        )
        if self._must_end(info.credential, info.client):  # withdrawn during the dial
            session.end("client_disabled")
        elif attempt.lost_place:
            session.end("store_unavailable")
        return session

    def _budget_stream(self, attempt: ConnectionAttempt, dial_request: DialRequest) -> ClientStream | None:
        """Where responses count, each event of the client is read whole, so that none hides a request for one.

        It also keeps upstream at a message boundary, where the session can cancel the response that its end cuts off.
        """
        if dial_request.endpoint != "realtime" or attempt.budgets is None or not attempt.budgets.count_responses:
            return None
        return ClientStream(
            StrictScanner(max_message_bytes=self._limits.max_message_bytes, parsed_types=frozenset({CREATE}))
        )

    def _new_budget(self, attempt: ConnectionAttempt, dial_request: DialRequest) -> SessionBudget | None:
        if attempt.budgets is None:
            return None
        client, rates = attempt.identity.client, rates_of(attempt.identity.client)
        per_second = 0.0
        if dial_request.endpoint == "translation":
            per_second = translation_usd_per_second(dial_request.model) or (rates.per_second if rates else 0.0)
        return SessionBudget(
            attempt.budgets,
            self._store,
            attempt.session_id,
            model=attempt.model,
            place=lambda use: limit_key(
                client, use.limit, of_user=use.scope is not None and use.scope.user is not None
            ),
            warning=partial(refusals.budget_event, session_id=attempt.session_id)
            if attempt.wants_budget_event
            else None,
            rates=rates,
            usd_per_second=per_second,
            live_usd_per_second=self._live_price(attempt, dial_request),
        )

    @staticmethod
    def _live_price(attempt: ConnectionAttempt, dial_request: DialRequest) -> float:
        if dial_request.endpoint != "live":
            return 0.0
        price, rates = live_cost_usd(live_model_label(attempt.model), 1.0, 0.0), rates_of(attempt.identity.client)
        return price if price is not None else rates.per_second if rates is not None else 0.0

    def _limits_of(self, identity: Identity, duration: float | None) -> SessionLimits:
        """The limits of a session; `duration` is its maximum if nothing has set one, None for the default."""
        if not identity.client.is_from_file:
            return self._limits if duration is None else dataclasses.replace(self._limits, max_session_seconds=duration)
        return dataclasses.replace(
            self._limits,
            max_session_seconds=max_session_seconds(identity.client, identity.user, duration),
            token_seconds=None if identity.ends_at is None else max(0.0, identity.ends_at - time.time()),
        )


def budgets_for(identity: Identity) -> Budgets | None:
    """The budgets of a client of the clients file, or of its user; None if it has none."""
    if not identity.client.is_from_file:
        return None
    budgets = budgets_of(identity.client, identity.user)
    return None if budgets.is_empty else budgets


def _info_of(attempt: ConnectionAttempt, api: Api) -> SessionInfo:
    return SessionInfo(
        attempt.session_id,
        attempt.client,
        attempt.address,
        attempt.model,
        attempt.limited_as,
        api,
        credential=attempt.identity.credential,
        user=attempt.identity.user,
    )
