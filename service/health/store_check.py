"""The check `store`: the heartbeats of the relay to the store that it shares with other instances."""

import time

from service.failures import Failure
from service.health.checks import STORE, HealthCheck
from service.telemetry.metrics import Metrics


class StoreCheck:
    """Takes the result of each heartbeat. `is_required`: without the store the relay refuses every session."""

    def __init__(self, metrics: Metrics, *, is_required: bool) -> None:
        self.state = HealthCheck(STORE, component="relay", is_required=is_required)
        self._metrics = metrics

    def checked(self, failure: Failure | None, seconds: float) -> None:
        """Record a heartbeat: its failure, or None, and its duration."""
        if failure is None:
            self.state.succeeded(time.time(), seconds)
        else:
            self.state.failed(failure, time.time(), seconds)
        self._metrics.set_check_status(STORE, self.state.status)
        self._metrics.health_success.labels(STORE).set(self.state.passed_at or 0)
