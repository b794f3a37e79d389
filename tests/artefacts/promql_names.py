"""Checks the names in PromQL against the relay's registry: a query with an unknown name never returns a result."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import promql_parser

from monitoring.promql import metric
from monitoring.recording import RECORDING_RULES
from service.failures import CATALOGUE
from service.health.checks import CHECKS, LIVE, TURN
from service.telemetry.metrics import Metrics

SCRAPED: Final = {"namespace", "job", "instance"}
"""The labels that Prometheus adds at a scrape."""
_REPLACED: Final = {"resource"}  # added by label_replace
_CHILDREN: Final = ("lhs", "rhs", "expr", "param", "vector_selector")


@cache
def exposed() -> dict[str, dict[str, frozenset[str]]]:
    """All series of the relay and `up`: name to label to the known values of that label."""
    metrics = Metrics("openai")
    for check in (*CHECKS, TURN, LIVE):
        metrics.set_check_status(check, "pass")
        metrics.health_success.labels(check)
    metrics.budget_used.labels("kiosk")
    names: dict[str, dict[str, frozenset[str]]] = {"up": {}}
    for family in metrics.registry.collect():
        for sample in family.samples:
            labels = names.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels[label] = labels.get(label, frozenset()) | {value}
    # Series of internal errors do not start at 0, so they are missing from a new registry.
    for name, label in (("admissions_total", "result"), ("connection_failures_total", "reason")):
        names[metric(name)][label] |= {"internal_error"}
    return names


def unknown_names(expression: str) -> list[str]:
    """Descriptions of the unknown names in an expression; raises ValueError if it is not valid PromQL."""
    nodes = list(_walk(promql_parser.parse(expression)))
    selectors = [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]
    recorded = {record.name for record in RECORDING_RULES}
    found = []
    labels = SCRAPED | _REPLACED
    for selector in selectors:
        if selector.name in recorded:
            labels |= {"reason"}
            continue
        if selector.name not in exposed():
            found.append(f"no metric {selector.name}")
            continue
        labels |= exposed()[selector.name].keys()
        found += [error for matcher in selector.matchers.matchers for error in _check_matcher(selector.name, matcher)]
    for node in nodes:
        names = re.findall(r"[a-z_]+", " ".join(re.findall(r"\b(?:by|on|ignoring|without) \(([^)]*)\)", str(node))))
        found += [f"no label {name} in {expression}" for name in names if name not in labels]
    return found


def _check_matcher(name: str, matcher: Any) -> Iterator[str]:
    if matcher.name in SCRAPED:
        return
    values = exposed()[name].get(matcher.name)
    if values is None:
        yield f"{name} has no label {matcher.name}"
        return
    known = values | CATALOGUE.keys() if matcher.name in {"reason", "result"} else values
    is_regex = str(matcher.op) in {"MatchOp.Re", "MatchOp.NotRe"}  # the operators are not hashable
    for part in matcher.value.split("|") if is_regex else (re.escape(matcher.value),):
        if not any(re.fullmatch(part, value) for value in known):
            yield f"{name} has no {matcher.name} {part}"


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for name in _CHILDREN:
        child = getattr(node, name, None)
        if isinstance(child, promql_parser.Expr) or type(child).__module__ == type(node).__module__:
            yield from _walk(child)
    for child in getattr(node, "args", ()):
        yield from _walk(child)
