"""/livez, /readyz, /healthz: three questions, three answers. None of them calls upstream.

Liveness never asks about upstream: an outage of the provider must not restart a process that still carries calls.
"""

from collections.abc import Callable
from typing import Final

from aiohttp import web

from service.health import report
from service.health.checks import Check
from service.health.monitor import Monitor
from service.relay.registry import Registry
from service.telemetry.metrics import Metrics

_FIRST_CHECK_SECONDS: Final = 1.0
_HEALTH_TYPE: Final = "application/health+json"


class Probes:
    """The probe routes; `alive` says whether the background tasks run."""

    def __init__(self, monitor: Monitor, registry: Registry, metrics: Metrics, alive: Callable[[], bool]) -> None:
        self._monitor = monitor
        self._registry = registry
        self._metrics = metrics
        self._alive = alive

    def routes(self, *, detailed: bool) -> list[web.RouteDef]:
        """For the public listener, or with detail for the internal one."""
        healthz = self.healthz_detailed if detailed else self.healthz
        return [
            web.get("/livez", self.livez),
            web.get("/readyz", self.readyz),
            web.get("/healthz", healthz),
            web.get("/healthz/{check}", healthz),
        ]

    async def livez(self, _request: web.Request) -> web.Response:
        """Whether this process still works; 200 also while draining."""
        return _plain(ok=self._alive(), no="a background task is dead")

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether this instance should get new sessions."""
        if self._registry.draining:
            return _plain(ok=False, no="draining")
        if self._monitor.ready:
            return _plain(ok=True, no="")
        waiting = next((check for check in self._monitor.checks if check.status != "pass"), None)
        return _plain(ok=False, no=(waiting.reason or "not checked yet") if waiting else "not ready")

    async def healthz(self, request: web.Request) -> web.Response:
        """Whether a user can talk through us now."""
        return await self._health(request, detailed=False)

    async def healthz_detailed(self, request: web.Request) -> web.Response:
        """The same, with `?verbose`."""
        return await self._health(request, detailed=True)

    async def _health(self, request: web.Request, *, detailed: bool) -> web.Response:
        checks, notes = self._chosen(request)
        if checks:
            await self._monitor.settled(_FIRST_CHECK_SECONDS)
        is_stale = self._monitor.age_seconds > self._monitor.stale_after_seconds
        status = report.overall(checks, is_stale=is_stale)
        body = report.brief(status)
        if detailed and "verbose" in request.query:
            body = report.verbose(
                checks,
                self._metrics.upstream,
                sessions=len(self._registry),
                is_stale=is_stale,
                notes=[*notes, *self._monitor.notes],
            )
        return web.json_response(
            body,
            status=503 if status == "fail" else 200,
            content_type=_HEALTH_TYPE,
            headers={"Cache-Control": "no-store", "X-Health-Status": status},
        )

    def _chosen(self, request: web.Request) -> tuple[list[Check], list[str]]:
        """The checks that are asked for: one by its path, or all but those that are excluded. Raises HTTPNotFound."""
        known = {check.name: check for check in self._monitor.checks}
        name = request.match_info.get("check")
        if name is not None:
            if name not in known:
                raise web.HTTPNotFound(text=f"no such check; there are: {', '.join(known)}\n")
            return [known[name]], []
        excluded = set(request.query.getall("exclude", []))
        notes = [f"excluded: {', '.join(sorted(excluded & known.keys()))}"] if excluded & known.keys() else []
        if excluded - known.keys():
            # As kube-apiserver: a name that is not known excludes nothing, and is no error. It is not repeated here.
            notes.append(
                f"{len(excluded - known.keys())} name(s) in exclude are no checks; there are: {', '.join(known)}"
            )
        return [check for check in known.values() if check.name not in excluded], notes


def _plain(*, ok: bool, no: str) -> web.Response:
    return web.Response(
        text="ok\n" if ok else f"{no}\n", status=200 if ok else 503, headers={"Cache-Control": "no-store"}
    )
