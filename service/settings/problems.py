"""Mistakes in settings. Their texts hold no secret: what could be one is hidden."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from service.settings.warnings import SettingWarning


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

    def redacted(self, redact: Callable[[str], str]) -> "Problem":
        """The same without what `redact` hides."""
        return replace(self, value=redact(self.value), accepts=redact(self.accepts), place=redact(self.place))

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

    def redacted(self, redact: Callable[[str], str]) -> "SourceProblem":
        """The same without what `redact` hides."""
        return replace(self, sentence=redact(self.sentence), remedy=redact(self.remedy))

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
