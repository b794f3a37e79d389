"""`python -m tests.e2e.container`: Dockerfile and compose file, unchanged, in the Docker Engine that `docker` reaches.

Exit codes: 0 passed, 1 failed, 3 not run because there is no engine. BASE names the base image, as in the Dockerfile. The
test uses free ports and a project name of its own, and removes everything except the image `realtime-relay:local`.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from tests.e2e import demo, image, profiles
from tests.e2e.deployment import Deployment
from tests.e2e.engine import CheckFailed, Compose, EngineUnavailable, find_engine, run
from tests.support.command_line import NOT_RUN, print_line
from tools.ports import free_port

_PORTS: Final = (
    "PUBLISHED_PORT", "PUBLISHED_INTERNAL_PORT", "PUBLISHED_TLS_PORT", "PUBLISHED_PROMETHEUS_PORT",
    "PUBLISHED_ALERTMANAGER_PORT", "PUBLISHED_GRAFANA_PORT",
)  # fmt: skip

Step = Callable[[Deployment], Awaitable[str]]
STEPS: Final[tuple[Step, ...]] = (
    image.compose_accepts_every_profile,
    image.builds_are_reproducible,
    demo.containers_become_healthy,
    demo.relay_container_is_confined,
    demo.conversation_passes_unchanged,
    demo.every_failure_reports_its_reason,
    demo.killed_relay_restarts,
    demo.stop_drains_sessions,
    profiles.rejected_key_is_named_soon,
    profiles.unreachable_provider_is_named,
    profiles.memory_limit_refuses_calls,
    profiles.tls_front_with_secret_files,
    profiles.prometheus_and_alertmanager_connect,
)


async def main(wanted: list[str]) -> int:
    """Run the steps, or the named ones; returns the exit code."""
    try:
        version = find_engine()
    except EngineUnavailable as exc:
        print_line(f"NOT RUN: the container tests, since no Docker Engine is reachable ({exc})")
        return NOT_RUN
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="realtime-relay-e2e-"))
    ports = {name: str(free_port()) for name in _PORTS}
    base = os.environ.get("BASE", "python:3.11-slim")
    project = f"realtime-relay-e2e-{os.getpid()}"
    deployment = Deployment(Compose(project, ("compose/demo.env",), variables={**ports, "BASE": base}), folder, base)
    print_line(f"Docker Engine {version}, base {base}, project {project}")
    try:
        for step in STEPS:
            if not wanted or step.__name__ in wanted:
                await _run_step(step, deployment)
    except CheckFailed as exc:
        print_line(f"FAILED: {exc}")
        print_line(await _states_and_logs(deployment))
        return 1
    finally:
        await deployment.compose.attempt("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "2")
        for name in deployment.created_images:
            await run("docker", "image", "rm", "--force", name)
        shutil.rmtree(folder, ignore_errors=True)
    for line in deployment.not_run:
        print_line(f"NOT RUN: {line}")
    print_line(f"passed in {time.monotonic() - started:.0f} s")
    return 0


async def _run_step(step: Step, deployment: Deployment) -> None:
    started = time.monotonic()
    output = await step(deployment)
    print_line(f"{step.__name__.replace('_', ' ')}: {output} ({time.monotonic() - started:.0f} s)")


async def _states_and_logs(deployment: Deployment) -> str:
    _, states = await deployment.compose.attempt("--profile", "*", "ps", "--all")
    _, logs = await deployment.compose.attempt("--profile", "*", "logs", "--no-color", "--tail", "15")
    return f"{states}\n{logs}"


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
