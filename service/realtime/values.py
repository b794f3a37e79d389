"""Checked values from parsed JSON, which may hold anything. Pure."""

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

OTHER: Final = "other"


def finite_number(value: object) -> float | None:
    """The value as a float if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def bounded_number(value: object, largest: float) -> float | None:
    """The value as a float if it is a number from 0 to `largest`, else None: a counter never recovers from a wrong value."""
    number = finite_number(value)
    return number if number is not None and 0 <= number <= largest else None


def member(value: object, known: Collection[str]) -> str:
    """The value if it is one of `known`, else `other`."""
    return value if isinstance(value, str) and value in known else OTHER


def child(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The object under a name; empty if there is none."""
    value = body.get(name)
    return value if isinstance(value, Mapping) else {}
