"""Mistakes in settings. Their texts hold no secret: what could be one is hidden."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.realtime.redaction import redact
from service.settings.warnings import SettingWarning

HIDDEN = "(hidden)"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the variable, its value as it can be shown, what is accepted, and an example."""

    variable: str
    value: str
    accepts: str
    example: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value}: expected {self.accepts}; for example {self.variable}={self.example}"


class SettingsRejected(Exception):
    """The settings cannot be used.

    `problems` holds every mistake, not only the first. `ignored_lines` names the lines of `.env` files that were not read;
    one of them may be the setting that is missing.
    """

    def __init__(self, problems: list[Problem], ignored_lines: Sequence[SettingWarning] = ()) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
        self.ignored_lines = tuple(ignored_lines)


def printable_value(text: str) -> str:
    """The first 80 characters of a value that is not a secret, without key shapes, URL credentials and URL queries."""
    text = re.sub(r"//.*@", f"//{HIDDEN}@", text, flags=re.DOTALL)
    return redact(re.sub(r"\?.*", f"?{HIDDEN}", text, flags=re.DOTALL))[:80]
