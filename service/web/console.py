"""The operator's page and the JSON behind it, which only the internal listener serves. docs/api.md has the shapes."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from aiohttp import web
from multidict import CIMultiDict

from service.health.monitor import HealthMonitor
from service.realtime.keys import Secret
from service.relay.drain import Drainer
from service.telemetry.metrics import Metrics
from service.telemetry.recent import MAX_FAILURES
from service.telemetry.redact import Redactor
from service.version import __version__
from service.web import console_report
from service.web.console_access import HEADERS, ConsoleAccess, ConsoleProblem
from service.web.console_clients import ClientReport
from service.web.console_files import Handler, Runbooks, file_answers, page_files
from service.web.doctor_process import DOCTOR_BYTES, DoctorFailed, DoctorProcess

MAX_LISTED: Final = 200
"""Sessions of one answer."""
DEFAULT_LISTED: Final = 50
MAX_SEARCH_CHARACTERS: Final = 100

_MARKUP: Final = {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}
"""A document is ASCII, and holds no markup even for a reader that ignores its type."""

_NO_PAGE: Final = ConsoleProblem(
    404,
    "page_not_installed",
    "This installation has no operator's page.",
    "Install the relay with its data files, or read /api/overview.",
)
_NO_SESSION: Final = ConsoleProblem(
    404, "session_not_found", "No session with this id is open.", "List the open sessions with /api/sessions."
)
_NO_PATH: Final = ConsoleProblem(
    404,
    "path_not_found",
    "The operator's API serves nothing at this path.",
    "Read docs/api.md, or start at /api/overview.",
)
_NO_MEMORY: Final = ConsoleProblem(
    503,
    "doctor_needs_memory",
    "The doctor needs 64 MiB below the container's memory limit, which the relay does not leave.",
    "Run 'python -m service doctor' elsewhere with the same settings, or raise the memory limit.",
)
_BUSY: Final = ConsoleProblem(
    409, "doctor_busy", "The doctor is running already.", "Wait for its result; a run takes 60 seconds at most."
)
_TIMEOUT: Final = ConsoleProblem(
    504,
    "doctor_timeout",
    "The doctor did not finish in time.",
    "Run 'python -m service doctor' where the relay runs, and see at which step it waits.",
)
_FAILED: Final = ConsoleProblem(
    500,
    "doctor_failed",
    "The doctor printed no result.",
    "Run 'python -m service doctor' where the relay runs, and read its output.",
)


@dataclass(frozen=True, slots=True)
class ConsoleSources:
    """What the console reads. `memory` returns the used bytes and the limit, `dials` the dials in progress.

    `settings` returns the entries of `/api/settings`, `notes` further lines of the health, as `/healthz?verbose` has them.
    """

    monitor: HealthMonitor
    drainer: Drainer
    metrics: Metrics
    redactor: Redactor
    doctor: DoctorProcess
    max_sessions: int
    max_dials: int
    dials: Callable[[], int]
    memory: Callable[[], tuple[int | None, int | None]]
    is_breaker_open: Callable[[], bool]
    settings: Callable[[], list[dict[str, object]]]
    notes: Callable[[], list[str]]
    clients: ClientReport


class ConsoleHandler:
    """Handles `/` and `/api` of the internal port; `access` decides on every request first.

    Answers come from what the relay keeps in memory, and the totals of clients from the store. Only the doctor
    takes time: one runs at a time, in its own process.
    """

    def __init__(self, sources: ConsoleSources, operator_token: Secret | None) -> None:
        self.access = ConsoleAccess(operator_token, sources.metrics.operator_refusals)
        self._sources = sources
        self._sessions = sources.drainer.sessions
        self._files = page_files("operator")
        self._runbooks = Runbooks()
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._is_doctor_running = False
        self._log = structlog.get_logger()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the internal listener."""
        read, change = partial(self._guarded, changes=False), partial(self._guarded, changes=True)
        reads = {
            **file_answers(self._files),
            "/": self.page,
            "/api/overview": self.overview,
            "/api/sessions": self.sessions,
            "/api/clients": self.clients,
            "/api/failures/recent": self.failures,
            "/api/catalogue": self.catalogue,
            "/api/runbooks/{name}": self._runbooks.answer,
            "/api/settings": self.settings,
        }
        routes = [
            *(web.get(path, read(handler)) for path, handler in reads.items()),
            web.delete("/api/sessions/{id}", change(self.end_session)),
            web.post("/api/doctor", change(self.doctor)),
        ]
        # Other paths need the same access, and are refused in the form of the API.
        wrong = [web.route("*", route.path, read(_wrong_method(route.method))) for route in routes]
        return [*routes, *wrong, *(web.route("*", path, read(_no_path)) for path in ("/api", "/api/{path:.*}"))]

    def _guarded(self, handler: Handler, *, changes: bool) -> Handler:
        async def check_access(request: web.Request) -> web.StreamResponse:
            refusal = self.access.refusal(request, changes=changes)
            return refusal if refusal is not None else await handler(request)

        return check_access

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Respond with the operator's page."""
        index = self._files.get("/")
        return _NO_PAGE.response() if index is None else index.response(request)

    async def overview(self, _request: web.Request) -> web.Response:
        """Respond with health, rates, capacity and drain."""
        sources, recent = self._sources, self._sources.metrics.recent
        used_bytes, limit_bytes = sources.memory()
        seconds_left = sources.drainer.seconds_left
        body = {
            "service": "realtime-relay",
            "time": round(time.time(), 3),
            "version": __version__,
            "upstream": sources.metrics.upstream,
            "uptime_seconds": round(self._loop.time() - self._started_at, 1),
            "health": console_report.health(sources.monitor, sources.notes()),
            "breaker_open": sources.is_breaker_open(),
            "connections": console_report.outcomes(recent.outcomes),
            "sessions": {
                "open": len(self._sessions),
                "limit": sources.max_sessions,
                "by_api": console_report.open_sessions(self._sessions),
            },
            "dials": {"active": sources.dials(), "limit": sources.max_dials},
            "memory": {"used_bytes": used_bytes, "limit_bytes": limit_bytes},
            "event_loop_lag": console_report.lag(recent.lag),
            "drain": {"draining": seconds_left is not None, "seconds_left": seconds_left and round(seconds_left, 1)},
            "failures_total": recent.failures.total,
            "doctor_running": self._is_doctor_running,
        }
        return _json(body)

    async def sessions(self, request: web.Request) -> web.Response:
        """Respond with the newest sessions that match the search."""
        limit = _limit(request, DEFAULT_LISTED, MAX_LISTED)
        if limit is None:
            return _bad_limit(MAX_LISTED)
        search = _search(request)
        return _json(console_report.session_list(self._sessions, limit, search, self._sources.redactor.redact_cached))

    async def clients(self, request: web.Request) -> web.Response:
        """Respond with the clients that match the search, their limits, and what they have used."""
        limit = _limit(request, DEFAULT_LISTED, MAX_LISTED)
        if limit is None:
            return _bad_limit(MAX_LISTED)
        redact = self._sources.redactor.redact_cached
        return _json(await self._sources.clients.document(limit, _search(request), redact))

    async def failures(self, request: web.Request) -> web.Response:
        """Respond with the last failures."""
        limit = _limit(request, MAX_FAILURES, MAX_FAILURES)
        if limit is None:
            return _bad_limit(MAX_FAILURES)
        recent = self._sources.metrics.recent.failures
        return _json(console_report.failure_list(recent, limit, self._sources.redactor.redact))

    async def catalogue(self, _request: web.Request) -> web.Response:
        """Respond with every reason."""
        return _json(console_report.catalogue())

    async def settings(self, _request: web.Request) -> web.Response:
        """Respond with every setting, its value and its source; secrets as fingerprints."""
        return _json({"settings": self._sources.redactor(None, "", {"settings": self._sources.settings()})["settings"]})

    async def end_session(self, request: web.Request) -> web.Response:
        """End a session. It is closed in the background, one of GPT-Live after its final usage."""
        session = self._sessions.find(request.match_info["id"])
        if session is None:
            return _NO_SESSION.response()
        session.end("ended_by_operator")
        view = session.view()
        ending_as = view.ending_as if view is not None else None
        self._log.info(
            "console.session_ended",
            session_id=session.info.session_id,
            client=session.info.client,
            ending_as=ending_as,
            asked_by=request.remote,
        )
        return _json({"id": session.info.session_id, "state": "ending", "ending_as": ending_as}, status=202)

    async def doctor(self, request: web.Request) -> web.Response:
        """Run the doctor, and respond with its steps."""
        if self._is_doctor_running:
            return _BUSY.response()
        used_bytes, limit_bytes = self._sources.memory()
        if limit_bytes is not None and limit_bytes - (used_bytes or 0) < DOCTOR_BYTES:
            return _NO_MEMORY.response()
        self._log.info("console.doctor_started", asked_by=request.remote)
        self._is_doctor_running = True
        try:
            document = await self._sources.doctor.run()
        except TimeoutError:
            return _TIMEOUT.response()
        except (DoctorFailed, OSError):
            return _FAILED.response()
        finally:
            self._is_doctor_running = False
        return _json(self._sources.redactor(None, "", document))


