"""Receives Alertmanager's notifications, and checks their content."""

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


class ExpectationFailed(Exception):
    """An expected notification or query result is missing; the message states what was there instead."""


@dataclass(frozen=True, slots=True)
class Notification:
    """One alert of one webhook request. `receiver` is the name of Alertmanager's receiver."""

    receiver: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    received_at: float

    @property
    def key(self) -> tuple[str, str]:
        """The alert's name and job."""
        return self.labels["alertname"], self.labels.get("job", "")


@dataclass
class NotificationServer:
    """A webhook that keeps all notifications in order."""

    url: str = ""
    notifications: list[Notification] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.Response:
        """Handle one webhook request, which may contain several alerts."""
        body: dict[str, Any] = json.loads(await request.read())
        now = time.monotonic()
        async with self._changed:
            self.notifications += [
                Notification(request.path.strip("/"), alert["status"], alert["labels"], alert["annotations"], now)
                for alert in body["alerts"]
            ]
            self._changed.notify_all()
        return web.Response()

    async def wait_for(
        self, name: str, job: str, status: str, since: float, timeout_seconds: float, **labels: str
    ) -> Notification:
        """Wait for the first matching notification received after `since`; raises ExpectationFailed on timeout."""

        def find() -> Notification | None:
            return next(
                (
                    notification
                    for notification in self.notifications
                    if notification.key == (name, job)
                    and notification.status == status
                    and notification.received_at >= since
                    and labels.items() <= notification.labels.items()
                ),
                None,
            )

        try:
            async with asyncio.timeout(timeout_seconds), self._changed:
                await self._changed.wait_for(find)
        except TimeoutError:
            received = sorted({(each.key[0], each.status) for each in self.notifications if each.key[1] == job})
            raise ExpectationFailed(
                f"{name} of {job} did not arrive as {status} within {timeout_seconds:g} s; received: {received}"
            ) from None
        notification = find()
        assert notification is not None
        return notification


@asynccontextmanager
async def notification_server() -> AsyncIterator[NotificationServer]:
    """A webhook on a free loopback port."""
    server = NotificationServer()
    app = web.Application()
    app.router.add_post("/{name}", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


def find_errors(notification: Notification) -> list[str]:
    """Errors in a notification: a wrong receiver, label, remedy or link, or a template that was not expanded."""
    alert = _BY_NAME[notification.labels["alertname"]]
    reason = notification.labels.get("reason", "")
    row = CATALOGUE[reason] if alert.reasons and reason else None
    page = row.runbook if row else f"docs/runbooks/alerts.md#{alert.name.lower()}"
    texts = notification.annotations
    unexpanded = ("{{", "<no value>", "<error")
    is_correct = {
        f"receiver {notification.receiver}": notification.receiver == alert.severity,
        "labels": alert.labels.items() <= notification.labels.items(),
        f"runbook_url {texts.get('runbook_url')}": texts.get("runbook_url")
        == f"{DOCS_URL}/{page.removeprefix('docs/')}",
        "remedy": texts.get("remedy") == (row.operator_action if row else None),
        f"texts {texts}": not any(sign in text for text in texts.values() for sign in unexpanded),
    }
    return [f"{notification.key}: {check}" for check, passed in is_correct.items() if not passed]
