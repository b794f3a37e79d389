"""GPT-Live behind the 101: start the session, then run it; or refuse it with an event, since no HTTP status can be sent."""

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

from service.access.budgets import rates_of
from service.failures import Failure
from service.realtime.events import Api
from service.realtime.live_events import parse_live_event
from service.realtime.live_usage import LiveMeter
from service.realtime.pricing import live_cost_usd, live_model_label
from service.realtime.redaction import redact_json
from service.realtime.scanner_items import Message
from service.relay.drain import Drainer
from service.relay.live_call import SETTLE_SECONDS, LiveCall
from service.relay.live_start import LiveStart, StartPolicy
from service.relay.record import record_of
from service.relay.reporter import SharedTelemetry
from service.relay.session import Session
from service.relay.session_info import SessionInfo
from service.relay.spent import Spent
from service.relay.start_reader import ByteBudget, ClientStream
from service.relay.watchdog import SessionLimits
from service.store.interface import Amounts, Spending, Store
from service.upstream.connector import UpstreamConnector
from service.upstream.dial import UpstreamConnection
from service.upstream.dials import DialsInFlight
from service.web import refusals
from service.web.attempts import AttemptReporter, ConnectionAttempt
from service.web.client_rules import model_hint, unpriced_hint
from service.wire.leg import Leg

PATHS: Final = ("/v1/live/sessions", "/live/sessions", "/openai/v1/live/sessions")
ATTACH_PATHS: Final = tuple(f"{path}/{{session}}/attach" for path in PATHS)

_DRAIN_SETTLE_SECONDS: Final = 0.5
"""How long a start that the end of a drain ends waits for the provider's last event."""

NewSession = Callable[..., Session]
"""Creates the session of an attempt; see `RealtimeHandler`."""


