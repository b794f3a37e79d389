"""Bounds what the relay parses: the time of a JSON parser grows with the values, not with the bytes. Pure."""

from typing import Final

MAX_SEPARATORS: Final = 16_384
"""Maximum number of commas, colons and opening brackets outside of strings: a parser and a review need 30 ms for them."""
MAX_PARSED_SEPARATORS: Final = 2 * MAX_SEPARATORS
"""The same for any event: more than in what upstream answers to a client's largest."""
_SEPARATORS: Final = (b",", b":", b"[", b"{")


def is_intricate(payload: bytes, limit: int = MAX_SEPARATORS) -> bool:
    """Whether a payload has more keys and values than can be parsed without a delay for other sessions.

    What strings contain does not count: two megabytes of audio, of a picture or of text are one value.
    """
    if len(payload) <= limit or _separators(payload) <= limit:
        return False
    plain = payload.replace(b"\\\\", b"").replace(b'\\"', b"")  # then each quotation mark begins or ends a string
    if plain.count(b'"') > 2 * limit + 2:  # after each string but the last is a separator
        return True
    return _separators(b"".join(plain.split(b'"')[::2])) > limit


def _separators(data: bytes) -> int:
    return sum(map(data.count, _SEPARATORS))
