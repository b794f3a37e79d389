"""The machine of the measurement, and the resources that the generator reserves."""

import os
import platform
import resource
import signal
import sys
from pathlib import Path

from bench.process import GENERATOR_CORE, has_two_cores


def prepare() -> None:
    """Pin the generator to its core, and raise the limit on open files; contenders inherit that limit."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that contenders are stopped
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if has_two_cores():
        os.sched_setaffinity(0, {GENERATOR_CORE})
    else:
        sys.stderr.write("fewer than two cores: contenders and generator share them\n")


def describe() -> dict[str, str]:
    """A short description of the machine."""
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
