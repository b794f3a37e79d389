"""The verdict of `make chaos`: which measurements break a bound."""

import math
from dataclasses import replace
from typing import Any

import pytest

from chaos.verdict import Measurement, broken_bounds, comparison_row, depends_on_time, percentile, row

CONTROL = Measurement(p99_ms=5, worst_ms=9, livez_ms=10, growth_mb=0, cpu_share=0.1, messages=100, new_calls=5)


def broken(**changes: Any) -> list[str]:
    """The broken bounds of a measurement that differs from the control."""
    return broken_bounds(replace(CONTROL, **changes), CONTROL, growth_mb=20)


def test_control_breaks_no_bound() -> None:
    """As little as a measurement at the bounds, which are raised by twice the control's times."""
    assert not broken()
    assert not broken(p99_ms=60, livez_ms=220, growth_mb=20)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p99_ms": 61.0}, "p99 61 ms > 60"),
        ({"p99_ms": math.nan}, "p99 nan ms > 60"),
        ({"livez_ms": 221.0}, "/livez 221 ms > 220"),
        ({"growth_mb": 21.0}, "21 MB > 20"),
        ({"lost": 1}, "1 messages lost, reordered or changed"),
        ({"lost_calls": 2}, "2 calls lost"),
        ({"messages": 0}, "no message passed"),
        ({"relay_ended": True}, "the relay ended"),
        ({"refused": ("new call: 503", "new call: 503", "/livez: no answer")}, "2 x new call: 503; 1 x /livez: no answer"),
        ({"attackers": '{"failed": ["KeyError()"]}'}, 'the attack failed: {"failed": ["KeyError()"]}'),
    ],
)  # fmt: skip
def test_broken_bound_is_named(changes: dict[str, Any], words: str) -> None:
    """With the value and the bound."""
    assert [words] == broken(**changes)


def test_delay_of_the_measuring_process_is_allowed() -> None:
    """It is no delay of the relay."""
    assert not broken(p99_ms=80, own_p99_ms=20, livez_ms=300, own_worst_ms=80)
    assert broken(p99_ms=81, own_p99_ms=20)


def test_measuring_process_without_a_core_judges_no_times() -> None:
    """But everything else."""
    assert not broken(p99_ms=900, livez_ms=900, own_wait_share=0.3)
    assert ["1 messages lost, reordered or changed"] == broken(p99_ms=900, lost=1, own_wait_share=0.3)
    assert row("a", "b", replace(CONTROL, own_wait_share=0.3), []).endswith("| holds; too busy for times |")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"p99_ms": 900.0}, True), ({"lost": 1}, False), ({"growth_mb": 21.0}, False), ({"refused": ("x",)}, False)],
)
def test_only_times_are_measured_again(changes: dict[str, Any], expected: bool) -> None:
    """A busy machine loses no message."""
    assert expected == depends_on_time(replace(CONTROL, **changes), growth_mb=20)


def test_row_shows_refused_calls_and_broken_bounds() -> None:
    """In the columns of the heading."""
    measured = replace(CONTROL, refused=("new call: 503",), lost_calls=1, livez_ms=math.nan)

    assert (
        "| resets | some | 5.0 | 9.0 | - | 0.0 | 10% | 4/5 | 0.0 | 0, 1 calls | 1 calls lost |"
        == row("resets", "some", measured, ["1 calls lost"])
    )  # fmt: skip


def test_comparison_shows_both_working_trees() -> None:
    """Before, then now."""
    before = replace(CONTROL, p99_ms=900, growth_mb=178, refused=("new call: 502",), new_calls=2, lost=3, lost_calls=1)

    assert (
        "| other | some | 900 -> 5.0 | 10 -> 10 | 178 -> 0 | 1 of 2 -> 0 of 5 | 4 -> 0 |"
        == comparison_row("other", "some", before, CONTROL)
    )  # fmt: skip


def test_percentile_of_nothing_is_no_number() -> None:
    """NaN compares as broken."""
    assert math.isnan(percentile([], 0.99))
    assert 99 == percentile(range(101), 0.99)
