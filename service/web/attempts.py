"""One client's request for a session, and how its outcome is logged and counted."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from service.access.budgets import Budgets
from service.access.clients import UNIDENTIFIED, Identity
from service.access.limits import limited_client
from service.access.secrets import PresentedSecret
from service.failures import DIAL_FAILURES, Blame, Failure, Phase
from service.realtime.policy import Policy
from service.realtime.secret_request import BoundSession
from service.telemetry.metrics import Metrics
from service.telemetry.recent import Kind
from service.upstream.dial import DialProgress


@dataclass(slots=True)
class ConnectionAttempt:
    """What is known so far about a client's request for a session. Admission fills it in; log lines are made from it."""

    session_id: str
    address: str
    identity: Identity = UNIDENTIFIED
    model: str | None = None
    started_at: float = field(default_factory=time.perf_counter)  # uvloop's loop time has a resolution of 1 ms
    wants_draining_event: bool = False
    wants_budget_event: bool = False
    continuity: bool | None = None  # whether the session has it; None: the answer has no header about it
    lacks_room: bool = False  # for its continuity
    counts_as_reconnect: bool = True  # False if the failure is not the client's fault
    is_live_start: bool = False
    budgets: Budgets | None = None  # None if nothing bounds what the session uses
    secret: PresentedSecret | None = None  # the client secret that it presents
    secret_refusal: Failure | None = None  # why it opens no session
    lost_place: bool = False  # other instances have taken its place while this one did not reach the store

    @property
    def client(self) -> str:
        """The name of the client in log lines."""
        return self.identity.client.name

    @property
    def bound_session(self) -> BoundSession | None:
        """The session to which the client's secret is bound."""
        return self.secret.grant.session if self.secret is not None else None

    @property
    def policy(self) -> Policy | None:
        """The policy of the session: that of the client, and what the client's secret locks in addition."""
        policy, bound = self.identity.client.policy, self.bound_session
        if bound is None or not bound.locked:
            return policy
        policy = policy or Policy(name="of the client secret")
        return replace(policy, locked=policy.locked | bound.locked)

    @property
    def instructions(self) -> str | None:
        """The instructions with which the session starts: those of the client's secret precede those of the policy."""
        bound, policy = self.bound_session, self.identity.client.policy
        found = bound.configuration.get("instructions") if bound is not None else None
        return found if isinstance(found, str) else policy.instructions if policy is not None else None

    @property
    def limited_as(self) -> str:
        """The name under which the client's sessions and dials are counted."""
        return limited_client(self.client, self.address)


class AttemptReporter:
    """Logs and counts the outcome of attempts.

    `on_dial_result` receives the failure of each dial, or None for a dial that proves that the provider serves the relay's
    key. `on_live_started` is called for each GPT-Live session that has started. Health checks use both, because live traffic
    is better evidence than a probe.
    """

    def __init__(
        self,
        metrics: Metrics,
        on_dial_result: Callable[[Failure | None], None],
        on_live_started: Callable[[], object] = lambda: None,
    ) -> None:
        self._metrics = metrics
        self._on_dial_result = on_dial_result
        self._on_live_started = on_live_started
        self._log = structlog.get_logger()

    def admitted(self) -> None:
        """Count an attempt that passed admission."""
        self._metrics.admissions.labels("admitted").inc()

    def refused(self, failure: Failure, attempt: ConnectionAttempt, *, is_counted: bool = True) -> None:
        """Log a request that the relay refuses without a dial, and count it unless it is no client's."""
        attempt.counts_as_reconnect = failure.row.blame is Blame.CLIENT
        if is_counted:
            self._metrics.count_admission_failure(failure)
            self._keep("refused", failure, attempt)
        self._log_failure("admission.refused", failure, attempt)

    def dial_failed(self, failure: Failure, attempt: ConnectionAttempt, progress: DialProgress) -> None:
        """Log and count a dial that failed, or that the client did not wait for."""
        attempt.counts_as_reconnect = failure.row.blame is Blame.CLIENT
        self._metrics.observe_dial(progress.seconds)
        self._metrics.count_dial_failure(failure)
        if attempt.is_live_start:
            self._metrics.live.start_failures.labels(failure.reason).inc()
        self._on_dial_result(failure)
        self._keep("connect_failed", failure, attempt)
        self._log_failure("upstream.connect_failed", failure, attempt)

    def dial_succeeded(self, attempt: ConnectionAttempt, progress: DialProgress, *, awaited_first_event: bool) -> None:
        """Count a dial that succeeded. One that awaited no first event proves only a 101, and a rejected key gets one."""
        self._metrics.observe_dial(progress.seconds)
        seconds = time.perf_counter() - attempt.started_at
        self._metrics.time_to_first_event.labels(self._metrics.upstream).observe(seconds)
        self._metrics.count_connected()
        if awaited_first_event:
            self._on_dial_result(None)

    def connected_to_live(self, progress: DialProgress) -> None:
        """Record a dial of GPT-Live, which succeeds only with its start."""
        self._metrics.observe_dial(progress.seconds)

    def live_started(self, start_seconds: float) -> None:
        """Count a GPT-Live session that the provider started."""
        self._metrics.count_connected()
        self._metrics.live.start_seconds.observe(start_seconds)
        self._on_live_started()

    def start_failed(self, failure: Failure, attempt: ConnectionAttempt) -> None:
        """Log and count a GPT-Live session that did not start."""
        attempt.counts_as_reconnect = failure.row.blame is Blame.CLIENT
        self._metrics.live.start_failures.labels(failure.reason).inc()
        self._keep("connect_failed" if failure.reason in DIAL_FAILURES else "refused", failure, attempt)
        if failure.reason in DIAL_FAILURES:
            self._metrics.count_dial_failure(failure)
            if failure.phase is not Phase.BREAKER:
                self._on_dial_result(failure)
            self._log_failure("upstream.connect_failed", failure, attempt)
        else:
            self._metrics.count_start_refusal(failure)
            self._log_failure("admission.refused", failure, attempt)

    def abandoned(self, attempt: ConnectionAttempt) -> None:
        """Log an attempt whose client disconnected between the dial and the 101."""
        self._log.info("session.abandoned", session_id=attempt.session_id)

    def failed(self, attempt: ConnectionAttempt) -> None:
        """Log the unexpected exception that is being handled, with its traceback."""
        self._log.exception("request.failed", session_id=attempt.session_id)

    def _keep(self, kind: Kind, failure: Failure, attempt: ConnectionAttempt) -> None:
        self._metrics.recent.failures.connection_failed(
            kind,
            failure,
            session_id=attempt.session_id,
            client=attempt.client,
            address=attempt.address,
            model=attempt.model,
        )

    def _log_failure(self, event: str, failure: Failure, attempt: ConnectionAttempt) -> None:
        row = failure.row
        self._log.log(
            row.level,
            event,
            session_id=attempt.session_id,
            reason=failure.reason,
            message=row.sentence,
            remedy=failure.remedy,
            runbook=row.runbook,
            blame=row.blame,
            retry=row.retry,
            phase=failure.phase,
            upstream_status=failure.wire_status,
            upstream_code=failure.upstream_code,
            detail=failure.detail,
            client=attempt.client,
            user=attempt.identity.user,
            address=attempt.address,
            model=attempt.model,
            upstream=self._metrics.upstream,
            **failure.evidence,
        )
