"""Writes every generated file: `make docs`. tests/artefacts/test_generated_files.py fails when one of them is out of date."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from monitoring import metrics_reference
from monitoring.render import FILES
from monitoring.rule import DOCS_URL
from service.failures import reference as failures_reference
from service.settings import reference
from tools import alert_cases, generated

ROOT: Final = Path(__file__).resolve().parent.parent

GENERATED: Final[tuple[tuple[str, Callable[[], str]], ...]] = (
    (".env.example", reference.render_env_example),
    ("docs/settings.md", reference.render_markdown),
    ("docs/failures.md", failures_reference.render_markdown),
    ("docs/metrics.md", metrics_reference.render_markdown),
    (generated.RUNBOOKS, generated.render_runbooks_index),
    (generated.SETTINGS_ENV, generated.render_settings_env),
    (generated.BASE, generated.render_deployment),
    (generated.DEV, generated.render_dev_deployment),
    (generated.KUSTOMIZATION, generated.render_kustomization),
    (generated.COMPOSE, generated.render_compose),
    ("monitoring/prometheus/rules_test.yaml", alert_cases.render),
    ("monitoring/prometheus/rules_slow_test.yaml", alert_cases.render_slow),
    *((name, partial(render, DOCS_URL)) for name, render in FILES),
)


def main() -> None:
    """Write every generated file."""
    for name, render in GENERATED:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
