"""Four Grafana dashboards: client connections, capacity and data path, conversations and cost, GPT-Live."""

from collections.abc import Callable
from typing import Final

from monitoring.dashboards import callers, capacity, conversations, live

DASHBOARDS: Final[dict[str, Callable[[str], str]]] = {
    "callers": callers.render,
    "capacity": capacity.render,
    "conversations": conversations.render,
    "live": live.render,
}
"""File name without `.json` to the function that renders it; its argument is the URL under which `docs/` is served."""
