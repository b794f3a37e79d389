"""Renders all generated files of this folder. `make docs` writes them in place.

To render into another folder, with another URL for the documents:

python -m monitoring.render --runbooks https://wiki.example.com/relay --into build
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from monitoring import grafana_alerts, provisioning, rules
from monitoring.dashboards import DASHBOARDS
from monitoring.rule import DOCS_URL

_GRAFANA: Final = "monitoring/grafana"
Render = Callable[[str], str]
"""Returns the text of a file; the argument is the URL under which `docs/` is served."""

FILES: Final[tuple[tuple[str, Render], ...]] = (
    ("monitoring/prometheus/rules.yaml", rules.render_rules),
    ("monitoring/prometheus/prometheus.yml", lambda _: rules.render_config()),
    ("k8s/components/prometheus-operator/prometheusrule.yaml", rules.render_prometheus_rule),
    (f"{_GRAFANA}/provisioning/datasources/prometheus.yaml", lambda _: provisioning.render_datasource()),
    (f"{_GRAFANA}/provisioning/dashboards/realtime-relay.yaml", lambda _: provisioning.render_dashboard_provider()),
    (f"{_GRAFANA}/provisioning/alerting/realtime-relay.yaml", grafana_alerts.render),
    *((f"{_GRAFANA}/dashboards/{name}.json", render) for name, render in DASHBOARDS.items()),
)


def _url(text: str) -> str:
    """An absolute URL: without a scheme a link is relative to the page of Alertmanager or Grafana that shows it."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} has no scheme; write https://{text}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all files into a folder and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.render", description="Render rules and dashboards.")
    parser.add_argument(
        "--runbooks",
        dest="docs_url",
        type=_url,
        default=DOCS_URL,
        metavar="URL",
        help="URL under which docs/ is served (%(default)s)",
    )
    parser.add_argument(
        "--into", type=Path, default=Path("build"), metavar="FOLDER", help="output folder (%(default)s)"
    )
    options = parser.parse_args(arguments)
    for name, render in FILES:
        path = options.into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(options.docs_url), encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
