"""How the swaps of one session are counted and logged: causes and counts, never words."""

from collections.abc import Mapping
from typing import Final, cast

import structlog
from structlog.typing import FilteringBoundLogger

from service.realtime.continuity.continuity import PASSING
from service.realtime.continuity.replay import Replay
from service.relay.session_info import SessionInfo
from service.telemetry.continuity import ContinuityMetrics, SwapCause

_NO_ACTION: Final = "No action is needed for a single case."
_FREE_MEMORY: Final = (
    "Raise RELAY_CONTINUITY_BYTES and the container's memory limit, or let fewer clients use continuity."
)
_REMEDIES: Final = {
    "over_budget": _FREE_MEMORY,
    "no_room": _FREE_MEMORY,
    "kept_event_too_large": "Let the client send events of at most 1 MiB, such as smaller images.",
    "kept_event_too_intricate": "Let the client send events of at most 16,384 keys and values, nested a few hundred deep.",
    "items_over_limit": "Let the client set the session's truncation to auto, or keep its conversation below 512 KiB.",
}


class SwapReport:
    """Reports of one session. `begin` precedes each swap."""

    def __init__(self, info: SessionInfo, metrics: ContinuityMetrics) -> None:
        self._info = info
        self._metrics = metrics
        self._cause: SwapCause = "renewal"
        self._began_at = self._lost_at = 0.0
        self._reason: str | None = None
        self._lost_turns: dict[str, int] = {}
        self._reported: str | None = None
        self._text_answers = 0
        self._is_postponed = False
        self.attempts = 0
        self.renewals = self.recoveries = 0

    @property
    def _log(self) -> FilteringBoundLogger:
        info, log = self._info, cast("FilteringBoundLogger", structlog.get_logger())
        return log.bind(session_id=info.session_id, client=info.client, model=info.model)

    def begin(self, cause: SwapCause, now: float, *, reason: str | None = None) -> None:
        """A renewal is due, or upstream is lost; `reason` is that of the ending otherwise."""
        if cause == "loss" or not (cause == "forced" and self._began_at):
            self._began_at, self.attempts = now, 0
        self._cause, self._reason, self._is_postponed = cause, reason, False
        self._lost_at = now

    def done(self, now: float, replay: Replay, lost_turns: Mapping[str, int]) -> None:
        """Another connection carries the session."""
        is_renewal = self._cause == "renewal"
        self.renewals += self._cause != "loss"
        self.recoveries += self._cause == "loss"
        gap = 0.0 if is_renewal else now - self._lost_at
        metrics, lost = self._metrics, {why: n - self._lost_turns.get(why, 0) for why, n in lost_turns.items()}
        self._lost_turns = dict(lost_turns)
        metrics.count_swap(self._cause, "ok")
        metrics.seconds.labels(self._cause).observe(now - self._began_at)
        metrics.gap.labels(self._cause).observe(gap)
        metrics.count_items(sent=replay.sent_items, refused=len(replay.refused), omitted=len(replay.omitted))
        for why, count in lost.items():
            metrics.count_lost_turns(why, count)
        self._log.info(
            "session.recovered" if self._cause == "loss" else "session.renewed",
            cause=self._cause,
            reason=self._reason,
            seconds=round(now - self._began_at, 3),
            gap_seconds=round(gap, 3),
            attempts=self.attempts,
            items_sent=replay.sent_items,
            items_refused=len(replay.refused),
            items_omitted=len(replay.omitted),
            turns_lost=sum(lost.values()),
            bytes_sent=replay.sent_bytes,
            differing=list(replay.differing),
        )
        self._began_at = 0.0

    def renewal_failed(self, why: str) -> None:
        """A connection could not be prepared: the session stays on the one that it has."""
        self._began_at = 0.0
        self._metrics.count_swap("renewal", "failed")
        self._log.warning(
            "session.renewal_failed",
            message="No other upstream connection could be prepared. The session keeps the one that it has.",
            remedy="The relay tries again. If all fail, see RelayRenewalsFailing in docs/runbooks/alerts.md.",
            reason=why,
            attempts=self.attempts,
        )

    def postponed(self, why: str) -> None:
        """A renewal is due, and waits for the end of what prevents it; reported once for each renewal."""
        if not self._is_postponed:
            self._is_postponed = True
            self._metrics.count_swap("renewal", "postponed")
            self._log.info("session.renewal_postponed", reason=why)

    def not_recovered(self, why: str) -> None:
        """Upstream is lost, and the session ends, because it cannot be continued."""
        self._metrics.count_swap("loss", "ended")
        self._log_end(why, 0)

    def given_up(self, why: str) -> None:
        """Upstream is lost, and no other connection was found in time."""
        self._metrics.count_swap(self._cause, "ended")
        self._log_end(why, self.attempts)

    def _log_end(self, why: str, attempts: int) -> None:
        self._log.warning(
            "session.not_recovered",
            message="The upstream connection was lost and cannot be replaced. The session ends.",
            reason=why,
            attempts=attempts,
        )

    def text_answers(self, count: int) -> None:
        """After a swap this many answers were text, where speech was due."""
        if count > self._text_answers:
            self._metrics.text_answers.inc(count - self._text_answers)
            self._text_answers = count

    def not_renewable(self, why: str | None) -> None:
        """The session cannot be continued, from now on; counted once."""
        if why is None or why in PASSING or why == self._reported:
            return
        self._reported = why
        self._metrics.count_not_renewable(why)
        self._log.warning(
            "session.not_renewable",
            message="The session goes on without continuity. It ends with its upstream connection.",
            remedy=_REMEDIES.get(why, _NO_ACTION),
            reason=why,
        )
