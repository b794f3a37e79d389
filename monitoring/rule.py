"""Alerts and recording rules, and the annotation templates of alerts for Prometheus and Grafana. Pure.

Texts contain placeholders in angle brackets. `<percent>`, `<seconds>` and `<number>` format the value of the query; every
other word is the label of that name. A part in square brackets is left out where its label is missing. Both programs have the
same template functions but name the value differently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from service.failures import CATALOGUE

DOCS_URL: Final = "https://example.com/realtime-relay/docs"
"""URL under which `docs/` is served. `python -m monitoring.render --runbooks URL` renders all files with another one."""

Severity = Literal["critical", "warning"]
Operator = Literal[">", "<"]
_FORMATS: Final = {"percent": "humanizePercentage", "seconds": "humanizeDuration", "number": 'printf "%.0f"'}
_PLACEHOLDER: Final = re.compile(r"<([a-z]+)>")
_OPTIONAL: Final = re.compile(r"\[([^]<]*)<([a-z]+)>([^]]*)\]")
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
        texts = {
            "summary": _template(self.summary, value),
            "description": _template(self.description, value),
            "runbook_url": f"{docs_url.rstrip('/')}/runbooks/{self._runbook()}",
        }
        if self.reasons:
            texts["remedy"] = _by_reason(
                {reason: CATALOGUE[reason].operator_action for reason in self.reasons}, "Open the runbook."
            )
        return texts

    def _runbook(self) -> str:
        """The section of the runbook, as a template: that of the reason, or that of the alert if it has no reason."""
        if not self.reasons:
            return f"alerts.md#{self.name.lower()}"
        pages = _by_reason({reason: CATALOGUE[reason].page for reason in self.reasons}, "README")
        return f"{pages}.md#{{{{ $labels.reason }}}}"


def fill_placeholders(text: str, labels: dict[str, str], value: str) -> str:
    """A text with its placeholders replaced; `value` is already formatted."""
    text = _OPTIONAL.sub(lambda found: f"{found[1]}<{found[2]}>{found[3]}" if labels.get(found[2]) else "", text)
    return _PLACEHOLDER.sub(lambda found: value if found[1] in _FORMATS else labels.get(found[1], ""), text)


def _template(text: str, value: str) -> str:
    def expression(found: re.Match[str]) -> str:
        word = found[1]
        return f"{{{{ {value} | {_FORMATS[word]} }}}}" if word in _FORMATS else f"{{{{ $labels.{word} }}}}"

    text = _OPTIONAL.sub(r"{{ with $labels.\2 }}\1{{ . }}\3{{ end }}", text)
    return _PLACEHOLDER.sub(expression, text)


def _by_reason(texts: Mapping[str, str], default: str) -> str:
    """A template that selects a text by the label `reason`; the text itself if all reasons have the same.

    A check can fail for a reason that is no dial failure, such as an internal error: `default` is for those.
    """
    reasons: dict[str, list[str]] = {}
    for reason, text in texts.items():
        reasons.setdefault(text, []).append(f'"{reason}"')
    if len(reasons) == 1:
        return next(iter(reasons))
    branches = [f"if eq $labels.reason {' '.join(names)} }}}}{text}" for text, names in reasons.items()]
    return "{{ " + "{{ else ".join(branches) + f"{{{{ else }}}}{default}{{{{ end }}}}"
