"""Mistakes in settings. Their texts hold no secret: what could be one is hidden."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.realtime.redaction import redact
from service.settings.warnings import SettingWarning

HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that is not accepted: the variable, its value as it can be shown, what is accepted, and an example.

    `place`: the file and line that set it; empty for the environment.
    """

    variable: str
    value: str
    accepts: str
    example: str
    place: str = ""

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        return (
            f"{self.variable}={self.value}{place}: expected {self.accepts}; for example {self.variable}={self.example}"
        )


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """A mistake that is no value: the file or variables, the rest of the sentence, and the remedy in the imperative."""

    variable: str
    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.variable} {self.sentence}; {self.remedy}"


class SettingsRejected(Exception):
    """The settings cannot be used.

    `problems` holds every mistake, not only the first. `warnings` holds what a start would log: a misspelt name can be the
    setting that is missing.
    """

    def __init__(self, problems: Sequence[Problem | SourceProblem], warnings: Sequence[SettingWarning] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


def printable_value(text: str) -> str:
    """The first 80 characters of a value that is not a secret, without key shapes, URL credentials, queries and fragments."""
    text = re.sub(r"^([^@]*?//)?.*@", rf"\1{HIDDEN}@", text, flags=re.DOTALL)
    return redact(re.sub(r"([?#]).*", rf"\1{HIDDEN}", text, flags=re.DOTALL))[:80]
