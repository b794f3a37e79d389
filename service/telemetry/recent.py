"""What happened lately, for the operator's page: outcomes of connections, failures, lag of the event loop. Pure.

Everything is bounded: an hour of counts by reason, the last failures, a minute of lag. Nothing of a conversation is kept. The
counts change once per connection, never per message.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import Final, Literal

from service.failures import CATALOGUE, Blame, Failure

BUCKET_SECONDS: Final = 10
MAX_BUCKETS: Final = 360
"""An hour. Each bucket holds at most one count for each reason of the catalogue."""
MAX_FAILURES: Final = 200
MAX_CHARACTERS: Final = 200
"""Of a text in a failure; a client can send a model name of 2 kB."""
_LAG_SAMPLES: Final = 120

Kind = Literal["refused", "connect_failed", "session_ended"]


def counts_against_objective(reason: str) -> bool:
    """Whether a failed connection with this reason counts against the objective, as in the alerts."""
    return CATALOGUE[reason].blame is not Blame.CLIENT and reason != "relay_draining"


@dataclass(slots=True)
class _Bucket:
    number: int
    succeeded: int = 0
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Window:
    """The outcomes of the last `seconds`. The points are counts, oldest first, each over `point_seconds`.

    `failed` are the failures that count against the objective; `by_reason` holds all of them.
    """

    seconds: int
    point_seconds: int
    succeeded: list[int]
    failed: list[int]
    by_reason: Mapping[str, int]

    @property
    def success_ratio(self) -> float | None:
        """Successes among the connections that count against the objective; None if there are none."""
        total = sum(self.succeeded) + sum(self.failed)
        return sum(self.succeeded) / total if total else None


class RecentOutcomes:
    """Counts how connections began, in buckets of BUCKET_SECONDS. `clock` returns seconds and never goes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: deque[_Bucket] = deque(maxlen=MAX_BUCKETS)  # those without a connection are missing

    def succeeded(self) -> None:
        """Count a connection that reached the provider's first event."""
        self._current().succeeded += 1

    def failed(self, reason: str) -> None:
        """Count a connection that did not."""
        failures = self._current().failures
        failures[reason] = failures.get(reason, 0) + 1

    def window(self, seconds: int, points: int) -> Window:
        """The last `seconds`, a multiple of `points` buckets; the current bucket is the last part."""
        size = seconds // points
        first = self._number() - seconds // BUCKET_SECONDS + 1
        succeeded, failed, by_reason = [0] * points, [0] * points, dict[str, int]()
        for bucket in self._buckets:
            point = (bucket.number - first) * BUCKET_SECONDS // size
            if not 0 <= point < points:
                continue
            succeeded[point] += bucket.succeeded
            for reason, count in bucket.failures.items():
                by_reason[reason] = by_reason.get(reason, 0) + count
                failed[point] += count if counts_against_objective(reason) else 0
        return Window(seconds, size, succeeded, failed, by_reason)

    def _number(self) -> int:
        return int(self._clock() // BUCKET_SECONDS)

    def _current(self) -> _Bucket:
        number = self._number()
        if not self._buckets or self._buckets[-1].number != number:
            self._buckets.append(_Bucket(number))
        return self._buckets[-1]


@dataclass(slots=True)
class RecentFailure:
    """One failure as it was logged. It holds no exception: a traceback would keep the headers of a request alive."""

    at: float  # wall clock
    kind: Kind
    reason: str
    session_id: str
    client: str
    address: str
    model: str | None
    remedy: str
    phase: str | None = None
    upstream_status: int | None = None
    upstream_code: str | None = None
    detail: str | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    _shown: dict[str, object] | None = None

    def shown(self, redact: Callable[[str], str]) -> dict[str, object]:
        """The failure for an operator, without secrets. Made when it is first asked for, so that a flood costs little."""
        if self._shown is None:
            row = CATALOGUE[self.reason]
            self._shown = {
                "time": round(self.at, 3),
                "kind": self.kind,
                "reason": self.reason,
                "message": row.sentence,
                "remedy": redact(self.remedy),
                "blame": row.blame,
                "retry": row.retry,
                "runbook": {"name": row.page, "anchor": self.reason},
                "phase": self.phase,
                "upstream_status": self.upstream_status,
                "upstream_code": self.upstream_code and redact(self.upstream_code),
                "detail": self.detail and redact(self.detail),
                "evidence": {name: redact(text) for name, text in self.evidence.items()},
                "session_id": self.session_id,
                "client": redact(self.client),
                "address": redact(self.address),
                "model": self.model and redact(self.model),
            }
        return self._shown


class RecentFailures:
    """The last MAX_FAILURES failures. `total` counts all of them.

    Those that clients cause have half of the places at most: a flood of them leaves the others listed.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._of_clients: deque[tuple[int, RecentFailure]] = deque(maxlen=MAX_FAILURES // 2)  # with its number
        self._others: deque[tuple[int, RecentFailure]] = deque(maxlen=MAX_FAILURES)
        self.total = 0

    def connection_failed(
        self, kind: Kind, failure: Failure, *, session_id: str, client: str, address: str, model: str | None
    ) -> None:
        """Keep a connection that was refused, or whose dial or start failed."""
        self._add(
            RecentFailure(
                self._wall_clock(), kind, failure.reason, session_id, cut(client), cut(address), model and cut(model),
                failure.remedy, failure.phase, failure.wire_status, failure.upstream_code and cut(failure.upstream_code),
                failure.detail and cut(failure.detail),
                {name: cut(text) for name, text in failure.evidence.items()},
            )
        )  # fmt: skip

    def session_ended(
        self, reason: str, *, session_id: str, client: str, address: str, model: str | None, detail: str | None
    ) -> None:
        """Keep the end of a session that the operator may have to act on."""
        remedy = CATALOGUE[reason].operator_action
        self._add(
            RecentFailure(
                self._wall_clock(), "session_ended", reason, session_id, cut(client), cut(address), model and cut(model),
                remedy, detail=detail and cut(detail),
            )
        )  # fmt: skip

    def newest(self, limit: int) -> list[RecentFailure]:
        """At most `limit` of them, newest first."""
        newest = merge(reversed(self._of_clients), reversed(self._others), key=lambda item: item[0], reverse=True)
        return [failure for _, failure in islice(newest, min(limit, MAX_FAILURES))]

    def _add(self, failure: RecentFailure) -> None:
        ring = self._of_clients if CATALOGUE[failure.reason].blame is Blame.CLIENT else self._others
        ring.append((self.total, failure))
        self.total += 1


class RecentLag:
    """The lag of the event loop in the last minute, in seconds."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=_LAG_SAMPLES)

    def observe(self, seconds: float) -> None:
        """Add a measurement."""
        self._samples.append(seconds)

    @property
    def last(self) -> float | None:
        """The last measurement."""
        return self._samples[-1] if self._samples else None

    @property
    def greatest(self) -> float | None:
        """The greatest one."""
        return max(self._samples, default=None)


class Recent:
    """What the operator's page shows of the past."""

    def __init__(self, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self.outcomes = RecentOutcomes(clock)
        self.failures = RecentFailures(wall_clock)
        self.lag = RecentLag()


def cut(text: str) -> str:
    """At most MAX_CHARACTERS of a text."""
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"
