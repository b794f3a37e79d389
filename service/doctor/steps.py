"""The ladder: rungs, their results, and the rule that the first broken one ends the climb. No I/O but the clock.

Rules of this file:

* A rung that works returns `Found`; one that breaks raises `Failure` (spoken of in the catalogue's words) or `Broken`.
* Behind a broken rung nothing is tried: what comes after it would only fail for the same cause. Warnings do not stop.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from service.failures import CATALOGUE, Failure, Phase

Status = Literal["ok", "warn", "fail", "skipped"]
Explanations = Mapping[str, tuple[str, str]]
"""Sentence and remedy by reason, where the catalogue's speak of another peer."""

NOT_TRIED: Final = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rung that holds has found. `seconds` only if it is not the time that the work took."""

    finding: str
    notes: Sequence[str] = ()
    status: Literal["ok", "warn", "skipped"] = "ok"
    seconds: float | None = None


class StepFailed(Exception):
    """A rung does not hold. `reason` is the catalogue's, None where it has no row (bad settings)."""

    def __init__(
        self, finding: str, *, reason: str | None = None, remedy: str | None = None, notes: Sequence[str] = ()
    ) -> None:
        super().__init__(finding)
        self.finding = finding
        self.reason = reason
        self.remedy = remedy
        self.notes = tuple(notes)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one rung."""

    name: str
    status: Status
    finding: str
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str | None = None
    remedy: str | None = None

    @property
    def anchor(self) -> str | None:
        """Where the documents speak of the reason."""
        return CATALOGUE[self.reason].anchor if self.reason in CATALOGUE else None

    def as_object(self) -> dict[str, object]:
        """For machines; the keys are always the same."""
        return {
            "name": self.name,
            "status": self.status,
            "seconds": round(self.seconds, 4),
            "finding": self.finding,
            "notes": list(self.notes),
            "reason": self.reason,
            "remedy": self.remedy,
            "anchor": self.anchor,
        }


class Reporter(Protocol):
    """Who is told of the progress."""

    def step_started(self, name: str) -> None:
        """A rung is being tried."""

    def step_finished(self, result: StepResult) -> None:
        """A rung has its result."""

    def announce(self, sentence: str) -> None:
        """Something has to be known before the next rung is tried."""


class StepRunner:
    """The results so far. `broken` is the rung at which the climb ended, None while it goes on."""

    def __init__(self, watcher: Reporter) -> None:
        self.results: list[StepResult] = []
        self.failed: StepResult | None = None
        self.words: Explanations = {}
        self._watcher = watcher

    def announce(self, sentence: str) -> None:
        """Say something before a rung, unless it will not be tried."""
        if self.failed is None:
            self._watcher.announce(sentence)

    async def run_step(self, name: str, work: Callable[[], Awaitable[Finding]]) -> None:
        """Try one rung, unless one before it is broken."""
        if self.failed is not None:
            self._add(StepResult(name, "skipped", NOT_TRIED))
            return
        self._watcher.step_started(name)
        since = time.perf_counter()
        try:
            found = await work()
        except Failure as failure:
            self._break(name, step_failed(failure, words=self.words), since)
        except StepFailed as broken:
            self._break(name, broken, since)
        except Exception as exc:  # noqa: BLE001 - a fault of the doctor must not hide what the other rungs have found
            kind = type(exc).__name__
            self._break(name, step_failed(Failure("internal_error"), f"The doctor itself failed: {kind}."), since)
        else:
            seconds = time.perf_counter() - since if found.seconds is None else found.seconds
            self._add(StepResult(name, found.status, found.finding, seconds, tuple(found.notes)))

    def _break(self, name: str, broken: StepFailed, since: float) -> None:
        seconds = time.perf_counter() - since
        self.failed = StepResult(name, "fail", broken.finding, seconds, broken.notes, broken.reason, broken.remedy)
        self._add(self.failed)

    def _add(self, result: StepResult) -> None:
        self.results.append(result)
        self._watcher.step_finished(result)


def step_failed(failure: Failure, *notes: str, words: Explanations | None = None) -> StepFailed:
    """A failure as a broken rung: the catalogue's words, then what the wire said, then the notes."""
    row = failure.row
    sentence, remedy = (words or {}).get(row.reason, (row.sentence, row.remedy))
    return StepFailed(sentence, reason=row.reason, remedy=remedy, notes=(*_wire_notes(failure), *notes))


def _wire_notes(failure: Failure) -> list[str]:
    said = [failure.upstream_code] if failure.upstream_code else []
    if failure.wire_status is not None:
        was_close = failure.phase is Phase.FIRST_EVENT
        said.insert(0, f"CLOSE {failure.wire_status}" if was_close else f"HTTP {failure.wire_status}")
    notes = [f"On the wire: {', '.join(said)}."] if said else []
    if failure.detail:
        notes.append(f"Detail: {failure.detail}.")
    if failure.retry_after_seconds is not None:
        notes.append(f"The answer asks to wait for {failure.retry_after_seconds} s.")
    return notes
