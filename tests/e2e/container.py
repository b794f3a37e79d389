"""`python -m tests.e2e.container`: Dockerfile and compose file, unchanged, in the Docker Engine that `docker` reaches.

Exit codes: 0 passed, 1 failed, 3 no engine, which is said loudly. BASE names the base image, as in the Dockerfile. Ports are
any that are free, the project's name is its own, and nothing is left behind but the image `realtime-relay:local`.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.e2e import demo, image, profiles
from tests.e2e.engine import Compose, Failed, NoEngine, find_engine, run
from tests.e2e.stage import Stage

NOT_RUN: Final = 3
_PORTS: Final = (
    "PUBLISHED_PORT", "PUBLISHED_INTERNAL_PORT", "PUBLISHED_TLS_PORT", "PUBLISHED_PROMETHEUS_PORT",
    "PUBLISHED_ALERTMANAGER_PORT", "PUBLISHED_GRAFANA_PORT",
)  # fmt: skip

Step = Callable[[Stage], Awaitable[str]]
STEPS: Final[tuple[Step, ...]] = (
    image.every_profile_is_accepted,
    image.two_builds_are_the_same,
    demo.it_comes_up_healthy,
    demo.it_runs_with_nothing_it_does_not_need,
    demo.a_conversation_passes,
    demo.every_failure_is_told,
    demo.a_kill_restarts,
    demo.a_stop_drains,
    profiles.the_memory_limit_holds,
    profiles.tls_with_secrets_as_files,
    profiles.prometheus_and_alertmanager,
)


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports: list[int] = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


async def main(wanted: list[str]) -> int:
    """Run the steps; the exit code."""
    try:
        version = find_engine()
    except NoEngine as missing:
        _say(f"NOT RUN: the container tests, since no Docker Engine can be reached here ({missing})")
        return NOT_RUN
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="realtime-relay-e2e-"))
    ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
    base = os.environ.get("BASE", "python:3.11-slim")
    project = f"realtime-relay-e2e-{os.getpid()}"
    stage = Stage(Compose(project, ("compose/demo.env",), variables={**ports, "BASE": base}), folder, base)
    _say(f"Docker Engine {version}, base {base}, project {project}")
    try:
        for step in STEPS:
            if not wanted or step.__name__ in wanted:
                await _take(step, stage)
    except Failed as failed:
        _say(f"FAILED: {failed}")
        _say(await _everything_said(stage))
        return 1
    finally:
        await stage.compose.attempt("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "2")
        for name in stage.stand_ins:
            await run("docker", "image", "rm", "--force", name)
        shutil.rmtree(folder, ignore_errors=True)
    for line in stage.not_run:
        _say(f"NOT RUN: {line}")
    _say(f"passed in {time.monotonic() - began:.0f} s")
    return 0


async def _take(step: Step, stage: Stage) -> None:
    began = time.monotonic()
    said = await step(stage)
    _say(f"{step.__name__.replace('_', ' ')}: {said} ({time.monotonic() - began:.0f} s)")


async def _everything_said(stage: Stage) -> str:
    _, states = await stage.compose.attempt("--profile", "*", "ps", "--all")
    _, logs = await stage.compose.attempt("--profile", "*", "logs", "--no-color", "--tail", "15")
    return f"{states}\n{logs}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
