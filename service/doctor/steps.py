"""Runs the steps of a chain in order. No I/O but the clock.

* A step that passes returns a `Finding`. A step that fails raises `Failure` (a reason of the catalogue) or `StepFailed`.
* No step runs after a failed one, because it would fail for the same cause. A warning does not end the run.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, Self

from service.failures import CATALOGUE, Failure, Phase

Status = Literal["ok", "warn", "fail", "skipped"]

NOT_RUN: Final = "not run"


class Explanation(NamedTuple):
    """A sentence and a remedy that replace those of the catalogue."""

    sentence: str
    remedy: str


Explanations = Mapping[str, Explanation]
"""Explanations by reason, for a chain whose peer is not the provider."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a passed step found. Set `seconds` only if it differs from the step's run time."""

    text: str
    notes: Sequence[str] = ()
    status: Literal["ok", "warn", "skipped"] = "ok"
    seconds: float | None = None


class StepFailed(Exception):
    """A step failed. `reason` is a reason of the catalogue, None if the catalogue has none (invalid settings)."""

    def __init__(
        self, finding: str, *, reason: str | None = None, remedy: str | None = None, notes: Sequence[str] = ()
    ) -> None:
        super().__init__(finding)
        self.finding = finding
        self.reason = reason
        self.remedy = remedy
        self.notes = tuple(notes)

    @classmethod
    def from_failure(cls, failure: Failure, *notes: str, explanations: Explanations | None = None) -> Self:
        """Explain a failure by the catalogue or by `explanations`; what the peer sent precedes the notes."""
        row = failure.row
        sentence, remedy = (explanations or {}).get(row.reason, (row.sentence, failure.remedy))
        return cls(
            sentence, reason=row.reason, remedy=_without_doctor(remedy), notes=(*_received_notes(failure), *notes)
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step."""

    name: str
    status: Status
    finding: str
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    reason: str | None = None
    remedy: str | None = None

    @property
    def anchor(self) -> str | None:
        """The section of `docs/failures.md` about the reason."""
        return CATALOGUE[self.reason].anchor if self.reason in CATALOGUE else None

    def as_object(self) -> dict[str, object]:
        """The object of the JSON document; every key is always present."""
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
    """Receives the progress of a run."""

    def step_started(self, name: str) -> None:
        """A step starts."""

    def step_finished(self, result: StepResult) -> None:
        """A step has passed, failed or been skipped."""

    def announce(self, sentence: str) -> None:
        """A sentence for the user, before the next step starts."""


class StepRunner:
    """Runs steps and keeps their results. `failed` is the result of the failed step, None while there is none."""

    def __init__(self, reporter: Reporter) -> None:
        self.results: list[StepResult] = []
        self.failed: StepResult | None = None
        self.explanations: Explanations = {}
        self._reporter = reporter

    def announce(self, sentence: str) -> None:
        """Report a sentence before a step, unless the step will not run."""
        if self.failed is None:
            self._reporter.announce(sentence)

    async def run_step(self, name: str, step: Callable[[], Awaitable[Finding]]) -> None:
        """Run one step, or skip it after a failed one."""
        if self.failed is not None:
            self._add(StepResult(name, "skipped", NOT_RUN))
            return
        self._reporter.step_started(name)
        started_at = time.perf_counter()
        try:
            finding = await step()
        except Failure as failure:
            self._fail(name, StepFailed.from_failure(failure, explanations=self.explanations), started_at)
        except StepFailed as error:
            self._fail(name, error, started_at)
        except Exception as exc:  # noqa: BLE001 - a bug of one step must not hide the results of the others
            self._fail(name, _internal_error(exc), started_at)
        else:
            seconds = time.perf_counter() - started_at if finding.seconds is None else finding.seconds
            self._add(StepResult(name, finding.status, finding.text, seconds, tuple(finding.notes)))

    def _fail(self, name: str, error: StepFailed, started_at: float) -> None:
        seconds = time.perf_counter() - started_at
        self.failed = StepResult(name, "fail", error.finding, seconds, error.notes, error.reason, error.remedy)
        self._add(self.failed)

    def _add(self, result: StepResult) -> None:
        self.results.append(result)
        self._reporter.step_finished(result)


def evidence_notes(failure: Failure) -> list[str]:
    """The evidence of a failure as one note, if there is any."""
    facts = [f"{name} {value}" for name, value in failure.evidence.items()]
    return [f"Evidence: {', '.join(facts)}."] if facts else []


def requested_model(reason: str, model: str | None) -> list[str]:
    """The model that was requested as one note, if the failure concerns it: the name may be mistyped."""
    return [f"Requested: model {model}."] if model and reason in {"model_not_found", "model_refused"} else []


def _without_doctor(remedy: str) -> str:
    """A remedy without the advice to run the doctor."""
    sentences = re.split(r"(?<=[.)]) (?=[A-Z'])", remedy)
    return " ".join(sentence for sentence in sentences if "python -m service doctor" not in sentence) or remedy


def _internal_error(exc: Exception) -> StepFailed:
    # Only the type: the text of an unexpected exception may hold a secret.
    finding = f"The doctor failed because of an internal error: {type(exc).__name__}."
    return StepFailed(finding, reason="internal_error", remedy="Report this output.")


def _received_notes(failure: Failure) -> list[str]:
    received = [failure.upstream_code] if failure.upstream_code else []
    if failure.wire_status is not None:
        is_close = failure.phase in {Phase.FIRST_EVENT, Phase.SESSION_START}
        received.insert(0, f"close code {failure.wire_status}" if is_close else f"HTTP {failure.wire_status}")
    notes = [f"Received: {', '.join(received)}."] if received else []
    notes += evidence_notes(failure)
    if failure.detail:
        notes.append(f"Detail: {failure.detail}.")
    if failure.retry_after_seconds is not None:
        notes.append(f"Retry-After: {failure.retry_after_seconds} s.")
    return notes
