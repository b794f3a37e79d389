"""Bounds what the relay parses for a client: the time of a JSON parser grows with the values, not with the bytes. Pure."""

from typing import Final

MAX_SEPARATORS: Final = 16_384
"""Maximum number of commas, colons and opening brackets outside of strings: a parser and a review need 30 ms for them."""
_SEPARATORS: Final = (b",", b":", b"[", b"{")


def is_intricate(payload: bytes) -> bool:
    """Whether a payload has more keys and values than can be parsed without a delay for other sessions.

    What strings contain does not count: two megabytes of audio, of a picture or of text are one value.
    """
    if len(payload) <= MAX_SEPARATORS or _separators(payload) <= MAX_SEPARATORS:
        return False
    plain = payload.replace(b"\\\\", b"").replace(b'\\"', b"")  # then each quotation mark begins or ends a string
    if plain.count(b'"') > 2 * MAX_SEPARATORS + 2:  # behind each string but the last is a separator
        return True
    return _separators(b"".join(plain.split(b'"')[::2])) > MAX_SEPARATORS


def _separators(data: bytes) -> int:
    return sum(map(data.count, _SEPARATORS))
