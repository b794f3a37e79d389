"""Dials on behalf of clients: with the current key, through the breaker, with at most one retry.

Health checks and key validation use the dialler directly: their own schedule limits them. The health monitor reports its
outcomes to the breaker.
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.failures import Failure
from service.upstream import hints
from service.upstream.breaker import CircuitBreaker, RetryBudget
from service.upstream.circuit import Witness
from service.upstream.dial import Dialler, DialProgress, UpstreamConnection
from service.upstream.key_lint import KeyRefusal
from service.upstream.target import DialRequest, Target

RETRY_PAUSE_SECONDS: Final = (0.1, 0.5)
MIN_RETRY_SECONDS: Final = 1.0
"""With less time than this left, a retry would only turn the cause into a timeout."""
# Failures that may disappear within half a second. Excluded are those with a Retry-After, those that used up the time, and
# definite failures.
_RETRIED_REASONS: Final = frozenset({
    "upstream_error", "upstream_overloaded", "dropped_early", "connect_refused", "network_unreachable"
})  # fmt: skip


class UpstreamConnector:
    """Dials one target for all clients of the relay.

    `key_problem` is set if the key makes every dial fail (see `key_lint`), else None; the handler refuses clients with it.
    `on_retry` is called before each retry.
    """

    def __init__(
        self, dialler: Dialler, key_problem: KeyRefusal | None, *, on_retry: Callable[[], object] | None = None
    ) -> None:
        self.dialler = dialler
        self.key_problem = key_problem
        self.breaker = CircuitBreaker(asyncio.get_running_loop().time)
        self._on_retry = on_retry
        self._retry_budget = RetryBudget()

    def switch_target(self, target: Target, key_problem: KeyRefusal | None) -> None:
        """Use another target for all dials from now on, and close the breaker. Open connections and dials are unaffected."""
        self.dialler.target = target
        self.key_problem = key_problem
        self.breaker.reset()

    def awaits_first_event(self, request: DialRequest) -> bool:
        """Whether a dial waits for a first event. Without one it proves only a 101, and a rejected key gets one."""
        return request.promises_first_event and self.dialler.first_event == "required"

    def witness(self, client: str, request: DialRequest, user: str | None = None) -> Witness:
        """What the breaker knows of a dial. On the simulator each scenario of `?simulate=` is a provider of its own."""
        scenario = next((value for name, value in request.query if name == "simulate"), "")
        suffix = f"?simulate={scenario}" if scenario and self.dialler.target.simulated else ""
        return Witness(client, request.route, request.model + suffix, user or "")

    async def dial(
        self,
        request: DialRequest,
        progress: DialProgress,
        client: str,
        user: str | None = None,
        *,
        is_recovery: bool = False,
    ) -> UpstreamConnection:
        """Dial for `client`, the name under which it is limited, and its user, and retry once if the failure is temporary.

        Both attempts share the timeout of one dial. Raises Failure: from the breaker, without an attempt (phase `breaker`),
        or from the last attempt. Cancellation aborts the attempt's socket; the breaker remembers a refusal that the provider
        had begun to send (`DialProgress.refusal`). The caller owns the connection that is returned; see `UpstreamConnection`.
        """
        deadline = asyncio.get_running_loop().time() + self.dialler.timeout_seconds
        with self.breaker.permit(self.witness(client, request, user), is_recovery=is_recovery) as permit:
            self._retry_budget.record_dial()
            try:
                connected = await self._dial(request, progress, deadline, may_retry=not permit.is_trial)
            except Failure as failure:
                self.breaker.failed(failure, permit)
                raise
            except asyncio.CancelledError:
                if progress.refusal is not None:
                    self.breaker.failed(progress.refusal, permit)
                raise
        self.breaker.succeeded(permit.witness, proves_key=self.awaits_first_event(request))
        return connected

    @contextmanager
    def permit_live_start(self, client: str, model: str, *, user: str | None = None) -> Iterator[None]:
        """Remember the outcome of a GPT-Live start, which the block awaits, like that of a dial.

        The provider refuses model, credit and access only then. Raises Failure with phase `breaker` on entry, as `dial` does.
        """
        witness = Witness(client, "live", model, user or "")
        with self.breaker.permit(witness) as permit:
            try:
                yield
            except Failure as failure:
                hints.add_hint(failure, self.dialler.target, request=DialRequest(endpoint="live"), model=model)
                self.breaker.failed(failure, permit)
                raise
        self.breaker.succeeded(witness)

    def _may_retry(self, failure: Failure) -> bool:
        return (
            failure.reason in _RETRIED_REASONS
            and failure.retry_after_seconds is None
            and self._retry_budget.try_acquire()
        )

    async def _dial(
        self, request: DialRequest, progress: DialProgress, deadline: float, *, may_retry: bool
    ) -> UpstreamConnection:
        """Dial once, or twice before `deadline` (loop time). A trial is not retried: all others wait for its outcome."""
        try:
            return await self.dialler.dial(request, progress)
        except Failure as failure:
            pause = random.uniform(*RETRY_PAUSE_SECONDS)  # noqa: S311 - jitter
            remaining_seconds = deadline - asyncio.get_running_loop().time() - pause
            if not may_retry or remaining_seconds < MIN_RETRY_SECONDS or not self._may_retry(failure):
                raise
            progress.refusal = failure  # if the client leaves during the pause
        if self._on_retry is not None:
            self._on_retry()
        await asyncio.sleep(pause)
        return await self.dialler.dial(request, progress, timeout_seconds=remaining_seconds)
