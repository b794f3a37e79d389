"""Which file is made by what. `make docs` writes them.

Elsewhere, and with another address of the runbooks:

python -m monitoring.render --runbooks https://wiki.example.com/relay --into build/monitoring
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from monitoring import grafana_alerts, provisioning, rules
from monitoring.dashboards import BOARDS
from monitoring.rule import RUNBOOKS

_GRAFANA: Final = "monitoring/grafana"
Render = Callable[[str], str]
"""Makes a file's text; is given where the runbooks are served."""

FILES: Final[tuple[tuple[str, Render], ...]] = (
    ("monitoring/prometheus/rules.yaml", rules.render_rules),
    ("monitoring/prometheus/prometheus.yml", lambda _: rules.render_config()),
    ("k8s/components/prometheus-operator/prometheusrule.yaml", rules.render_prometheus_rule),
    (f"{_GRAFANA}/provisioning/datasources/prometheus.yaml", lambda _: provisioning.render_datasource()),
    (f"{_GRAFANA}/provisioning/dashboards/realtime-relay.yaml", lambda _: provisioning.render_boards()),
    (f"{_GRAFANA}/provisioning/alerting/realtime-relay.yaml", grafana_alerts.render),
    *((f"{_GRAFANA}/dashboards/{name}.json", render) for name, render in BOARDS.items()),
)


def main(words: Sequence[str] | None = None) -> int:
    """Write the files."""
    parser = argparse.ArgumentParser(prog="python -m monitoring.render", description="Write rules and dashboards.")
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="URL", help="where docs/ is served (%(default)s)")
    parser.add_argument("--into", type=Path, default=Path("build"), metavar="FOLDER", help="%(default)s")
    options = parser.parse_args(words)
    for name, render in FILES:
        path = options.into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(options.runbooks), encoding="utf-8")
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
