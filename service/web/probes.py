"""/livez, /readyz, /healthz: three questions, three answers. None of them calls upstream.

Liveness never asks about upstream: an outage of the provider must not restart a process that still carries calls.
"""

from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from service.health import report
from service.health.checks import Check
from service.health.monitor import Monitor
from service.relay.drain import Drainer
from service.telemetry.metrics import Metrics

_FIRST_CHECK_SECONDS: Final = 1.0
_HEALTH_TYPE: Final = "application/health+json"


class Probes:
    """The probe routes. `alive` returns whether the background tasks run, `notes` lines for detailed health."""

    def __init__(
        self,
        monitor: Monitor,
        drainer: Drainer,
        metrics: Metrics,
        alive: Callable[[], bool],
        *,
        notes: Callable[[], list[str]],
    ) -> None:
        self._monitor = monitor
        self._drainer = drainer
        self._metrics = metrics
        self._alive = alive
        self._notes = notes

    def routes(self, *, detailed: bool) -> list[web.RouteDef]:
        """For the public listener, or with detail for the internal one."""
        healthz = self.healthz_detailed if detailed else self.healthz
        return [
            web.get("/livez", self.livez_detailed if detailed else self.livez),
            web.get("/readyz", self.readyz_detailed if detailed else self.readyz),
            web.get("/healthz", healthz),
            web.get("/healthz/{check}", healthz),
        ]

    async def livez(self, _request: web.Request) -> web.Response:
        """Whether this process still works; 200 also while draining."""
        return _plain(ok=self._alive(), no="a background task is dead")

    async def livez_detailed(self, request: web.Request) -> web.Response:
        """The same, with `?verbose`."""
        return _listed(request, {"background-tasks": None if self._alive() else "a background task is dead"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """Whether this instance should get new sessions; strangers need not know why not."""
        return _plain(ok=self._monitor.ready and not self._drainer.is_draining, no="not ready")

    async def readyz_detailed(self, request: web.Request) -> web.Response:
        """The same, with the reason, and with `?verbose`."""
        questions = {"drain": "draining" if self._drainer.is_draining else None}
        is_open = self._monitor.ready
        for check in self._monitor.checks:
            missing = check.reason or "not checked yet"
            questions[check.name] = None if is_open or check.status == "pass" else missing
        return _listed(request, questions)

    async def healthz(self, request: web.Request) -> web.Response:
        """Whether a user can talk through us now."""
        return await self._health(request, detailed=False)

    async def healthz_detailed(self, request: web.Request) -> web.Response:
        """The same, with `?verbose`."""
        return await self._health(request, detailed=True)

    async def _health(self, request: web.Request, *, detailed: bool) -> web.Response:
        checks, notes = self._chosen(request)
        if checks:
            await self._monitor.wait_for_first_refresh(_FIRST_CHECK_SECONDS)
        is_stale = self._monitor.age_seconds > self._monitor.stale_after_seconds
        status = report.overall(checks, is_stale=is_stale)
        body = report.public_body(status)
        if detailed and "verbose" in request.query:
            body = report.detailed_body(
                checks,
                self._metrics.upstream,
                sessions=len(self._drainer.sessions),
                is_stale=is_stale,
                notes=[*notes, *self._notes()],
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


def _listed(request: web.Request, questions: Mapping[str, str | None]) -> web.Response:
    """One word, or with `?verbose` a line for each question, as kube-apiserver has it."""
    failed = [why for why in questions.values() if why is not None]
    if "verbose" not in request.query:
        return _plain(ok=not failed, no=failed[0] if failed else "")
    lines = [f"[+]{name} ok" if why is None else f"[-]{name} failed: {why}" for name, why in questions.items()]
    text = "\n".join([*lines, "check failed" if failed else "check passed"])
    return _plain(ok=not failed, no=text, yes=text)


def _plain(*, ok: bool, no: str, yes: str = "ok") -> web.Response:
    return web.Response(text=f"{yes if ok else no}\n", status=200 if ok else 503, headers={"Cache-Control": "no-store"})
