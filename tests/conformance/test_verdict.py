"""The verdict of the conformance runs: which reports pass."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.conformance.verdict import EXPLAINED, FULL, LIMITED, SHORT, SIZES, Verdict, judge

CHAPTER_3 = tuple(f"3.{number}" for number in range(1, 8))


def reports(**others: tuple[str, str]) -> dict[str, Any]:
    """One agent's part of an `index.json` as wstest writes it: chapter 3 passed, except the given cases (`case_3_1=...`)."""
    found = dict.fromkeys(CHAPTER_3, ("OK", "OK"))
    found |= {name.removeprefix("case_").replace("_", "."): words for name, words in others.items()}
    return {
        case: {
            "behavior": behavior,
            "behaviorClose": close,
            "duration": 2,
            "remoteCloseCode": 1002,
            "reportfile": f"relay_case_{case.replace('.', '_')}.json",
        }
        for case, (behavior, close) in found.items()
    }


def verdict_on(explained: Mapping[str, str] | None = None, **others: tuple[str, str]) -> Verdict:
    """The verdict on chapter 3 and the given cases."""
    found = reports(**others)
    return judge(found, tuple(found), ("3.*",), explained or {})


def test_ok_and_informational_cases_pass() -> None:
    """Both are counted."""
    verdict = verdict_on(case_3_2=("INFORMATIONAL", "INFORMATIONAL"), case_3_3=("OK", "INFORMATIONAL"))

    assert verdict == Verdict({"ok": 5, "informational": 2}, [], {})


@pytest.mark.parametrize(
    "words",
    [
        ("FAILED", "OK"),
        ("OK", "FAILED"),
        ("OK", "UNCLEAN"),
        ("OK", "WRONG CODE"),
        ("FAILED", "FAILED BY CLIENT"),
        ("INFORMATIONAL", "FAILED BY CLIENT"),
        ("NON-STRICT", "FAILED"),
        ("OK", "UNKNOWN RESULT"),
    ],
)
def test_failed_case_is_a_problem_despite_explanation(words: tuple[str, str]) -> None:
    """A case fails by its behaviour or by its closing handshake."""
    verdict = verdict_on({"3.4": "Known."}, case_3_4=words)

    assert {"ok": 6, "failed": 1} == verdict.counts
    assert [f"3.4: failed (behaviour {words[0]}, close {words[1]})"] == verdict.problems
    assert not verdict.accepted


@pytest.mark.parametrize("words", [("NON-STRICT", "OK"), ("OK", "NON-STRICT")])
def test_non_strict_case_needs_an_explanation(words: tuple[str, str]) -> None:
    """Without an explanation it is a problem; with one it passes and is listed under it."""
    unexplained = verdict_on({"3.2": "Another case."}, case_3_4=words)
    explained = verdict_on({"3.4": "Because."}, case_3_4=words)

    assert len(unexplained.problems) == 1
    assert unexplained.problems[0].startswith("3.4: non-strict without an explanation")
    assert ([], {"Because.": ["3.4"]}) == (explained.problems, explained.accepted)
    assert {"ok": 6, "non-strict": 1} == explained.counts


@pytest.mark.parametrize(("close_code", "passes"), [(1008, True), (1002, False), (None, False)])
def test_limited_case_passes_only_if_the_relay_closed_with_1008(close_code: int | None, *, passes: bool) -> None:
    """Any other end of it is a failure, and so is the same end of another case."""
    found = reports(case_3_4=("FAILED", "FAILED"))
    found["3.4"]["remoteCloseCode"] = close_code
    limited = judge(found, CHAPTER_3, ("3.*",), {}, {"3.4": "A limit."})
    other = judge(found, CHAPTER_3, ("3.*",), {}, {"3.5": "A limit."})

    assert ({"A limit.": ["3.4"]} if passes else {}) == limited.accepted
    assert [not passes, True] == [bool(verdict.problems) for verdict in (limited, other)]


def test_missing_report_is_a_problem() -> None:
    """The suite selected the case, but wrote no report for it."""
    found = reports()
    del found["3.5"]
    verdict = judge(found, CHAPTER_3, ("3.*",))

    assert (["3.5: not run"], 1) == (verdict.problems, verdict.counts["missing"])


def test_incomplete_suite_is_a_problem() -> None:
    """A chapter with fewer cases than known, or a pattern without a case, is a problem."""
    found = reports()
    del found["3.5"]
    verdict = judge(found, tuple(found), ("3.*", "9.1.1"))

    assert ["3.*: the suite has 6 of 7 cases", "9.1.1: the suite has 0 of 1 cases"] == verdict.problems


def test_empty_run_does_not_pass() -> None:
    """A run without cases has a problem per chapter."""
    assert len(judge({}, (), FULL).problems) == len(FULL)


def test_compression_cases_must_be_unimplemented() -> None:
    """Negotiated compression is a problem, and so is an unimplemented case of another chapter."""
    good = verdict_on(case_12_1_1=("UNIMPLEMENTED", "OK"))
    negotiated = verdict_on(case_12_1_1=("OK", "OK"), case_13_7_1=("NON-STRICT", "OK"))
    lacking = verdict_on(case_3_1=("UNIMPLEMENTED", "OK"))

    assert ([], 1) == (good.problems, good.counts["unimplemented"])
    assert ["12.1.1", "13.7.1"] == [problem.split(": compression was negotiated")[0] for problem in negotiated.problems]
    assert ["3.1"] == [problem.split(": reported as unimplemented")[0] for problem in lacking.problems]


def test_problems_are_sorted_by_case_number() -> None:
    """Chapter 10 follows 9, not 1."""
    failed = ("FAILED", "OK")
    verdict = verdict_on(case_10_1_1=failed, case_9_1_1=failed, case_3_7=failed, case_1_1_1=failed)

    assert ["1.1.1", "3.7", "9.1.1", "10.1.1"] == [problem.split(":")[0] for problem in verdict.problems]


def test_tables_of_cases_are_consistent() -> None:
    """Each chapter has a size, the short run is part of the full run, and explained cases are in both."""
    assert tuple(SIZES) == FULL
    for case in SHORT:
        assert case in FULL or any(fnmatchcase(case, pattern) for pattern in FULL)
    for case in EXPLAINED:
        assert any(fnmatchcase(case, pattern) for pattern in SHORT)
    assert all(any(fnmatchcase(case, pattern) for pattern in FULL) for case in LIMITED)
