"""The lint of a target's key as the relay reports and uses it. The rules of the lint are in `realtime/keys.py`."""

from dataclasses import dataclass
from typing import Final

import structlog

from service.failures import Failure
from service.realtime.keys import KeyProblem, fingerprint, lint
from service.upstream.target import Target

_MISSING: Final = "missing"
_REASON_MISSING: Final = "key_missing"


@dataclass(frozen=True, slots=True)
class KeyRefusal:
    """Why no dial can succeed with the key: a reason of the catalogue, and the action if the row's does not fit."""

    reason: str
    hint: str | None = None

    def failure(self) -> Failure:
        """The failure of a connection for this reason."""
        return Failure(self.reason, hint=self.hint)


def unreadable(read_problem: str) -> KeyRefusal:
    """The refusal while OPENAI_API_KEY_FILE cannot be read and no key is in use. `read_problem` names file and cause."""
    return KeyRefusal(_REASON_MISSING, f"{read_problem.rstrip('.')}. The relay reads the file again every two seconds.")


def check_key(target: Target, *, origin: str | None, read_problem: str | None) -> KeyRefusal | None:
    """Log the fingerprint of a target's key and what is wrong with it.

    Returns why no dial can succeed, with the reason `key_missing` or `key_malformed`, or None.
    `origin` is where the key was read; `read_problem` is why reading it failed.
    """
    log = structlog.get_logger()
    problems = _lint(target)
    refusal = _refusal(target, problems, read_problem)
    for problem in problems:
        is_unreadable = problem.code == _MISSING and read_problem is not None
        (log.error if problem.fatal else log.warning)(
            "key.problem_found",
            problem=problem.code,
            message="The key file cannot be used." if is_unreadable else problem.sentence,
            remedy=refusal.hint if is_unreadable and refusal else problem.remedy,
            origin=origin,
            read=read_problem,
        )
    if target.key is not None and not target.simulated:
        log.info(
            "key.found",
            message=f"A provider key is set ({origin}).",
            fingerprint=fingerprint(target.key.reveal()),
            origin=origin,
        )
    return refusal


def _refusal(target: Target, problems: list[KeyProblem], read_problem: str | None) -> KeyRefusal | None:
    if not problems or not problems[0].fatal:
        return None
    return unreadable(read_problem) if target.key is None and read_problem else refusal_for(problems[0])


def fatal_problem(target: Target) -> KeyProblem | None:
    """The first problem of a target's key with which no dial can succeed, or None."""
    return next((problem for problem in _lint(target) if problem.fatal), None)


def refusal_for(problem: KeyProblem) -> KeyRefusal:
    """The refusal for a fatal problem; the catalogue's remedy of `key_malformed` can only list the usual ones."""
    if problem.code == _MISSING:
        return KeyRefusal(_REASON_MISSING)
    return KeyRefusal("key_malformed", f"{problem.sentence} {problem.remedy}")


def _lint(target: Target) -> list[KeyProblem]:
    return lint(target.key.reveal() if target.key is not None else None, target.label)
