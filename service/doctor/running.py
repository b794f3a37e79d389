"""The relay that runs on this machine, if one does: which upstream it uses, and whether it has seen the newest settings.

It is asked on its internal port as any probe would; nothing is changed. A relay reads its settings once, when it starts.
"""

import json
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from service.doctor.steps import Finding
from service.settings import Settings

_SECONDS: Final = 2.0
_BYTES: Final = 1 << 20
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound
_STARTED: Final = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
_WORD: Final = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """What a relay says of itself."""

    upstream: str
    version: str
    started_at: float | None
    troubles: tuple[str, ...] = ()


async def query_relay(settings: Settings) -> RunningRelay | None:
    """Ask the internal port; None if no relay answers there."""
    host = _EVERYWHERE.get(settings.internal_host, settings.internal_host)
    base = f"http://{f'[{host}]' if ':' in host else host}:{settings.internal_port}"
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    with suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            health = json.loads(await _get(session, f"{base}/healthz?verbose"))
            if not isinstance(health, Mapping) or health.get("serviceId") != "realtime-relay":
                return None
            found = _STARTED.search((await _get(session, f"{base}/metrics")).decode("utf-8", "replace"))
            return _read(health, float(found[1]) if found else None)
    return None


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False) as response:
        body = bytearray()
        while len(body) < _BYTES and (piece := await response.content.readany()):
            body += piece
        return bytes(body)


def _read(health: Mapping[str, object], started_at: float | None) -> RunningRelay:
    notes, checks = health.get("notes"), health.get("checks")
    told = [str(note) for note in notes] if isinstance(notes, list) else []
    upstream = next((note.removeprefix("upstream: ") for note in told if note.startswith("upstream: ")), "unknown")
    troubles = []
    for name, entries in checks.items() if isinstance(checks, Mapping) else ():
        entry = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], Mapping) else {}
        status, reason = str(entry.get("status")), str(entry.get("reason", ""))
        if status in {"warn", "fail"} and _WORD.fullmatch(reason):
            troubles.append(f"{str(name)[:40].removeprefix('upstream:')}: {status} ({reason})")
    return RunningRelay(upstream[:40], str(health.get("releaseId", ""))[:40], started_at, tuple(troubles))


def judge(running: RunningRelay | None, settings: Settings, upstream: str, files: Iterable[Path]) -> Finding:
    """Compare what runs with what would be started now."""
    if running is None:
        where = f"{settings.internal_host} port {settings.internal_port}"
        return Finding(f"no relay answers on {where}", status="skipped")
    notes = [f"Its own health check says {trouble}." for trouble in running.troubles]
    stale = [path.name for path in files if running.started_at is not None and _mtime(path) > running.started_at]
    if stale:
        notes.insert(
            0, f"{', '.join(stale)} was changed after that relay started. Restart it: it reads its settings only once."
        )
    if running.upstream != upstream:
        notes.insert(
            0,
            f"That relay uses {running.upstream}, but the settings here name {upstream}: it was started with other settings, "
            "or has to be restarted.",
        )
    since = f", started {_ago(time.time() - running.started_at)} ago" if running.started_at is not None else ""
    finding = f"a relay {running.version} runs here, upstream {running.upstream}{since}"
    return Finding(finding, notes, "warn" if notes else "ok")


def _mtime(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _ago(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
