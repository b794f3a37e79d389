"""Reads JSON only if every parser reads it alike. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MAX_KEY: Final = 100
_SIGNS: Final = bytes(code for code in range(128) if not chr(code).isalnum())


class Unreadable(Exception):
    """A text that is no JSON object, or that parsers may read differently. The argument is a remedy."""


def parse_strictly(payload: bytes, what: str) -> Mapping[str, Any]:
    """The object in a text, whose keys are each there once; raises Unreadable, whose remedy calls the text `what`."""
    try:
        found = json.loads(payload.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise Unreadable(f"Send {what} as a JSON object in UTF-8, without a byte order mark.") from None
    if not isinstance(found, Mapping):
        raise Unreadable(f"Send {what} as a JSON object.")
    return found


def folded(key: str) -> str:
    """A key by its ASCII letters and digits only, without case: servers compare keys in different ways.

    A key that is longer than any field stays as it is, since no server takes it for one.
    """
    if len(key) > _MAX_KEY:
        return key
    return key.casefold().encode("ascii", "ignore").translate(None, _SIGNS).decode("ascii")


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Unreadable("Send each key of an object once.")
    return found


def _refuse_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")
