"""Grafana's provisioning files for the data source and the dashboards. Pure."""

from typing import Final

from monitoring.grafana_alerts import DATASOURCE, FOLDER
from monitoring.rules import to_yaml

DASHBOARDS_FOLDER: Final = "/var/lib/grafana/dashboards"
PROMETHEUS_URL: Final = "http://prometheus:9090"
_HEAD: Final = "# Generated from monitoring/ by `make docs`.\n"


def render_datasource() -> str:
    """The text of `provisioning/datasources/prometheus.yaml`. Alerts refer to the data source by its uid."""
    source = {
        "name": "Realtime relay's Prometheus",
        "uid": DATASOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": PROMETHEUS_URL,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    return _HEAD + to_yaml({"apiVersion": 1, "datasources": [source]})


def render_dashboard_provider() -> str:
    """The text of `provisioning/dashboards/realtime-relay.yaml`."""
    provider = {
        "name": "realtime-relay",
        "folder": FOLDER,
        "type": "file",
        "allowUiUpdates": False,
        "options": {"path": DASHBOARDS_FOLDER},
    }
    return _HEAD + to_yaml({"apiVersion": 1, "providers": [provider]})
