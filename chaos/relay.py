"""The relay under attack: a process with settings of its own, optionally in a cgroup with a limit on its memory."""

import asyncio
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.contenders import KEY, REPOSITORY, python_of
from bench.process import Process
from chaos.attacks import CALLER_TOKEN, CLIENT_NAMES, client_token

_START_SECONDS: Final = 60.0
_MEBIBYTE: Final = 1 << 20
_CGROUPS_V1: Final = Path("/sys/fs/cgroup/memory")
_CGROUPS_V2: Final = Path("/sys/fs/cgroup")


class RelayDidNotStart(Exception):
    """The message holds the end of its log."""


class MemoryCgroup:
    """A cgroup with a limit on memory, below that of this process; `problem` names the cause if there is none."""

    def __init__(self, mebibytes: int) -> None:
        self.problem: str | None = None
        self._folder: Path | None = None
        name = f"realtime-relay-chaos-{os.getpid()}"
        try:
            folder, limit = _memory_cgroup_of_this_process()
            self._folder = folder / name
            self._folder.mkdir()
            (self._folder / limit).write_text(str(mebibytes * _MEBIBYTE), encoding="ascii")
        except OSError as exc:
            self.problem = f"no cgroup can be made: {exc.strerror} ({exc.filename})"
            self.remove()

    def enter_command(self) -> str:
        """A line of shell that moves the shell into the cgroup."""
        return f"echo $$ > '{self._folder}/cgroup.procs'; " if self._folder is not None else ""

    def killed(self) -> int:
        """How many processes the kernel has killed for their memory."""
        found = 0
        for file in ("memory.oom_control", "memory.events"):
            with suppress(OSError, TypeError):
                text = (self._folder / file).read_text(encoding="ascii")  # type: ignore[operator]  # suppressed
                found += sum(map(int, re.findall(r"^oom_kill (\d+)", text, re.MULTILINE)))
        return found

    def remove(self) -> None:
        """Remove the cgroup, which must be empty."""
        if self._folder is not None:
            with suppress(OSError):
                self._folder.rmdir()
            self._folder = None


def _memory_cgroup_of_this_process() -> tuple[Path, str]:
    """Its folder, and the name of the file with the limit."""
    unified = "/"
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _CGROUPS_V1 / path.lstrip("/"), "memory.limit_in_bytes"
        if not controllers:
            unified = path
    return _CGROUPS_V2 / unified.lstrip("/"), "memory.max"


@dataclass(slots=True)
class Relay:
    """A running relay."""

    process: Process
    port: int
    internal_port: int

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, which no attack may cause."""
        return self.process.has_ended

    def rss_mb(self) -> float:
        """Its resident memory."""
        return self._status("VmRSS")

    def peak_mb(self) -> float:
        """The largest resident memory since the start, or since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Begin to count the peak again; proc(5), clear_refs."""
        with suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")

    def _status(self, name: str) -> float:
        with suppress(OSError):
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
            if found := re.search(rf"{name}:\s+(\d+)", status):
                return int(found[1]) * 1024 / 1e6
        return 0.0

    def ended_sessions(self) -> dict[str, int]:
        """How many sessions ended, by reason, as the log has it."""
        reasons = re.findall(
            r'"event": "session.ended".*?"reason": "(\w+)"', self.process.log.read_text("utf-8", "replace")
        )
        return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _environment(tree: Path, upstream_port: int, settings: Mapping[str, str]) -> dict[str, str]:
    attackers = [f"attacker{n:02}:{client_token(n)}" for n in range(CLIENT_NAMES)]
    tokens = [f"caller:{CALLER_TOKEN}", *([] if "RELAY_CLIENTS_FILE" in settings else attackers)]
    more = settings.get("RELAY_CLIENT_TOKENS")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tree),
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream_port}/v1",
        "RELAY_ACCESS": "tokens",
        "RELAY_PORT": "0",
        "RELAY_INTERNAL_PORT": "0",
        "RELAY_LOG_FORMAT": "json",
        "RELAY_DRAIN_SECONDS": "0",
        "RELAY_CLOSE_SPREAD_SECONDS": "0",
        **settings,
        "RELAY_CLIENT_TOKENS": ",".join([*tokens, *([more] if more else [])]),
    }


async def start_relay(
    folder: Path,
    upstream_port: int,
    *,
    tree: Path = REPOSITORY,
    settings: Mapping[str, str] | None = None,
    open_files: int | None = None,
    clients: str = "",
    cgroup: MemoryCgroup | None = None,
) -> Relay:
    """Start the relay of a working tree, and wait until it is ready. `clients`: the text of its clients file."""
    settings = dict(settings or {})
    if clients:
        settings["RELAY_CLIENTS_FILE"] = str(folder / "clients.toml")
        (folder / "clients.toml").write_text(clients, encoding="utf-8")
    script = "".join([
        cgroup.enter_command() if cgroup else "",
        f"ulimit -n {open_files}; " if open_files else "",
        'exec "$0" -m service serve',
    ])  # fmt: skip
    # Not in the repository, which may contain a developer's .env.
    process = Process(
        ["sh", "-c", script, python_of(tree)],
        folder / f"relay-{time.monotonic_ns()}.log",
        _environment(tree, upstream_port, settings),
        folder,
    )
    try:
        async with asyncio.timeout(_START_SECONDS):
            started = await _event(process, "service.started")
            await _event(process, "health.changed")
    except TimeoutError:
        await process.stop()
        raise RelayDidNotStart(process.log_tail()) from None
    return Relay(process, _port(started["url"]), _port(started["health"]))


async def _event(process: Process, name: str) -> dict[str, Any]:
    while True:
        for line in process.log.read_text("utf-8", "replace").splitlines():
            if f'"event": "{name}"' in line:
                event: dict[str, Any] = json.loads(line)
                return event
        if process.has_ended:
            raise RelayDidNotStart(process.log_tail())
        await asyncio.sleep(0.05)


def _port(url: str) -> int:
    return urlsplit(url).port or 0
