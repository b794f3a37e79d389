"""Runs the command `doctor` for the operator's page, in a process of its own.

Its steps read files, make TLS contexts and may fail in any way: none of that may stop the event loop that serves the calls.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

DOCTOR_SECONDS: Final = 60.0
"""Upper bound on a run. Each step has a bound of its own; together they take a second where all is well."""
KILL_SECONDS: Final = 5.0
_ROOT: Final = str(Path(__file__).resolve().parents[2])
DOCTOR_BYTES: Final = 64 << 20
"""What a run needs below the container's memory limit: it peaks at 46 MB."""
_PROGRAM: Final = """
import os, sys, threading
from pathlib import Path

def end_with_the_relay():
    os.read(0, 1)  # the relay writes nothing: this returns when it has ended, even by SIGKILL
    os._exit(1)

threading.Thread(target=end_with_the_relay, daemon=True).start()
try:  # where memory runs out, the kernel ends this process and not the relay
    Path("/proc/self/oom_score_adj").write_text("1000")
except OSError:
    pass
sys.path.insert(0, sys.argv.pop(1))
from service.cli import main
sys.exit(main())
"""


class DoctorFailed(Exception):
    """The doctor did not print its document."""


class DoctorProcess:
    """Runs the doctor as an operator would, with the environment and the working directory of the relay."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self._environ = dict(environ)
        self._directory = directory

    async def run(self) -> dict[str, Any]:
        """The JSON document of `doctor --json`. Raises TimeoutError or DoctorFailed; the process has ended in any case."""
        async with asyncio.timeout(DOCTOR_SECONDS):
            process = await asyncio.create_subprocess_exec(
                # -P: a folder named `service` in the current folder must not replace the program.
                *(sys.executable, "-P", "-c", _PROGRAM, _ROOT, "doctor", "--json"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
                cwd=self._directory,
                start_new_session=True,  # Ctrl-C in the relay's terminal is for the relay
            )
            try:
                assert process.stdout is not None  # noqa: S101 - it is a pipe
                output = await process.stdout.read()  # not communicate(), which closes the input at once
                await process.wait()
            finally:
                await _end(process)
        try:
            document = json.loads(output)
        except ValueError:
            raise DoctorFailed from None
        if not isinstance(document, dict):
            raise DoctorFailed
        return document


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await process.wait()
