"""Bounds what the relay parses: the time of a JSON parser grows with the values, not with the bytes. Pure."""

from typing import Final

MAX_SEPARATORS: Final = 16_384
"""Maximum number of commas, colons and opening brackets outside of strings: a parser and a review need 10 ms for them."""
MAX_PARSED_SEPARATORS: Final = 2 * MAX_SEPARATORS
"""The same for any event: more than in what upstream answers to a client's largest."""
_NUMBER_BYTES: Final = 8
"""Maximum bytes of all numbers for each separator, if one is long: the time of an integer grows with the square of its
digits, and a number near the smallest takes microseconds."""
_MAX_DIGITS: Final = 4_300
"""Python parses no integer of more; the time of a longer number with a point grows with its digits only."""
_SEPARATORS: Final = b",:[{"
_WHITE_SPACE: Final = b" \t\r\n"
_LONG_NUMBER: Final = b"0" * 20  # more digits than a double or a 64-bit integer has
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)


def is_intricate(payload: bytes, limit: int = MAX_SEPARATORS) -> bool:
    """Whether a payload has more keys and values, or longer numbers, than can be parsed without a delay for other sessions.

    What strings contain does not count: two megabytes of audio, of a picture or of text are one value.
    """
    if len(payload) <= limit:
        return False
    separators = _separators(payload)
    may_have_numbers = separators * _MAX_DIGITS > _NUMBER_BYTES * limit and _has_long_numbers(payload, limit)
    if separators <= limit and not may_have_numbers:
        return False
    plain = payload
    if b"\\" in payload:  # without escapes, each quotation mark begins or ends a string
        plain = payload.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if plain.count(b'"') > 2 * limit + 2:  # after each string but the last is a separator
        return True
    outside = b"".join(plain.split(b'"')[::2]).translate(None, _WHITE_SPACE)
    return _separators(outside) > limit or (may_have_numbers and _has_long_numbers(outside, limit))


def _separators(data: bytes) -> int:
    return len(data) - len(data.translate(None, _SEPARATORS))


def _has_long_numbers(data: bytes, limit: int) -> bool:
    """Whether it has, if it is all numbers."""
    return len(data) > _NUMBER_BYTES * limit and _LONG_NUMBER in data.translate(_DIGITS_AS_ZEROS)
