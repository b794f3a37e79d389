"""The machine or container that this process runs on: limits on open files and memory, and the user of a port.

The functions only read: `getrlimit(2)`, the memory files of cgroups, and `/proc`. They raise nothing; a limit that cannot be
read counts as no limit.
"""

import resource
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

SPARE_DESCRIPTORS: Final = 100
"""Reserved for listeners, probes, scrapes, DNS and logs."""
PROCESS_BYTES: Final = 100 << 20
SESSION_BYTES: Final = 256 << 10
"""An idle session with TLS uses a third of this (docs/benchmarks.md); the rest is for its send buffers."""
_MEMORY_LIMIT_FILES: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp
_UNLIMITED_BYTES: Final = 1 << 60
"""cgroups version 1 reports nearly 2^63 for "no limit"."""

_OPEN_FILES_REMEDY: Final = (
    "Raise the limit on open files (ulimit -n) to 100 plus 2 for each session, or lower RELAY_MAX_SESSIONS."
)
_MEMORY_REMEDY: Final = (
    "Raise the container's memory limit to 100 MiB plus 256 KiB for each session, or lower RELAY_MAX_SESSIONS."
)


@dataclass(frozen=True, slots=True)
class MachineLimit:
    """A limit of the machine, as the number of sessions that fit below it. `resource_name` and `remedy` are for the log."""

    sessions: int
    resource_name: str
    remedy: str


class Listener(NamedTuple):
    """A process that listens on a port."""

    pid: int
    name: str


def listener_on(port: int) -> Listener | None:
    """The process that listens on a TCP port; None if there is none, or if it belongs to another user or container."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for folder in Path("/proc").glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # the process belongs to another user, or has ended
            if any(str(link.readlink()) in sockets for link in (folder / "fd").iterdir()):
                return Listener(int(folder.name), (folder / "comm").read_text("utf-8", "replace").strip())
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def session_limit(wanted: int, reserved_bytes: int = 0) -> MachineLimit | None:
    """Return the tightest limit of the machine that `wanted` concurrent sessions exceed, or None if they all fit.

    `reserved_bytes` of the memory are for something else.
    """
    limits = (
        (max_sessions_by_open_files(), "open files", _OPEN_FILES_REMEDY),
        (max_sessions_by_memory(reserved_bytes=reserved_bytes), "memory", _MEMORY_REMEDY),
    )
    exceeded = [MachineLimit(n, name, remedy) for n, name, remedy in limits if n is not None and n < wanted]
    return min(exceeded, key=lambda limit: limit.sessions, default=None)


def max_sessions_by_open_files() -> int | None:
    """Return the number of sessions (two sockets each) that the soft limit on open files allows; None for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, (soft - SPARE_DESCRIPTORS) // 2)


def max_client_descriptors() -> int | None:
    """Return how many descriptors client connections and their upstream sockets may use together; None for no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_DESCRIPTORS // 2)


def max_sessions_by_memory(files: Iterable[Path] = _MEMORY_LIMIT_FILES, reserved_bytes: int = 0) -> int | None:
    """Return how many sessions fit below the container's memory limit; None for no limit."""
    limit = memory_limit_bytes(files)
    return None if limit is None else max(1, (limit - PROCESS_BYTES - reserved_bytes) // SESSION_BYTES)


def memory_used_bytes() -> int | None:
    """Return the resident memory of this process; None where the kernel does not report it."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return None


def memory_limit_bytes(files: Iterable[Path] = _MEMORY_LIMIT_FILES) -> int | None:
    """Return the container's memory limit, from the first cgroup file that holds a number; None for no limit."""
    for file in files:
        with suppress(OSError, ValueError):  # the file is missing, or holds "max"
            limit = int(file.read_text(encoding="ascii"))
            return limit if limit < _UNLIMITED_BYTES else None
    return None
