"""The verdict on the reports of a fuzzing client or server. Pure.

A case passes if both its behaviour and its closing handshake are OK or informational. A NON-STRICT case (conformant, but not
the behaviour that the suite prefers) passes only with an explanation in `EXPLAINED`. The relay never negotiates compression:
cases about compression must be unimplemented, all others must not. A case of `LIMITED` passes, too, if the relay closed with
1008.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

FULL: Final = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.*", "13.*")
"""All chapters: framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, large messages, splitting, compression."""
SHORT: Final = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.2.1", "10.*")

SIZES: Final[Mapping[str, int]] = {
    "1.*": 16, "2.*": 11, "3.*": 7, "4.*": 10, "5.*": 20, "6.*": 145,
    "7.*": 37, "9.*": 54, "10.*": 1, "12.*": 90, "13.*": 126,
}  # fmt: skip
"""The number of cases per chapter (there is no 8 and no 11), to detect an incomplete suite."""

COMPRESSION: Final = ("12.*", "13.*")

Outcome = Literal["ok", "informational", "unimplemented", "non-strict", "limited", "failed", "missing"]
OUTCOMES: Final[Sequence[Outcome]] = (
    "ok",
    "informational",
    "unimplemented",
    "non-strict",
    "limited",
    "failed",
    "missing",
)
"""From best to worst."""

# The suite's results that are not failures. The others are FAILED, UNCLEAN, WRONG CODE (a close code that RFC 6455 does not
# allow) and FAILED BY CLIENT (the fuzzing client closed the connection, because the server did not).
_OUTCOMES_BY_WORD: Final[Mapping[str, Outcome]] = {
    "OK": "ok", "INFORMATIONAL": "informational", "UNIMPLEMENTED": "unimplemented", "NON-STRICT": "non-strict",
}  # fmt: skip

_CLOSED_BEFORE_THE_ECHO: Final = (
    "An invalid frame directly follows a valid message. The relay forwards the message; the invalid frame ends the session "
    "immediately, so that the echo, which arrives a moment later, is not forwarded."
)
_TEXT_IS_NOT_CHECKED: Final = (
    "The relay does not validate text. It holds the first fragments of a message until they contain its event type, and "
    "forwards a frame when it is complete: the endpoint finds the error then, and its 1007 is forwarded."
)
EXPLAINED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("3.2", "3.3", "3.4"), _CLOSED_BEFORE_THE_ECHO),
    **dict.fromkeys(("4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5"), _CLOSED_BEFORE_THE_ECHO),
    "5.15": _CLOSED_BEFORE_THE_ECHO,
    **dict.fromkeys(("6.4.1", "6.4.2", "6.4.3", "6.4.4"), _TEXT_IS_NOT_CHECKED),
}
"""The reason for which a NON-STRICT case is accepted."""

LIMITED: Final[Mapping[str, str]] = dict.fromkeys(
    ("9.3.1", "9.4.1"),
    "A message of 4 MiB in 65,537 frames within a second from upstream: the limit on its frames ends the session with 1008.",
)
"""The reason for which a limit may end a case."""
_POLICY_VIOLATION: Final = 1008

_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one side."""

    counts: Mapping[Outcome, int]
    """The number of cases per outcome."""
    problems: Sequence[str]
    """Failed, missing and unexplained cases; empty if the side passes."""
    accepted: Mapping[str, Sequence[str]]
    """Non-strict and limited cases, by their explanation."""


def judge(
    reports: Mapping[str, Any],
    cases: Sequence[str],
    patterns: Sequence[str],
    explained: Mapping[str, str] = EXPLAINED,
    limited: Mapping[str, str] = LIMITED,
) -> Verdict:
    """Judge one agent's part of `index.json`, given the cases that the suite selected and the patterns that selected them."""
    counts: Counter[Outcome] = Counter()
    problems = list(_missing_from_the_suite(cases, patterns))
    accepted: dict[str, list[str]] = {}
    for case in sorted(cases, key=_case_order):
        if case not in reports:
            counts["missing"] += 1
            problems.append(f"{case}: not run")
            continue
        behavior, close = reports[case]["behavior"], reports[case]["behaviorClose"]
        outcome = _outcome(behavior, close)
        if outcome == "failed" and case in limited and reports[case]["remoteCloseCode"] == _POLICY_VIOLATION:
            outcome = "limited"
        counts[outcome] += 1
        problem = _problem(case, outcome)
        if outcome == "limited":
            accepted.setdefault(limited[case], []).append(case)
        elif outcome == "non-strict" and case in explained:
            accepted.setdefault(explained[case], []).append(case)
        elif problem is not None:
            problems.append(f"{case}: {problem} (behaviour {behavior}, close {close})")
    return Verdict(counts, problems, accepted)


def _outcome(behavior: str, close: str) -> Outcome:
    """The worse of a case's two results; an unknown result is a failure."""
    if behavior not in _OUTCOMES_BY_WORD or close not in _OUTCOMES_BY_WORD:
        return "failed"
    return max(_OUTCOMES_BY_WORD[behavior], _OUTCOMES_BY_WORD[close], key=OUTCOMES.index)


def _problem(case: str, outcome: Outcome) -> str | None:
    """The problem with a case that has this outcome, unless an explanation accepts it."""
    compression = any(fnmatchcase(case, pattern) for pattern in COMPRESSION)
    match outcome:
        case "failed":
            return "failed"
        case "unimplemented" if not compression:
            return "reported as unimplemented"
        case "ok" | "informational" | "non-strict" if compression:
            return "compression was negotiated"
        case "non-strict":
            return "non-strict without an explanation"
    return None


def _missing_from_the_suite(cases: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    """Incomplete chapters, and patterns that select no case."""
    for pattern in patterns:
        found = sum(fnmatchcase(case, pattern) for case in cases)
        wanted = SIZES.get(pattern, 1)
        if found < wanted:
            yield f"{pattern}: the suite has {found} of {wanted} cases"


def _case_order(case: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(case))
