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
# -P: a folder named `service` in the current folder must not replace the program.
_PROGRAM: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from service.cli import main; sys.exit(main())"


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
                *(sys.executable, "-P", "-c", _PROGRAM, _ROOT, "doctor", "--json"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=self._environ,
                cwd=self._directory,
                start_new_session=True,  # Ctrl-C in the relay's terminal is for the relay
            )
            try:
                output, _ = await process.communicate()
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
