"""/livez, /readyz and /healthz. No probe calls upstream: health comes from the snapshot that the monitor keeps.

Liveness ignores the state of upstream. An outage of the provider must not restart a process that still carries sessions.
"""

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from service.failures import Failure
from service.health import report
from service.health.checks import STORE, HealthCheck
from service.health.monitor import HealthMonitor
from service.relay.drain import Drainer
from service.telemetry.metrics import Metrics

_FIRST_CHECK_SECONDS: Final = 1.0
_HEALTH_TYPE: Final = "application/health+json"


class ProbeHandler:
    """Handles the probes.

    `is_alive` returns whether all background tasks are running, `notes` further lines for the detailed health report,
    `store_refusal` the failure with which every client is refused while the store fails, or None.
    """

    def __init__(
        self,
        monitor: HealthMonitor,
        drainer: Drainer,
        metrics: Metrics,
        is_alive: Callable[[], bool],
        *,
        notes: Callable[[], list[str]],
        store_refusal: Callable[[], Failure | None] = lambda: None,
    ) -> None:
        self._monitor = monitor
        self._drainer = drainer
        self._metrics = metrics
        self._is_alive = is_alive
        self._notes = notes
        self._store_refusal = store_refusal

    def routes(self, *, detailed: bool) -> list[web.RouteDef]:
        """Return the routes for the public listener, or `detailed` for the internal one."""
        healthz = self.healthz_detailed if detailed else self.healthz
        return [
            web.get("/livez", self.livez_detailed if detailed else self.livez),
            web.get("/readyz", self.readyz_detailed if detailed else self.readyz),
            web.get("/healthz", healthz),
            web.get("/healthz/{check}", healthz),
        ]

    async def livez(self, _request: web.Request) -> web.Response:
        """Respond 200 while the background tasks run, also during a drain, else 503."""
        return _plain(ok=self._is_alive(), failure="a background task is not running")

    async def livez_detailed(self, request: web.Request) -> web.Response:
        """Respond as `livez`, and with `?verbose` list the check."""
        return _listed(request, {"background-tasks": None if self._is_alive() else "a background task is not running"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Respond 200 while this instance accepts new sessions, else 503 without the cause, which is not public."""
        is_ready = self._monitor.ready and not self._drainer.is_draining and self._store_refusal() is None
        return _plain(ok=is_ready, failure="not ready")

    async def readyz_detailed(self, request: web.Request) -> web.Response:
        """Respond as `readyz`, with the cause, and with `?verbose` list the checks, each with reason and remedy."""
        results = {"drain": "draining" if self._drainer.is_draining else None}
        is_open = self._monitor.ready
        refusal = self._store_refusal()
        for check in self._monitor.checks:
            if not check.is_required:
                continue
            if check.name == STORE:
                results[STORE] = None if refusal is None else refusal.reason
                continue
            reason = check.output() if "verbose" in request.query else check.reason
            missing = reason or "not checked yet"
            results[check.name] = None if is_open or check.status == "pass" else missing
        return _listed(request, results)

    async def healthz(self, request: web.Request) -> web.Response:
        """Respond with the overall health: 200 for pass and warn, 503 for fail."""
        return await self._health(request, detailed=False)

    async def healthz_detailed(self, request: web.Request) -> web.Response:
        """Respond as `healthz`, and with `?verbose` list the checks."""
        return await self._health(request, detailed=True)

    async def _health(self, request: web.Request, *, detailed: bool) -> web.Response:
        checks, notes = self._select_checks(request)
        if checks:
            await self._monitor.wait_for_first_refresh(_FIRST_CHECK_SECONDS)
        is_stale = self._monitor.age_seconds > self._monitor.stale_after_seconds
        status = report.overall(checks, is_stale=is_stale)
        if "check" in request.match_info and checks[0].status in {"fail", "unknown"}:
            status = "fail"  # asked for by name, it is required
        body = report.public_body(status)
        if detailed and "verbose" in request.query:
            body = report.detailed_body(
                checks,
                self._metrics.upstream,
                sessions=len(self._drainer.sessions),
                is_stale=is_stale,
                notes=[*notes, *self._notes(), *self._monitor.notes()],
            )
        return web.json_response(
            body,
            status=503 if status == "fail" else 200,
            content_type=_HEALTH_TYPE,
            headers={"Cache-Control": "no-store", "X-Health-Status": status},
        )

    def _select_checks(self, request: web.Request) -> tuple[list[HealthCheck], list[str]]:
        """Return the check named by the path, or all that are not excluded; raises HTTPNotFound for an unknown path."""
        known = {check.name: check for check in self._monitor.checks}
        name = request.match_info.get("check")
        if name is not None:
            if name not in known:
                raise web.HTTPNotFound(text=f"no such check; the checks are: {', '.join(known)}\n")
            return [known[name]], []
        excluded = set(request.query.getall("exclude", []))
        notes = [f"excluded: {', '.join(sorted(excluded & known.keys()))}"] if excluded & known.keys() else []
        if excluded - known.keys():
            # As in kube-apiserver an unknown name is no error. The notes do not repeat it: it comes from the client.
            notes.append(
                f"{len(excluded - known.keys())} name(s) in exclude are unknown; the checks are: {', '.join(known)}"
            )
        return [check for check in known.values() if check.name not in excluded], notes


def _listed(request: web.Request, results: Mapping[str, str | None]) -> web.Response:
    """Respond with one line, or with `?verbose` with a line for each check, in kube-apiserver's format.

    `results` maps each check to the cause of its failure, or None if it passes.
    """
    causes = [cause for cause in results.values() if cause is not None]
    if "verbose" not in request.query:
        return _plain(ok=not causes, failure=causes[0] if causes else "")
    lines = [f"[+]{name} ok" if cause is None else f"[-]{name} failed: {cause}" for name, cause in results.items()]
    text = "\n".join([*lines, "check failed" if causes else "check passed"])
    return _plain(ok=not causes, failure=text, success=text)


def _plain(*, ok: bool, failure: str, success: str = "ok") -> web.Response:
    return web.Response(
        text=f"{success if ok else failure}\n", status=200 if ok else 503, headers={"Cache-Control": "no-store"}
    )
