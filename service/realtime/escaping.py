"""Text from outside, made fit for a log line, a message or a terminal. Pure."""

from typing import Final

_MAX_CHARACTERS: Final = 100


def escaped(text: str, maximum: int = _MAX_CHARACTERS) -> str:
    """Return a text as printable ASCII of at most `maximum` characters; a cut text ends with `...`."""
    plain = text[: maximum + 1].encode("unicode_escape").decode("ascii")
    return plain if len(plain) <= maximum else plain[: maximum - 3] + "..."
