"""What an alert is made of, and its texts as Prometheus and Grafana fill them in. Pure.

Texts hold placeholders in angle brackets: `<percent>`, `<seconds>` and `<number>` are the value, every other word is a
label. Both programs know the same template functions, but call the value differently.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from service.failures import CATALOGUE

RUNBOOKS: Final = "https://example.com/realtime-relay/docs"
"""Where the documents are served; `python -m monitoring.render --runbooks URL` writes all files with another base."""

Severity = Literal["critical", "warning"]
Operator = Literal[">", "<"]
_FORMATS: Final = {"percent": "humanizePercentage", "seconds": "humanizeDuration", "number": 'printf "%.0f"'}
_PLACEHOLDER: Final = re.compile(r"<([a-z]+)>")
_PROMETHEUS_VALUE: Final = "$value"
_GRAFANA_VALUE: Final = "$values.A.Value"


@dataclass(frozen=True, slots=True)
class Record:
    """A recording rule."""

    name: str
    query: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. It fires where `query operator threshold` holds for as long as `hold`.

    The query is kept apart from its threshold because Grafana wants them apart. `area` is what critical alerts silence the
    warnings of. `reasons` are those that the label `reason` can have, for the remedy; empty if there is no such label.
    `because` says why the numbers are what they are.
    """

    name: str
    severity: Severity
    area: str
    query: str
    operator: Operator
    threshold: float
    hold: str
    summary: str
    description: str
    because: str
    reasons: tuple[str, ...] = ()

    @property
    def expression(self) -> str:
        """As Prometheus has it."""
        return f"({self.query}) {self.operator} {self.threshold:g}"

    @property
    def labels(self) -> dict[str, str]:
        """What the alert adds to the labels of its series."""
        return {"severity": self.severity, "area": self.area, "service": "realtime-relay"}

    def annotations(self, *, grafana: bool = False, runbooks: str = RUNBOOKS) -> dict[str, str]:
        """The texts, as templates."""
        value = _GRAFANA_VALUE if grafana else _PROMETHEUS_VALUE
        page = "failures.md#{{ $labels.reason }}" if self.reasons else f"runbooks/alerts.md#{self.name.lower()}"
        texts = {
            "summary": _template(self.summary, value),
            "description": _template(self.description, value),
            "runbook_url": f"{runbooks.rstrip('/')}/{page}",
        }
        if self.reasons:
            texts["remedy"] = _remedies(self.reasons)
        return texts


def filled_in(text: str, labels: dict[str, str], value: str) -> str:
    """A text as it will read, with the value as a person would write it."""
    return _PLACEHOLDER.sub(lambda found: value if found[1] in _FORMATS else labels.get(found[1], ""), text)


def _template(text: str, value: str) -> str:
    def expression(found: re.Match[str]) -> str:
        word = found[1]
        return f"{{{{ {value} | {_FORMATS[word]} }}}}" if word in _FORMATS else f"{{{{ $labels.{word} }}}}"

    return _PLACEHOLDER.sub(expression, text)


def _remedies(reasons: Iterable[str]) -> str:
    """The catalogue's remedy for whichever reason it is."""
    branches = [f'if eq $labels.reason "{reason}" }}}}{CATALOGUE[reason].remedy}' for reason in reasons]
    return "{{ " + "{{ else ".join(branches) + "{{ end }}"