def _wrong_method(allowed: str) -> Handler:
    methods = "GET, HEAD" if allowed == "GET" else allowed
    problem = ConsoleProblem(
        405, "method_not_allowed", "This path does not accept the method of the request.", f"Send {methods}."
    )

    async def refuse(_request: web.Request) -> web.StreamResponse:
        return problem.response(CIMultiDict(Allow=methods))

    return refuse


async def _no_path(_request: web.Request) -> web.StreamResponse:
    return _NO_PATH.response()


def _json(body: object, status: int = 200) -> web.Response:
    text = json.dumps(body, separators=(",", ":")).translate(_MARKUP)
    headers = {**HEADERS, "Cache-Control": "no-store"}
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)


def _search(request: web.Request) -> str:
    return request.query.get("search", "").strip()[:MAX_SEARCH_CHARACTERS]


def _limit(request: web.Request, default: int, maximum: int) -> int | None:
    """The value of `limit`; None if it is not between 1 and `maximum`."""
    text = request.query.get("limit", "")
    if not text:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(maximum))
    return int(text) if is_number and 1 <= int(text) <= maximum else None


def _bad_limit(maximum: int) -> web.Response:
    problem = ConsoleProblem(
        400, "limit_invalid", "The parameter limit is not accepted.", f"Send a number from 1 to {maximum}."
    )
    return problem.response()
