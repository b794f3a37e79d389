"""What the trials share: the deployments, Prometheus, the receiver, and what came out of each trial."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession

from monitoring.alerts import ALERTS
from monitoring.recording import inline_records
from monitoring.rules import scale_windows
from tests.observability.pace import paced
from tests.observability.receiver import Missing, Receiver, Told, faults_of
from tests.observability.relays import Provider, Relay, settings_for

_BY_NAME: Final = {alert.name: alert for alert in ALERTS}
FIRES_SECONDS: Final = 120.0
PASSES_SECONDS: Final = 120.0


@dataclass
class Deployment:
    """Relays of one `job`, and the provider that they have in common."""

    job: str
    relays: Sequence[Relay]
    provider: Provider

    @property
    def port(self) -> int:
        """Where its callers connect."""
        return self.relays[0].port


@dataclass
class Row:
    """One alert: how long after its cause it arrived, and how long after the cause was gone it was over."""

    alert: str
    job: str
    labels: str
    fired: float
    passed: float | None = None


@dataclass
class Stage:
    """Everything that runs."""

    folder: Path
    receiver: Receiver
    prometheus: str
    session: ClientSession
    deployments: dict[str, Deployment] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, job: str, *, instances: int = 1, settings: Mapping[str, str] | None = None, **how: Any) -> Deployment:
        """A deployment; nothing of it runs yet."""
        provider = Provider()
        made = settings_for(provider, **(settings or {}))
        relays = [Relay(f"{job}-{number}", made, self.folder, **how) for number in range(instances)]
        self.deployments[job] = Deployment(job, relays, provider)
        return self.deployments[job]

    async def query(self, expression: str, **times: float) -> list[Any]:
        """The result of an instant query, or of a range query if times are given; raises Missing with what is wrong."""
        kind = "query_range" if times else "query"
        data = {"query": expression, **{name: str(value) for name, value in times.items()}}
        async with self.session.post(f"{self.prometheus}/api/v1/{kind}", data=data) as answer:
            body = await answer.json()
        if body["status"] != "success":
            raise Missing(f"Prometheus refuses {expression}: {body.get('error')}")
        result: list[Any] = body["data"]["result"]
        return result

    async def fires(self, name: str, job: str, since: float, **labels: str) -> Told:
        """The alert arrives, with its texts, and Grafana's form of it holds at the same time."""
        told = await self.receiver.until(name, job, "firing", since, FIRES_SECONDS, **labels)
        self.faults += faults_of(told)
        shown = ", ".join(told.labels[label] for label in ("reason", "check", "resource") if label in told.labels)
        self.rows.append(Row(name, job, shown, time.monotonic() - since))
        await self._grafana_agrees(name, job)
        return told

    async def passes(self, name: str, job: str, since: float) -> None:
        """The alert is over."""
        await self.receiver.until(name, job, "resolved", since, PASSES_SECONDS)
        row = next(row for row in self.rows if (row.alert, row.job) == (name, job))
        row.passed = time.monotonic() - since

    async def _grafana_agrees(self, name: str, job: str) -> None:
        alert = _BY_NAME[name]
        compared = f"({scale_windows(inline_records(alert.query), paced)}) {alert.operator} {alert.threshold:g}"
        found = await self.query(compared)
        if not any(each["metric"].get("job") == job for each in found):
            self.faults.append(f"Grafana's {name} does not hold for {job} while Prometheus' does")
