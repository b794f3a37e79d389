"""Keeps the checks fresh in the background. Probes only read what stands here, so they never cause a call upstream.

One refresh at a time, with jitter, more slowly while it fails, never before Retry-After is over. Sessions that open are
evidence: while they do, nothing is dialled for the check's own sake.
"""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog

from service.failures import Failure
from service.health.checks import CHECKS, TURN, Check
from service.health.response_check import ResponseCheckBudget, request_response
from service.telemetry.metrics import Metrics
from service.upstream import translate
from service.upstream.connector import Connector
from service.upstream.rest import fetch_model, proves_the_key, says_nothing_of_the_key
from service.upstream.rotation import KeyFileWatcher
from service.upstream.target import DialRequest


@dataclass(frozen=True, slots=True)
class RefreshIntervals:
    """How often is asked, in seconds."""

    good: float = 60.0
    first_retry: float = 5.0
    slowest_retry: float = 120.0
    grace: float = 60.0  # after so long, trouble that may pass no longer keeps `/readyz` shut


class Monitor:
    """Both checks, and the latch of readiness."""

    def __init__(
        self,
        reach: Connector,
        metrics: Metrics,
        *,
        model: str,
        turns_per_day: int = 0,
        pace: RefreshIntervals | None = None,
    ) -> None:
        self._reach = reach
        self._dialler = reach.dialler
        self._metrics = metrics
        self._model = model
        self._pace = pace or RefreshIntervals()
        self.key, self.handshake = Check(CHECKS[0]), Check(CHECKS[1])
        self.turn = Check(TURN) if turns_per_day else None
        self._turns = ResponseCheckBudget(turns_per_day)
        self._settled = asyncio.Event()  # the first refresh is over
        self._nudged = asyncio.Event()
        self._retry_seconds = self._pace.first_retry
        self._not_before = 0.0
        self._evidence = False  # a caller got through since the last refresh
        self._refreshed_at = asyncio.get_running_loop().time()
        self._started_at = asyncio.get_running_loop().time()
        self._opened = False
        self._rest_refusal: Failure | None = None
        self.key_file: KeyFileWatcher | None = None
        self._log = structlog.get_logger()
        self._publish()

    # -- what the probes read -----------------------------------------------------------------------------------------

    @property
    def checks(self) -> tuple[Check, ...]:
        """The key first, the deepest last."""
        return (self.key, self.handshake) if self.turn is None else (self.key, self.handshake, self.turn)

    @property
    def age_seconds(self) -> float:
        """How long ago the checks were refreshed."""
        return asyncio.get_running_loop().time() - self._refreshed_at

    @property
    def stale_after_seconds(self) -> float:
        """An age that no pause of a working monitor explains."""
        longest = max(self._pace.good, self._pace.slowest_retry, translate.RETRY_AFTER_MAX_SECONDS)
        return longest + 60.0

    @property
    def ready(self) -> bool:
        """A latch: opens once the checks pass, or when only trouble that may pass outlasts the grace."""
        if not self._opened:
            grace_over = asyncio.get_running_loop().time() - self._started_at >= self._pace.grace
            definite = any(check.is_definite for check in self.checks)
            passed = all(check.status == "pass" for check in (self.key, self.handshake)) and not definite
            self._opened = passed or (grace_over and not definite and self._settled.is_set())
        return self._opened

    async def settled(self, seconds: float) -> None:
        """Wait for the first refresh, but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._settled.wait()

    def is_refused(self) -> bool:
        """Whether the key that holds is known to be of no use, so that any other is better."""
        return self._reach.key_problem is not None or self.key.is_definite

    @property
    def notes(self) -> list[str]:
        """What an operator should know besides the checks."""
        refusal = self.key_file.refusal if self.key_file is not None else None
        if refusal is None:
            return []
        return [f"The new key in the file was not taken: {refusal}. The one before it stays in use."]

    def ask_again(self) -> None:
        """The key was changed: a refusal of the old one says nothing any more, and the next answer counts by itself."""
        for check in self.checks:
            if check.is_definite:
                check.forget()
        self._publish()
        self._nudged.set()

    # -- what keeps it fresh ------------------------------------------------------------------------------------------

    def told(self, failure: Failure | None) -> None:
        """How a caller's dial went: success is evidence, a refused key calls for a look at once."""
        if failure is None:
            self._evidence = True
            if self.handshake.status != "pass":
                self._nudged.set()
        elif failure.reason.startswith("key_") and self.handshake.status == "pass":
            self._nudged.set()

    async def run(self) -> None:
        """Refresh for ever."""
        while True:
            self._nudged.clear()  # before: a nudge during the refresh asks for one more
            await self.refresh()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._nudged.wait()
            # A nudge must not become a way to make us call upstream without bound.
            wait = self._not_before - asyncio.get_running_loop().time()
            if wait > 0:
                await asyncio.sleep(wait)

    async def refresh(self) -> None:
        """Ask both questions once."""
        before = [check.status for check in self.checks]
        loop = asyncio.get_running_loop()
        self._not_before = loop.time() + min(1.0, self._pace.first_retry)
        if self._reach.key_problem is not None:
            for check in self.checks:
                check.failed(Failure(self._reach.key_problem), time.time(), None)
        else:
            await asyncio.gather(self._check_rest(), self._check_handshake())
            self._judge_key()
            await self._check_turn()
        self._refreshed_at = loop.time()
        self._settled.set()
        self._publish()
        if before != [check.status for check in self.checks]:
            worst = next((check for check in self.checks if check.reason is not None), None)
            self._log.log(
                20 if worst is None else 30,
                "health.changed",
                **{check.name: check.status for check in self.checks},
                reason=worst.reason if worst else None,
                output=worst.output() if worst else None,
            )

    async def _check_rest(self) -> None:
        started = asyncio.get_running_loop().time()
        self._rest_refusal = None
        try:
            await fetch_model(self._dialler.session, self._dialler.target, self._model, timeout_seconds=8)
        except Failure as failure:
            self._rest_refusal = failure
            self._heed(failure)
        self.key.seconds = asyncio.get_running_loop().time() - started

    async def _check_handshake(self) -> None:
        loop = asyncio.get_running_loop()
        evidence, self._evidence = self._evidence, False
        if evidence:
            self.handshake.succeeded(time.time(), None, "traffic")
            return
        started = loop.time()
        try:
            connected = await self._dialler.dial(DialRequest(query=(("model", self._model),)))
        except Failure as failure:
            self.handshake.failed(failure, time.time(), loop.time() - started)
            self._heed(failure)
        else:
            self.handshake.succeeded(time.time(), loop.time() - started)
            if self._reach.proves(DialRequest()):
                self._reach.breaker.succeeded()
            await connected.close()

    async def _check_turn(self) -> None:
        """Only where a socket opens: without one the handshake says why, and no money is spent on asking again."""
        loop = asyncio.get_running_loop()
        if self.turn is None or self.handshake.failures or not self._turns.take(loop.time()):
            return
        started = loop.time()
        try:
            connected = await self._dialler.dial(DialRequest(query=(("model", self._model),)))
            try:
                await request_response(connected)
            finally:
                await connected.close()
        except Failure as failure:
            self.turn.failed(failure, time.time(), loop.time() - started)
        else:
            self.turn.succeeded(time.time(), loop.time() - started)

    def _judge_key(self) -> None:
        """A socket that opens proves the key, whatever REST says: a key may be restricted to Realtime."""
        now, rest, seconds = time.time(), self._rest_refusal, self.key.seconds
        opened = self.handshake.failures == 0 and self._reach.proves(DialRequest())
        refused = self.handshake.reason if self.handshake.failures else None
        if refused is not None and refused.startswith("key_"):
            self.key.failed(Failure(refused), now, seconds)
        elif opened or rest is None or proves_the_key(rest):
            self.key.succeeded(now, seconds, self.handshake.source if opened and rest else "active")
        elif says_nothing_of_the_key(rest) and refused is not None:
            self.key.failed(Failure(refused), now, seconds)
        else:
            self.key.failed(rest, now, seconds)

    def _heed(self, failure: Failure) -> None:
        if failure.retry_after_seconds is not None:
            until = asyncio.get_running_loop().time() + failure.retry_after_seconds
            self._not_before = max(self._not_before, until)

    def _pause(self) -> float:
        if all(check.status == "pass" for check in (self.key, self.handshake)):
            self._retry_seconds = self._pace.first_retry
            return self._pace.good * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        if all(check.failures == 0 for check in (self.key, self.handshake)):
            self._retry_seconds = self._pace.first_retry  # on its way back
        pause = self._retry_seconds
        self._retry_seconds = min(self._retry_seconds * 2, self._pace.slowest_retry)
        return pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter

    def _publish(self) -> None:
        for check in self.checks:
            self._metrics.set_check_status(check.name, check.status, check.reason)
            self._metrics.health_success.labels(check.name).set(check.passed_at or 0)
