"""Alerts and recording rules, and the annotation templates of alerts for Prometheus and Grafana. Pure.

Texts contain placeholders in angle brackets. `<percent>`, `<seconds>` and `<number>` format the value of the query; every
other word is the label of that name. Both programs have the same template functions but name the value differently.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from service.failures import CATALOGUE

DOCS_URL: Final = "https://example.com/realtime-relay/docs"
"""URL under which `docs/` is served. `python -m monitoring.render --runbooks URL` renders all files with another one."""

Severity = Literal["critical", "warning"]
Operator = Literal[">", "<"]
_FORMATS: Final = {"percent": "humanizePercentage", "seconds": "humanizeDuration", "number": 'printf "%.0f"'}
_PLACEHOLDER: Final = re.compile(r"<([a-z]+)>")
_PROMETHEUS_VALUE: Final = "$value"
_GRAFANA_VALUE: Final = "$values.A.Value"


@dataclass(frozen=True, slots=True)
class RecordingRule:
    """A recording rule."""

    name: str
    query: str


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires where `query operator threshold` is true for `for_duration`.

    Query and threshold are separate because Grafana-managed rules have them in separate steps. A critical alert inhibits the
    warnings of its `area`. `reasons` lists the possible values of the label `reason`, for the annotation `remedy`; it is
    empty for alerts without that label. `rationale` explains threshold and duration in `docs/monitoring.md`.
    """

    name: str
    severity: Severity
    area: str
    query: str
    operator: Operator
    threshold: float
    for_duration: str
    summary: str
    description: str
    rationale: str
    reasons: tuple[str, ...] = ()

    @property
    def expression(self) -> str:
        """The complete expression for Prometheus."""
        return f"({self.query}) {self.operator} {self.threshold:g}"

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the alert adds to those of its series."""
        return {"severity": self.severity, "area": self.area, "service": "realtime-relay"}

    def annotations(self, *, grafana: bool = False, docs_url: str = DOCS_URL) -> dict[str, str]:
        """The annotations as templates for Prometheus, or for Grafana."""
        value = _GRAFANA_VALUE if grafana else _PROMETHEUS_VALUE
        page = "failures.md#{{ $labels.reason }}" if self.reasons else f"runbooks/alerts.md#{self.name.lower()}"
        texts = {
            "summary": _template(self.summary, value),
            "description": _template(self.description, value),
            "runbook_url": f"{docs_url.rstrip('/')}/{page}",
        }
        if self.reasons:
            texts["remedy"] = _remedies(self.reasons)
        return texts


def fill_placeholders(text: str, labels: dict[str, str], value: str) -> str:
    """A text with its placeholders replaced; `value` is already formatted."""
    return _PLACEHOLDER.sub(lambda found: value if found[1] in _FORMATS else labels.get(found[1], ""), text)


def _template(text: str, value: str) -> str:
    def expression(found: re.Match[str]) -> str:
        word = found[1]
        return f"{{{{ {value} | {_FORMATS[word]} }}}}" if word in _FORMATS else f"{{{{ $labels.{word} }}}}"

    return _PLACEHOLDER.sub(expression, text)


def _remedies(reasons: Iterable[str]) -> str:
    """A template that selects the catalogue's remedy by the label `reason`."""
    branches = [f'if eq $labels.reason "{reason}" }}}}{CATALOGUE[reason].remedy}' for reason in reasons]
    return "{{ " + "{{ else ".join(branches) + "{{ end }}"
