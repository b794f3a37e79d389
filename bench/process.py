"""A contender's process: started on a core of its own, measured with all threads and children, stopped by its process id."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONTENDER_CORE: Final = 0
GENERATOR_CORE: Final = 1
_STOP_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of a process and its children, in kB."""

    rss: int
    pss: int


_TWO_CORES: Final = {CONTENDER_CORE, GENERATOR_CORE} <= os.sched_getaffinity(
    0
)  # before the generator is pinned to its core


def has_two_cores() -> bool:
    """Whether contender and generator can each have a core."""
    return _TWO_CORES


def core_seconds(core: int) -> tuple[float, float]:
    """Seconds since boot in which a core was busy, and in which the hypervisor used it (steal)."""
    tick = os.sysconf("SC_CLK_TCK")
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _waiting, irq, soft_irq, steal = (int(field) / tick for field in fields[:8])
            return user + nice + system + irq + soft_irq, steal
    return 0.0, 0.0


class Process:
    """A program and its log."""

    def __init__(self, command: list[str], log: Path, environment: Mapping[str, str], folder: Path) -> None:
        self.log = log
        pinned = ["taskset", "-c", str(CONTENDER_CORE), *command] if has_two_cores() else command
        with log.open("wb") as out:
            self._popen = subprocess.Popen(  # noqa: S603 - the commands are written in this package
                pinned,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(environment),
                cwd=folder,
            )

    @property
    def pid(self) -> int:
        """The process id; taskset replaces itself with the program."""
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has exited."""
        return self._popen.poll() is not None

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-2000:]

    async def stop(self) -> None:
        """Stop it with SIGTERM, and with SIGKILL after five seconds."""
        if self.has_ended:
            return
        self._popen.send_signal(signal.SIGTERM)
        for _ in range(_STOP_SECONDS * 20):
            if self.has_ended:
                return
            await asyncio.sleep(0.05)
        for pid in reversed(self.tree()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait()

    def tree(self) -> list[int]:
        """The process and all its descendants."""
        found, at = [self.pid], 0
        while at < len(found):
            for task in _tasks(found[at]):
                with suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
            at += 1
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all threads so far, from the scheduler, which counts in nanoseconds rather than ticks."""
        total = 0
        for pid in self.tree():
            for task in _tasks(pid):
                with suppress(OSError):  # the thread has just ended
                    total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory(self) -> Memory:
        """Its memory now."""
        rss = pss = 0
        for pid in self.tree():
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    rss += int(line.split()[1]) if line.startswith("Rss:") else 0
                    pss += int(line.split()[1]) if line.startswith("Pss:") else 0
        return Memory(rss, pss)

    def open_files(self) -> int:
        """The number of its open descriptors."""
        total = 0
        for pid in self.tree():
            with suppress(OSError):
                total += sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return total


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
