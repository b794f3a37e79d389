"""The documents of `/api`: what the relay knows, as JSON objects. Reads state, changes nothing, waits for nothing."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from service.failures import CATALOGUE, Row
from service.health import report
from service.health.checks import HealthCheck
from service.health.monitor import HealthMonitor
from service.realtime.events import Api
from service.relay.session import Session
from service.telemetry.recent import RecentFailures, RecentLag, RecentOutcomes, Window, counts_against_objective

WINDOWS: Final = ((300, 30), (3600, 60))
"""Seconds and points of the windows of the overview."""


def health(monitor: HealthMonitor, notes: Iterable[str]) -> dict[str, object]:
    """The overall health, and each check with the age of its result."""
    is_stale = monitor.age_seconds > monitor.stale_after_seconds
    return {
        "status": report.overall(monitor.checks, is_stale=is_stale),
        "ready": monitor.ready,
        "stale": is_stale,
        "checks": [_check(check) for check in monitor.checks],
        "notes": [*notes, *monitor.notes()],
    }


def _check(check: HealthCheck) -> dict[str, object]:
    row = CATALOGUE[check.reason] if check.reason is not None else None
    return {
        "name": check.name,
        "status": check.status,
        "required": check.is_required,
        "source": check.source,
        "reason": check.reason,
        "message": row.sentence if row is not None else None,
        "remedy": (check.hint or row.operator_action) if row is not None else None,
        "runbook": _runbook(row) if row is not None else None,
        "checked_seconds_ago": _age(check.checked_at),
        "passed_seconds_ago": _age(check.passed_at),
        "duration_seconds": None if check.seconds is None else round(check.seconds, 4),
    }


def _age(at: float | None) -> float | None:
    return None if at is None else round(max(0.0, time.time() - at), 1)


def outcomes(recent: RecentOutcomes) -> list[dict[str, object]]:
    """How connections began in the last 5 and 60 minutes."""
    return [_window(recent.window(seconds, points)) for seconds, points in WINDOWS]


def _window(window: Window) -> dict[str, object]:
    ratio = window.success_ratio
    return {
        "seconds": window.seconds,
        "succeeded": sum(window.succeeded),
        "failed": sum(window.failed),
        "success_ratio": None if ratio is None else round(ratio, 6),
        "failures": [
            {"reason": reason, "count": count, "counted": counts_against_objective(reason)}
            for reason, count in sorted(window.by_reason.items(), key=lambda item: (-item[1], item[0]))
        ],
        "point_seconds": window.point_seconds,
        "succeeded_points": window.succeeded,
        "failed_points": window.failed,
    }


def open_sessions(sessions: Iterable[Session]) -> dict[str, int]:
    """The number of open sessions of each API."""
    counts = Counter(session.info.api for session in sessions)
    return {api: counts[api] for api in Api}


def lag(recent: RecentLag) -> dict[str, object]:
    """The lag of the event loop in the last minute."""
    return {
        "last_seconds": None if recent.last is None else round(recent.last, 6),
        "greatest_seconds": None if recent.greatest is None else round(recent.greatest, 6),
    }


def session_list(
    sessions: Iterable[Session], limit: int, search: str, redact: Callable[[str], str]
) -> dict[str, object]:
    """The newest sessions that contain `search`; only those that are listed are read."""
    newest = list(sessions)[::-1]
    wanted = search.casefold()
    matching = newest if not wanted else [session for session in newest if _contains(session, wanted)]
    views = (session.view() for session in islice(matching, limit))
    listed = [view.as_object() for view in views if view is not None]
    for entry in listed:
        for name in ("client", "user", "address", "model"):
            text = entry[name]
            entry[name] = redact(text) if isinstance(text, str) else text
    return {"total": len(newest), "matching": len(matching), "limit": limit, "sessions": listed}


def _contains(session: Session, wanted: str) -> bool:
    info = session.info
    return any(
        wanted in text.casefold()
        for text in (info.session_id, info.client, info.user or "", info.address, info.model or "", info.api)
    )


def failure_list(recent: RecentFailures, limit: int, redact: Callable[[str], str]) -> dict[str, object]:
    """The last failures, newest first."""
    shown = [failure.shown(redact) for failure in recent.newest(limit)]
    return {"time": round(time.time(), 3), "total": recent.total, "limit": limit, "failures": shown}


def catalogue() -> dict[str, object]:
    """Every reason."""
    return {"reasons": [_row(row) for row in CATALOGUE.values()]}


def _row(row: Row) -> dict[str, object]:
    return {
        "reason": row.reason,
        "message": row.sentence,
        "remedy": row.remedy,
        "operator_action": row.operator_action,
        "blame": row.blame,
        "http_status": row.http_status,
        "close_code": row.close_code,
        "event_close_code": row.event_close_code,
        "retry": row.retry,
        "level": row.level.name.lower(),
        "runbook": _runbook(row),
    }


def _runbook(row: Row) -> dict[str, object]:
    return {"name": row.page, "anchor": row.reason}
