"""Queries the relay that runs on this machine, and compares it with the settings that the doctor has read.

The query uses the internal port, as a probe does, and changes nothing. A relay reads its settings only when it starts.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp

from service.doctor.steps import Finding
from service.realtime.names import reached_locally, url_host
from service.settings import Settings
from service.startup import listen_problem

_TIMEOUT_SECONDS: Final = 2.0
_START_TIME_ERROR_SECONDS: Final = 2.0
"""The start time of a process is derived from that of the machine, which is known to the second."""
_MAX_BYTES: Final = 1 << 20
_START_TIME: Final = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)
_REASON: Final = re.compile(r"[a-z_]{1,40}")


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """What a relay reports about itself. `failing_checks` are texts such as 'handshake: fail (quota_exhausted)'."""

    upstream: str
    version: str
    started_at: float | None
    failing_checks: tuple[str, ...] = ()


async def query_relay(settings: Settings) -> RunningRelay | None:
    """Query the internal port of the settings; None if no relay answers there."""
    base = f"http://{url_host(reached_locally(settings.internal_host))}:{settings.internal_port}"
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
    with suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            health = json.loads(await _get(session, f"{base}/healthz?verbose"))
            if not isinstance(health, Mapping) or health.get("serviceId") != "realtime-relay":
                return None
            started = _START_TIME.search((await _get(session, f"{base}/metrics")).decode("utf-8", "replace"))
            return _parse_health(health, float(started[1]) if started else None)
    return None


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    async with session.get(url, allow_redirects=False) as response:
        body = bytearray()
        while len(body) < _MAX_BYTES and (chunk := await response.content.readany()):
            body += chunk
        return bytes(body)


def _parse_health(health: Mapping[str, object], started_at: float | None) -> RunningRelay:
    notes, checks = health.get("notes"), health.get("checks")
    texts = [str(note) for note in notes] if isinstance(notes, list) else []
    upstream = next((text.removeprefix("upstream: ") for text in texts if text.startswith("upstream: ")), "unknown")
    failing = []
    for name, entries in checks.items() if isinstance(checks, Mapping) else ():
        entry = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], Mapping) else {}
        status, reason = str(entry.get("status")), str(entry.get("reason", ""))
        if status in {"warn", "fail"} and _REASON.fullmatch(reason):
            failing.append(f"{str(name)[:40].removeprefix('upstream:')}: {status} ({reason})")
    return RunningRelay(upstream[:40], str(health.get("releaseId", ""))[:40], started_at, tuple(failing))


def compare(relay: RunningRelay | None, settings: Settings, upstream: str, files: Iterable[Path]) -> Finding:
    """Compare a running relay with the upstream that the settings select, and with the `.env` files that were read."""
    if relay is None:
        text = f"no relay answers on {settings.internal_host} port {settings.internal_port}"
        problems = _listen_problems(settings)
        return Finding(
            text, [f"A relay would not start here. {text}" for text in problems], "warn" if problems else "skipped"
        )
    notes = []
    if relay.upstream != upstream:
        notes.append(
            f"The running relay uses {relay.upstream}, but these settings select {upstream}: it was started with "
            "other settings, or they have changed since. Restart it if it should use these settings."
        )
    if relay.started_at is not None:
        notes += _changed_files(relay.started_at, files)
    notes += [f"Its /healthz reports {check}." for check in relay.failing_checks]
    age = f", started {_duration(time.time() - relay.started_at)} ago" if relay.started_at is not None else ""
    text = f"relay {relay.version} is running, upstream {relay.upstream}{age}"
    return Finding(text, notes, "warn" if notes else "ok")


def _changed_files(started_at: float, files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        changed_at = _changed_at(path)
        if changed_at > started_at + _START_TIME_ERROR_SECONDS:
            yield (
                f"{path.name} was changed at {_clock(changed_at)}, after the running relay started ({_clock(started_at)}). "
                "Restart the relay: it reads its settings only at startup."
            )


def _listen_problems(settings: Settings) -> list[str]:
    addresses = (
        ("RELAY_PORT", settings.host, settings.port),
        ("RELAY_INTERNAL_PORT", settings.internal_host, settings.internal_port),
    )
    return [problem for address in addresses if (problem := listen_problem(*address)) is not None]


def _changed_at(path: Path) -> float:
    """When a file was last written, at the earliest.

    An archive, a copy or another machine's clock can set the modification time ahead, and a change of mode or name sets only
    the change time: the earlier of the two counts.
    """
    with suppress(OSError):
        status = path.stat()
        return min(status.st_mtime, status.st_ctime)
    return 0.0


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
