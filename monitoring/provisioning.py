"""What Grafana is told at its start: where Prometheus is, and where the boards lie. Pure."""

from typing import Final

from monitoring.grafana_alerts import DATASOURCE, FOLDER
from monitoring.rules import dumped

BOARDS: Final = "/var/lib/grafana/dashboards"
PROMETHEUS: Final = "http://prometheus:9090"
_HEAD: Final = "# Generated from monitoring/ by `make docs`.\n"


def render_datasource() -> str:
    """`provisioning/datasources/prometheus.yaml`. The alerts name the data source by its uid."""
    source = {
        "name": "Realtime relay's Prometheus",
        "uid": DATASOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": PROMETHEUS,
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
    }
    return _HEAD + dumped({"apiVersion": 1, "datasources": [source]})


def render_boards() -> str:
    """`provisioning/dashboards/realtime-relay.yaml`."""
    provider = {
        "name": "realtime-relay",
        "folder": FOLDER,
        "type": "file",
        "allowUiUpdates": False,
        "options": {"path": BOARDS},
    }
    return _HEAD + dumped({"apiVersion": 1, "providers": [provider]})
