"""What passes: the verdict on the reports of a fuzzing client or server. Pure.

A case passes when both its behaviour and the way it was closed are OK or informational. One that the suite calls NON-STRICT
(conformant, but not what the suite would like best) passes only with an explanation in `EXPLAINED`. Compression is never
agreed on, on purpose, so that its cases have to be unimplemented, and no others may be.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

FULL: Final = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.*", "13.*")
"""All: framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, large messages, splitting, and compression."""
SHORT: Final = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.2.1", "10.*")

SIZES: Final[Mapping[str, int]] = {
    "1.*": 16, "2.*": 11, "3.*": 7, "4.*": 10, "5.*": 20, "6.*": 145,
    "7.*": 37, "9.*": 54, "10.*": 1, "12.*": 90, "13.*": 126,
}  # fmt: skip
"""How many cases a chapter has (there is no 8 and no 11), so that a suite that has lost some is noticed."""

COMPRESSION: Final = ("12.*", "13.*")

Outcome = Literal["ok", "informational", "unimplemented", "non-strict", "failed", "missing"]
OUTCOMES: Final[Sequence[Outcome]] = ("ok", "informational", "unimplemented", "non-strict", "failed", "missing")
"""From good to bad."""

# All words of the suite that are not failures. Others are FAILED, UNCLEAN, WRONG CODE (a close code that is not the RFC's)
# and FAILED BY CLIENT (the fuzzing client had to hang up, since the server did not).
_MEANINGS: Final[Mapping[str, Outcome]] = {
    "OK": "ok", "INFORMATIONAL": "informational", "UNIMPLEMENTED": "unimplemented", "NON-STRICT": "non-strict",
}  # fmt: skip

_ENDED_BEFORE_THE_ECHO: Final = (
    "A broken frame comes right behind a good message. The message is carried, and the broken frame ends the session at "
    "once, so that the echo, which comes a moment later, is carried no more."
)
_TEXT_IS_NOT_CHECKED: Final = (
    "Text is not checked for UTF-8 on the way. A message's first fragments wait until they show its event type, and a frame "
    "goes on when it is whole: the endpoint finds the mistake then, and its 1007 is passed on."
)
EXPLAINED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("3.2", "3.3", "3.4"), _ENDED_BEFORE_THE_ECHO),
    **dict.fromkeys(("4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5"), _ENDED_BEFORE_THE_ECHO),
    "5.15": _ENDED_BEFORE_THE_ECHO,
    **dict.fromkeys(("6.4.1", "6.4.2", "6.4.3", "6.4.4"), _TEXT_IS_NOT_CHECKED),
}
"""Why a case may be NON-STRICT."""

_NUMBER: Final = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one side."""

    counts: Mapping[Outcome, int]
    """How many cases came out in which way."""
    problems: Sequence[str]
    """What must not be; empty if the side passes."""
    non_strict: Mapping[str, Sequence[str]]
    """The cases that were not strict, by their explanation."""


def judge(
    reports: Mapping[str, Any],
    cases: Sequence[str],
    patterns: Sequence[str],
    explained: Mapping[str, str] = EXPLAINED,
) -> Verdict:
    """Judge one agent's part of `index.json` by the cases that the suite was to run and the patterns that chose them."""
    counts: Counter[Outcome] = Counter()
    problems = list(_missing_from_the_suite(cases, patterns))
    non_strict: dict[str, list[str]] = {}
    for case in sorted(cases, key=_in_order):
        if case not in reports:
            counts["missing"] += 1
            problems.append(f"{case}: it was not run")
            continue
        behavior, close = reports[case]["behavior"], reports[case]["behaviorClose"]
        outcome = _outcome(behavior, close)
        counts[outcome] += 1
        problem = _problem(case, outcome)
        if outcome == "non-strict" and case in explained:
            non_strict.setdefault(explained[case], []).append(case)
        elif problem is not None:
            problems.append(f"{case}: {problem} (behaviour {behavior}, close {close})")
    return Verdict(counts, problems, non_strict)


def _outcome(behavior: str, close: str) -> Outcome:
    """The worse of a case's two results. A word that is not known is a failure."""
    if behavior not in _MEANINGS or close not in _MEANINGS:
        return "failed"
    return max(_MEANINGS[behavior], _MEANINGS[close], key=OUTCOMES.index)


def _problem(case: str, outcome: Outcome) -> str | None:
    """What is wrong with a case that came out so, if nothing explains it."""
    compression = any(fnmatchcase(case, pattern) for pattern in COMPRESSION)
    match outcome:
        case "failed":
            return "it failed"
        case "unimplemented" if not compression:
            return "it is called unimplemented"
        case "ok" | "informational" | "non-strict" if compression:
            return "compression was agreed on"
        case "non-strict":
            return "it is not strict, and nothing explains that"
    return None


def _missing_from_the_suite(cases: Sequence[str], patterns: Sequence[str]) -> Iterator[str]:
    """Chapters that the suite has not in full, and patterns that chose nothing."""
    for pattern in patterns:
        found = sum(fnmatchcase(case, pattern) for case in cases)
        wanted = SIZES.get(pattern, 1)
        if found < wanted:
            yield f"{pattern}: the suite has {found} of {wanted} cases"


def _in_order(case: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(case))
