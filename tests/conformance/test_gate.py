"""The gate of the conformance runs: what it lets through, and what not."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.conformance.gate import EXPLAINED, FULL, SHORT, SIZES, Verdict, judge

CHAPTER_3 = tuple(f"3.{number}" for number in range(1, 8))


def reports(**others: tuple[str, str]) -> dict[str, Any]:
    """One agent's part of an `index.json` as wstest writes it: chapter 3 passed, but for others (`case_3_1=...`)."""
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
    """The judgement on chapter 3 and the cases that are named."""
    found = reports(**others)
    return judge(found, tuple(found), ("3.*",), explained or {})


def test_what_passes() -> None:
    """Cases that are OK or informational pass, and are counted."""
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
        ("OK", "a word of a later suite"),
    ],
)
def test_a_failed_case_is_found(words: tuple[str, str]) -> None:
    """A case fails by what it did or by how it closed, and no explanation excuses that."""
    verdict = verdict_on({"3.4": "It is known."}, case_3_4=words)

    assert {"ok": 6, "failed": 1} == verdict.counts
    assert [f"3.4: it failed (behaviour {words[0]}, close {words[1]})"] == verdict.problems
    assert not verdict.non_strict


@pytest.mark.parametrize("words", [("NON-STRICT", "OK"), ("OK", "NON-STRICT")])
def test_a_case_that_is_not_strict_needs_an_explanation(words: tuple[str, str]) -> None:
    """Without an explanation it is a problem; with one it passes and is shown under it."""
    unexplained = verdict_on({"3.2": "Another case."}, case_3_4=words)
    explained = verdict_on({"3.4": "Because."}, case_3_4=words)

    assert len(unexplained.problems) == 1
    assert unexplained.problems[0].startswith("3.4: it is not strict, and nothing explains that")
    assert ([], {"Because.": ["3.4"]}) == (explained.problems, explained.non_strict)
    assert {"ok": 6, "non-strict": 1} == explained.counts


def test_a_missing_case_is_found() -> None:
    """A case that the suite was to run and has no report of is a problem."""
    found = reports()
    del found["3.5"]
    verdict = judge(found, CHAPTER_3, ("3.*",))

    assert (["3.5: it was not run"], 1) == (verdict.problems, verdict.counts["missing"])


def test_a_suite_that_has_lost_cases_is_found() -> None:
    """A chapter that is shorter than it should be, or a case that does not exist, is a problem, whatever the suite says."""
    found = reports()
    del found["3.5"]
    verdict = judge(found, tuple(found), ("3.*", "9.1.1"))

    assert ["3.*: the suite has 6 of 7 cases", "9.1.1: the suite has 0 of 1 cases"] == verdict.problems


def test_nothing_at_all_does_not_pass() -> None:
    """A run in which nothing happened has a problem for each chapter."""
    assert len(judge({}, (), FULL).problems) == len(FULL)


def test_compression_is_not_agreed_on() -> None:
    """Cases about compression have to be unimplemented, and no others may be."""
    good = verdict_on(case_12_1_1=("UNIMPLEMENTED", "OK"))
    agreed = verdict_on(case_12_1_1=("OK", "OK"), case_13_7_1=("NON-STRICT", "OK"))
    lacking = verdict_on(case_3_1=("UNIMPLEMENTED", "OK"))

    assert ([], 1) == (good.problems, good.counts["unimplemented"])
    assert ["12.1.1", "13.7.1"] == [problem.split(": compression was agreed on")[0] for problem in agreed.problems]
    assert ["3.1"] == [problem.split(": it is called unimplemented")[0] for problem in lacking.problems]


def test_problems_are_in_the_order_of_the_suite() -> None:
    """Chapter 10 comes after 9, not after 1."""
    failed = ("FAILED", "OK")
    verdict = verdict_on(case_10_1_1=failed, case_9_1_1=failed, case_3_7=failed, case_1_1_1=failed)

    assert ["1.1.1", "3.7", "9.1.1", "10.1.1"] == [problem.split(":")[0] for problem in verdict.problems]


def test_the_tables_agree() -> None:
    """Each chapter has its size, the short run is part of the full one, and explanations are of cases in both."""
    assert tuple(SIZES) == FULL
    for case in SHORT:
        assert case in FULL or any(fnmatchcase(case, pattern) for pattern in FULL)
    for case in EXPLAINED:
        assert any(fnmatchcase(case, pattern) for pattern in SHORT)
