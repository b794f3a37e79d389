"""Mistakes in a clients file. Their texts hold no secret: what could be one is hidden."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from service.settings.secrecy import printable_value

_MAX_NUMBER_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake: the file and, if it is in a line, the line; the sentence about it, and the remedy in the imperative."""

    file: str
    line: int | None
    sentence: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line is not None else self.file
        return f"{place}: {self.sentence}. {self.remedy}."


class ClientsRejected(Exception):
    """A clients file that cannot be used. `mistakes` holds all of them, in the order of the file.

    `is_unreadable`: the file is missing or cannot be read, so its content is unknown.
    """

    def __init__(self, mistakes: Sequence[Mistake], *, is_unreadable: bool = False) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)
        self.is_unreadable = is_unreadable


class NotAccepted(ValueError):
    """A value that is not accepted: the end of the sentence that begins with its key, and the remedy in the imperative."""

    def __init__(self, predicate: str, remedy: str) -> None:
        super().__init__(predicate)
        self.predicate = predicate
        self.remedy = remedy


def shown(name: str) -> str:
    """A key or name for messages, without what looks like a credential."""
    return printable_value(name if name.isprintable() else ascii(name)[1:-1])


def described(value: object) -> str:
    """A value for messages: what it is, for a number also which one."""
    match value:
        case bool():
            return str(value).lower()
        case int() | Decimal():
            # Not str() of an int, which has a limit of its own on digits.
            text = str(value) if isinstance(value, Decimal) or abs(value) < 10**_MAX_NUMBER_CHARACTERS else ""
            return text if 0 < len(text) <= _MAX_NUMBER_CHARACTERS else "a number that is too long"
        case str():
            return "a string" if value else "an empty string"
        case list():
            return "an array" if value else "an empty array"
        case dict():
            return "a table"
        case _:
            return "a date or time"