class LiveSessions:
    """Starts and runs GPT-Live sessions.

    * Ownership: `run` owns both sockets from its call on, and has closed them, or passed them to a session, when it returns.
    * Order: a client's start, the provider's answer, the session. What fails before the session is one failed connection,
      with one log line and one count; the client gets the provider's `error` event, the relay's with the remedy, and a CLOSE.
    * Cancellation: `run` must not be cancelled. The end of a drain ends a start that waits, with `relay_draining`.
    """

    def __init__(
        self,
        connector: UpstreamConnector,
        drainer: Drainer,
        dials: DialsInFlight,
        *,
        reporter: AttemptReporter,
        telemetry: SharedTelemetry,
        limits: SessionLimits,
        store: Store,
    ) -> None:
        self._store = store
        self._connector = connector
        self._drainer = drainer
        self._dials = dials
        self._reporter = reporter
        self._telemetry = telemetry
        self._limits = limits
        self._budget = ByteBudget()
        self._tasks: set[asyncio.Task[str]] = set()

    def start(
        self, client: Leg, connected: UpstreamConnection, attempt: ConnectionAttempt, new_session: NewSession
    ) -> asyncio.Task[str]:
        """Run a session in a task of its own; returns the task, whose result is the reason of the end."""
        tracked = ExitStack()
        # Before the caller's own dial ends: a drain must not overlook the session between both.
        tracked.enter_context(self._dials.track())
        task = asyncio.get_running_loop().create_task(
            self._run(client, connected, attempt, new_session, tracked),
            name=f"live {attempt.session_id}",
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(
        self,
        client: Leg,
        connected: UpstreamConnection,
        attempt: ConnectionAttempt,
        new_session: NewSession,
        tracked: ExitStack,
    ) -> str:
        try:
            try:
                start = await self._start(client, connected, attempt)
                if isinstance(start, Failure):
                    return start.reason
                session = self._drainer.sessions.start(self._session(start, attempt, new_session))
            finally:
                tracked.close()
        except BaseException:
            client.abort()
            connected.abort()
            raise
        del start  # it holds the client's first message
        return await session

    async def _start(
        self, client: Leg, connected: UpstreamConnection, attempt: ConnectionAttempt
    ) -> LiveStart | Failure:
        policy = self._policy_for(attempt)
        start = LiveStart(client, connected, policy, self._budget, limited_as=attempt.limited_as)
        with self._drainer.sessions.starting(attempt.limited_as, start):
            try:
                await self._dials.run(start.run())
            except Failure as failure:
                attempt.model = start.requested.model
                self._reporter.start_failed(failure, attempt)
                await asyncio.gather(
                    self._refuse(client, start, failure, attempt), self._abandon(start, failure, attempt)
                )
                failure.forget_frames()
                return failure
        attempt.model = start.requested.model
        self._reporter.live_started(start.start_seconds)
        return start

    def _policy_for(self, attempt: ConnectionAttempt) -> StartPolicy:
        client = attempt.identity.client
        return StartPolicy(
            frozenset(client.models),
            self._limits,
            model_hint=model_hint(client),
            unpriced_hint=unpriced_hint(attempt.identity),
            is_user_named=attempt.identity.user is not None,
            permit=partial(self._connector.permit_live_start, attempt.limited_as, user=attempt.identity.user),
        )

    async def _abandon(self, start: LiveStart, failure: Failure, attempt: ConnectionAttempt) -> None:
        """Close upstream, and count what it bills. The end of a drain ends the wait for the provider's last event."""
        model, meter = live_model_label(start.requested.model), LiveMeter()

        def count(message: Message) -> None:
            if message.type is not None:
                charge = meter.add(parse_live_event(message.type, message.payload))
                self._telemetry.metrics.live.count_charge(model, charge)

        if failure.reason == "relay_draining":
            await start.abandon(_DRAIN_SETTLE_SECONDS, count)
        else:
            with suppress(Failure):
                await self._dials.run(start.abandon(SETTLE_SECONDS, count))
        if start.may_be_billed and failure.close_code is None:
            self._telemetry.metrics.live.count_end(meter)
        if start.may_be_billed:
            self._charge(start, failure, attempt, meter)

    def _charge(self, start: LiveStart, failure: Failure, attempt: ConnectionAttempt, meter: LiveMeter) -> None:
        """Count a session that may exist upstream in budgets and records: by its usage, or without that by the clock."""
        active, paused = meter.billable_seconds()
        if not meter.is_confirmed:
            active = max(active, start.open_seconds - paused)
        spent = Spent(rates=rates_of(attempt.identity.client))
        spent.add(live_cost_usd(live_model_label(attempt.model), active, paused), seconds=active + paused)
        if attempt.budgets is not None and attempt.budgets.are_shared:
            scopes = tuple(limits.scope for limits in attempt.budgets.scopes)
            amounts = Amounts(spent.microusd, spent.tokens, int(start.open_seconds * 1000))
            self._store.spend(Spending(attempt.session_id, scopes, amounts, is_final=True))
        if self._telemetry.records is not None:
            info = SessionInfo(
                attempt.session_id,
                attempt.client,
                attempt.address,
                attempt.model,
                api=Api.LIVE,
                user=attempt.identity.user,
            )
            self._telemetry.records.write(
                record_of(
                    info,
                    spent,
                    reason=failure.reason,
                    ended_at=time.time(),
                    duration_seconds=start.open_seconds,
                    messages=(0, 0),
                    summary={"usage_confirmed": meter.is_confirmed},
                )
            )

    async def _refuse(self, client: Leg, start: LiveStart, failure: Failure, attempt: ConnectionAttempt) -> None:
        events = [refusals.error_event(failure, attempt.session_id)]
        if start.refusal is not None:  # the provider's own words come first: clients know them
            events.insert(0, redact_json(start.refusal, self._telemetry.redactor.redact) or start.refusal)
        await refusals.close_with_events(client, start.scanner, failure, events)

    def _session(self, start: LiveStart, attempt: ConnectionAttempt, new_session: NewSession) -> Session:
        return new_session(
            call=partial(
                LiveCall,
                metrics=self._telemetry.metrics,
                model=attempt.model,
                check_models=self._policy_for(attempt).check,
            ),
            client_stream=ClientStream(start.scanner, start.client_items),
        )

    def sideband(self, attempt: ConnectionAttempt, new_session: NewSession) -> Session:
        """The session of a client that attaches to a session: the provider speaks first, and the bill is another's."""
        policy = self._policy_for(attempt)
        return new_session(
            call=partial(LiveCall, metrics=self._telemetry.metrics, check_models=policy.check, is_sideband=True),
            client_stream=ClientStream(policy.scanner()) if policy.reads_updates else None,
        )
