"""Runs the health checks in the background and keeps their last results, which the probes read.

Rules of this file:

* A probe never causes a call upstream. Refreshes run one at a time, by `RefreshSchedule`.
* Clients' dials count as evidence: after one that succeeds, the next refresh makes no handshake of its own.
* The dials of the checks bypass the breaker and are not counted among the clients' dials. The
  handshake is the breaker's trial.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import structlog

from service.failures import Failure, Phase
from service.health.checks import CHECKS, TURN, HealthCheck
from service.health.key_verdict import judge_key
from service.health.live_check import LiveKeyCheck
from service.health.response_check import ResponseCheckBudget, request_response
from service.health.schedule import RefreshIntervals, RefreshSchedule
from service.telemetry.metrics import Metrics
from service.upstream.breaker import MONITOR
from service.upstream.connector import UpstreamConnector
from service.upstream.rest import fetch_model
from service.upstream.target import DialRequest

_MODEL_REQUEST_SECONDS: Final = 8.0


class HealthMonitor:
    """The health checks, and the readiness latch.

    Single-flight: `run` is the only caller of `refresh`. A refresh that is requested while one runs follows it. Everything
    else here only reads or sets state and returns without waiting, except `wait_for_first_refresh`. Cancelling `run` closes
    the connection of a check that is in progress; an exception from it is a bug, and the supervisor starts `run` again.
    """

    def __init__(
        self,
        connector: UpstreamConnector,
        metrics: Metrics,
        *,
        model: str,
        turns_per_day: int = 0,
        with_live: bool = False,
        intervals: RefreshIntervals | None = None,
        store: HealthCheck | None = None,
    ) -> None:
        self._connector = connector
        self._dialler = connector.dialler
        self._metrics = metrics
        self._model = model
        self._request = DialRequest(query=(("model", model),))
        self._witness = connector.witness(MONITOR, self._request)
        connector.breaker.on_trial_due = self._request_trial
        self._intervals = intervals or RefreshIntervals()
        self._schedule = RefreshSchedule(self._intervals)
        self.key, self.handshake = HealthCheck(CHECKS[0]), HealthCheck(CHECKS[1])
        self.turn = HealthCheck(TURN) if turns_per_day else None
        self._live = LiveKeyCheck(self._dialler) if with_live else None
        self._store = store
        self._response_budget = ResponseCheckBudget(turns_per_day)
        self._first_refresh_done = asyncio.Event()
        self._refresh_requested = asyncio.Event()
        self._client_connected = False  # since the last refresh
        self._started_at = self._refreshed_at = asyncio.get_running_loop().time()
        self._is_ready = False
        self._refused_for: str | None = None  # the reason, while the key check has not passed since
        self._recovery: str | None = None
        self._log = structlog.get_logger()
        self._publish()

    # -- what the probes read -----------------------------------------------------------------------------------------

    @property
    def checks(self) -> tuple[HealthCheck, ...]:
        """The enabled checks: those of the upstream, then that of the store."""
        return (*self._upstream_checks, *(() if self._store is None else (self._store,)))

    @property
    def _upstream_checks(self) -> tuple[HealthCheck, ...]:
        """From the key to a complete response, then that of GPT-Live."""
        turn = () if self.turn is None else (self.turn,)
        live = () if self._live is None else (self._live.state,)
        return (self.key, self.handshake, *turn, *live)

    @property
    def age_seconds(self) -> float:
        """Time since the last refresh ended."""
        return asyncio.get_running_loop().time() - self._refreshed_at

    @property
    def stale_after_seconds(self) -> float:
        """An age that no pause of a running monitor explains."""
        return self._schedule.stale_after_seconds

    @property
    def ready(self) -> bool:
        """The readiness latch, which never closes again.

        It opens once key and handshake pass and no check is definite. Temporary failures keep it closed only for the grace
        period: an instance that starts during an outage must not make the outage worse by never becoming ready.
        """
        if not self._is_ready:
            grace_is_over = asyncio.get_running_loop().time() - self._started_at >= self._intervals.readiness_grace
            is_definite = any(check.is_definite for check in self.checks if check.is_required)
            has_passed = self._required_checks_pass() and not is_definite
            self._is_ready = has_passed or (grace_is_over and not is_definite and self._first_refresh_done.is_set())
        return self._is_ready

    async def wait_for_first_refresh(self, timeout_seconds: float) -> None:
        """Wait until the first refresh has ended, or until the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._first_refresh_done.wait()

    def is_key_refused(self) -> bool:
        """Whether no dial with the key in use can succeed before the operator acts."""
        return self._connector.key_problem is not None or self.key.is_definite

    # -- what requests a refresh --------------------------------------------------------------------------------------

    def key_changed(self) -> None:
        """Reset the checks that have a definite failure, since it concerned the previous key, and request a refresh."""
        for check in self._upstream_checks:
            if check.is_definite:
                check.reset()
        self._publish()
        self._refresh_requested.set()

    def dial_finished(self, failure: Failure | None) -> None:
        """Take the outcome of a client's dial as evidence; one that contradicts the checks requests a refresh.

        A refused start of GPT-Live contradicts none: no check starts a session, and the cause may be the client's voice.
        """
        if failure is None:
            self._client_connected = True
            if self.handshake.status != "pass":
                self._refresh_requested.set()
        elif failure.phase is Phase.SESSION_START:
            return
        elif failure.reason.startswith("key_") and self.handshake.status == "pass":
            self._refresh_requested.set()

    def live_started(self) -> None:
        """Take a client's session of GPT-Live that has started as evidence for the check `live`, and for no other."""
        if self._live is not None:
            self._live.session_started = True

    def _request_trial(self, due: float) -> None:
        """Refresh when the breaker's open time has passed: this dial decides whether clients are refused any longer."""
        asyncio.get_running_loop().call_at(due, self._refresh_requested.set)

    # -- what refreshes -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Refresh the checks until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._refresh_requested.clear()  # before the refresh: a request during it causes one more
            await self.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_pause()):
                    await self._refresh_requested.wait()
            remaining_seconds = self._schedule.remaining_seconds(loop.time())
            if remaining_seconds > 0:
                await asyncio.sleep(remaining_seconds)

    async def refresh(self) -> None:
        """Run every check once, publish the results, and log a change of status."""
        before = [check.status for check in self._upstream_checks]
        loop = asyncio.get_running_loop()
        self._schedule.refresh_started(loop.time())
        if self._connector.key_problem is not None:
            for check in self._upstream_checks:
                check.failed(self._connector.key_problem.failure(), time.time(), None)
        else:
            live = () if self._live is None else (self._live.refresh(),)
            models_failure, *_ = await asyncio.gather(self._request_model(), self._check_handshake(), *live)
            self._record_key(models_failure)
            await self._check_response()
        self._refreshed_at = loop.time()
        self._first_refresh_done.set()
        self._publish()
        self._report_recovered_key()
        if before != [check.status for check in self._upstream_checks]:
            self._log_change()

    async def _request_model(self) -> Failure | None:
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        try:
            await fetch_model(
                self._dialler.session, self._dialler.target, self._model, timeout_seconds=_MODEL_REQUEST_SECONDS
            )
        except Failure as failure:
            self._schedule.honour_retry_after(failure, loop.time())
            # Not kept in a variable: its traceback refers to this frame, and the cycle would hold the request's headers.
            return failure
        finally:
            self.key.seconds = loop.time() - started_at
        return None

    async def _check_handshake(self) -> None:
        loop = asyncio.get_running_loop()
        client_connected, self._client_connected = self._client_connected, False
        if client_connected and not self._connector.breaker.refuses_all:
            self.handshake.succeeded(time.time(), None, "traffic")
            return
        started_at = loop.time()
        try:
            connected = await self._dialler.dial(self._request)
        except Failure as failure:
            self.handshake.failed(failure, time.time(), loop.time() - started_at)
            self._schedule.honour_retry_after(failure, loop.time())
            self._connector.breaker.monitor_failed(failure, self._witness)
        else:
            self.handshake.succeeded(time.time(), loop.time() - started_at)
            proves_key = self._connector.awaits_first_event(self._request)
            self._connector.breaker.succeeded(self._witness, proves_key=proves_key)
            await connected.close()

    async def _check_response(self) -> None:
        """Request a response if the handshake did not fail: if it did, it gives the cause, and the budget is kept."""
        loop = asyncio.get_running_loop()
        if self.turn is None or self.handshake.failures or not self._response_budget.try_acquire(loop.time()):
            return
        started_at = loop.time()
        try:
            connected = await self._dialler.dial(self._request)
            try:
                await request_response(connected)
            finally:
                await connected.close()
        except Failure as failure:
            self.turn.failed(failure, time.time(), loop.time() - started_at)
        else:
            self.turn.succeeded(time.time(), loop.time() - started_at)

    def _record_key(self, models_failure: Failure | None) -> None:
        failure, source = judge_key(
            models_failure,
            self.handshake,
            handshake_proves_key=self._connector.awaits_first_event(self._request),
        )
        if failure is None:
            self.key.succeeded(time.time(), self.key.seconds, source)
        else:
            self.key.failed(failure, time.time(), self.key.seconds)

    def _required_checks_pass(self) -> bool:
        return self.key.status == "pass" and self.handshake.status == "pass"

    def _next_pause(self) -> float:
        return self._schedule.next_pause(
            all_pass=self._required_checks_pass(), any_failed=bool(self.key.failures or self.handshake.failures)
        )

    def _report_recovered_key(self) -> None:
        """Report once that the provider accepts a key after a refusal: the operator who corrected it waits for that."""
        if self.key.is_definite:
            self._refused_for, self._recovery = self.key.reason, None
        elif self.key.status == "pass" and self._refused_for is not None:
            since = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
            self._recovery = f"The key check passes since {since}; before, it failed with {self._refused_for}."
            self._log.info("key.recovered", message=self._recovery, reason=self._refused_for)
            self._refused_for = None

    def notes(self) -> list[str]:
        """What detailed health reports about the past."""
        return [] if self._recovery is None else [self._recovery]

    def _log_change(self) -> None:
        failing = next((check for check in self._upstream_checks if check.reason is not None), None)
        good = {"message": "All health checks pass."} if failing is None else {}
        (self._log.info if failing is None else self._log.warning)(
            "health.changed",
            **good,
            **{check.name: check.status for check in self._upstream_checks},
            reason=failing.reason if failing else None,
            output=failing.output() if failing else None,
        )

    def _publish(self) -> None:
        for check in self._upstream_checks:
            self._metrics.set_check_status(check.name, check.status, check.reason)
            self._metrics.health_success.labels(check.name).set(check.passed_at or 0)
