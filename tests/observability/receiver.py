"""Where Alertmanager's messages arrive, and what has to be in them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from monitoring.alerts import ALERTS
from monitoring.rule import DOCS_URL
from service.failures import CATALOGUE

_BY_NAME: Final = {alert.name: alert for alert in ALERTS}


class Missing(Exception):
    """What was waited for did not come; the message says what was there instead."""


@dataclass(frozen=True, slots=True)
class Told:
    """One alert in one message: `path` is the receiver's."""

    path: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    at: float

    @property
    def key(self) -> tuple[str, str]:
        """Which alert of which deployment."""
        return self.labels["alertname"], self.labels.get("job", "")


@dataclass
class Receiver:
    """All that was told, in order."""

    url: str = ""
    told: list[Told] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        """A message."""
        body: dict[str, Any] = json.loads(await request.read())
        now = time.monotonic()
        async with self._news:
            self.told += [
                Told(request.path.strip("/"), each["status"], each["labels"], each["annotations"], now)
                for each in body["alerts"]
            ]
            self._news.notify_all()
        return web.Response()

    async def until(self, name: str, job: str, status: str, since: float, seconds: float, **labels: str) -> Told:
        """The first message of an alert with a status since a time; raises Missing."""

        def found() -> Told | None:
            return next(
                (
                    told
                    for told in self.told
                    if told.key == (name, job) and told.status == status and told.at >= since
                    and labels.items() <= told.labels.items()
                ),
                None,
            )  # fmt: skip

        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(found)
        except TimeoutError:
            others = sorted({(each.key[0], each.status) for each in self.told if each.key[1] == job})
            raise Missing(
                f"{name} of {job} did not arrive as {status} within {seconds:g} s; arrived: {others}"
            ) from None
        told = found()
        assert told is not None
        return told


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on loopback."""
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{name}", receiver.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()


def faults_of(told: Told) -> list[str]:
    """What is wrong with a message: its receiver, its labels, templates that were not filled in, its links."""
    alert = _BY_NAME[told.labels["alertname"]]
    reason = told.labels.get("reason", "")
    page = f"failures.md#{reason}" if alert.reasons else f"runbooks/alerts.md#{alert.name.lower()}"
    texts = told.annotations
    checks = {
        f"went to {told.path}": told.path == alert.severity,
        "labels": alert.labels.items() <= told.labels.items(),
        f"runbook_url {texts.get('runbook_url')}": texts.get("runbook_url") == f"{DOCS_URL}/{page}",
        "remedy": texts.get("remedy") == (CATALOGUE[reason].remedy if alert.reasons and reason else None),
        f"texts {texts}": not any(sign in text for text in texts.values() for sign in ("{{", "<no value>", "<error")),
    }  # fmt: skip
    return [f"{told.key}: {what}" for what, well in checks.items() if not well]
