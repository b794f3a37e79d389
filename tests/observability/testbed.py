"""The state that all scenarios share: deployments, Prometheus, the notification server, timings and errors."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession

from monitoring.alerts import ALERTS
from monitoring.recording import inline_records
from monitoring.rules import scale_windows
from tests.observability.notifications import ExpectationFailed, Notification, NotificationServer, find_errors
from tests.observability.relays import Provider, RelayProcess, settings_for
from tests.observability.time_scale import shorten

_BY_NAME: Final = {alert.name: alert for alert in ALERTS}
FIRING_SECONDS: Final = 300.0
RESOLVED_SECONDS: Final = 300.0


@dataclass
class Deployment:
    """The relays of one `job`, and the provider that they share."""

    job: str
    relays: Sequence[RelayProcess]
    provider: Provider

    @property
    def port(self) -> int:
        """The public port of the first relay."""
        return self.relays[0].port


@dataclass
class AlertTiming:
    """Seconds from the cause of an alert to its notification, and from the end of the cause to the resolution."""

    alert: str
    job: str
    labels: str
    firing_seconds: float
    resolved_seconds: float | None = None


@dataclass
class Testbed:
    """The running programs, and the results of the scenarios."""

    folder: Path
    notifications: NotificationServer
    prometheus_url: str
    http: ClientSession
    deployments: dict[str, Deployment] = field(default_factory=dict)
    timings: list[AlertTiming] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(
        self, job: str, *, instances: int = 1, settings: Mapping[str, str] | None = None, **options: Any
    ) -> Deployment:
        """Add a deployment without starting it. `options` are arguments of RelayProcess."""
        provider = Provider()
        relay_settings = settings_for(provider, **(settings or {}))
        relays = [
            RelayProcess(f"{job}-{number}", relay_settings, self.folder, **options) for number in range(instances)
        ]
        self.deployments[job] = Deployment(job, relays, provider)
        return self.deployments[job]

    async def query(self, expression: str, **times: float) -> list[Any]:
        """Run an instant query, or a range query if times are given; raises ExpectationFailed with Prometheus' error."""
        kind = "query_range" if times else "query"
        data = {"query": expression, **{name: str(value) for name, value in times.items()}}
        async with self.http.post(f"{self.prometheus_url}/api/v1/{kind}", data=data) as response:
            body = await response.json()
        if body["status"] != "success":
            raise ExpectationFailed(f"Prometheus rejects {expression}: {body.get('error')}")
        result: list[Any] = body["data"]["result"]
        return result

    async def expect_firing(self, name: str, job: str, since: float, **labels: str) -> Notification:
        """Wait for the notification, check its content, and check that Grafana's rule fires at the same time."""
        notification = await self.notifications.wait_for(name, job, "firing", since, FIRING_SECONDS, **labels)
        self.errors += find_errors(notification)
        shown = ("reason", "check", "resource")
        text = ", ".join(notification.labels[label] for label in shown if label in notification.labels)
        self.timings.append(AlertTiming(name, job, text, time.monotonic() - since))
        await self._check_grafana_fires(name, job)
        return notification

    async def expect_resolved(self, name: str, job: str, since: float) -> None:
        """Wait for the notification that the alert is resolved."""
        await self.notifications.wait_for(name, job, "resolved", since, RESOLVED_SECONDS)
        timing = next(timing for timing in self.timings if (timing.alert, timing.job) == (name, job))
        timing.resolved_seconds = time.monotonic() - since

    async def _check_grafana_fires(self, name: str, job: str) -> None:
        alert = _BY_NAME[name]
        query = scale_windows(inline_records(alert.query), shorten)
        result = await self.query(f"({query}) {alert.operator} {alert.threshold:g}")
        if not any(series["metric"].get("job") == job for series in result):
            self.errors.append(f"Grafana's rule {name} does not fire for {job} while Prometheus' rule does")


def replace_file(file: Path, text: str) -> None:
    """Replace a file in one step."""
    temporary = file.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
