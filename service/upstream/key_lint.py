"""The lint of a target's key as the relay reports and uses it. The rules of the lint are in `realtime/keys.py`."""

from typing import Final

import structlog

from service.realtime.keys import KeyProblem, fingerprint, lint
from service.upstream.target import Target

_MISSING: Final = "missing"


def check_key(target: Target, *, origin: str | None, read_problem: str | None) -> str | None:
    """Log the fingerprint of a target's key and what is wrong with it.

    Returns the reason of the catalogue for which no dial can succeed, `key_missing` or `key_malformed`, or None.
    `origin` is where the key was read; `read_problem` is why reading it failed.
    """
    log = structlog.get_logger()
    problems = _lint(target)
    for problem in problems:
        (log.error if problem.fatal else log.warning)(
            "key.problem_found",
            problem=problem.code,
            message=problem.sentence,
            remedy=problem.remedy,
            origin=origin,
            read=read_problem,
        )
    if target.key is not None and not target.simulated:
        log.info("key.found", fingerprint=fingerprint(target.key.reveal()), origin=origin)
    return reason_for(problems[0]) if problems and problems[0].fatal else None


def fatal_problem(target: Target) -> KeyProblem | None:
    """The first problem of a target's key with which no dial can succeed, or None."""
    return next((problem for problem in _lint(target) if problem.fatal), None)


def reason_for(problem: KeyProblem) -> str:
    """The reason of the catalogue for a fatal problem."""
    return "key_missing" if problem.code == _MISSING else "key_malformed"


def _lint(target: Target) -> list[KeyProblem]:
    return lint(target.key.reveal() if target.key is not None else None, target.label)
