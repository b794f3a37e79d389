"""A Docker Engine, and one compose project in it with a name of its own."""

import asyncio
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_SECONDS: Final = 180


class EngineUnavailable(Exception):
    """No Docker Engine with compose is reachable; the message names what is missing."""


class CheckFailed(Exception):
    """A command or a check failed."""


def find_engine() -> str:
    """The version of the engine that `docker` reaches; raises EngineUnavailable."""
    for command in (("docker", "info", "--format", "{{.ServerVersion}}"), ("docker", "compose", "version", "--short")):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise EngineUnavailable(f"{' '.join(command[:2])}: {type(exc).__name__}") from None
        if done.returncode or not done.stdout.strip():
            raise EngineUnavailable(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[:200]}")
    return subprocess.run(
        ("docker", "version", "--format", "{{.Server.Version}}"), capture_output=True, text=True, check=True
    ).stdout.strip()


async def run(*command: str, env: Mapping[str, str] | None = None, seconds: float = _SECONDS) -> tuple[int, str]:
    """Run a command in the repository; returns its exit code and output. Raises CheckFailed when it does not end in time."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=None if env is None else dict(env),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(seconds):
            written, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise CheckFailed(f"{' '.join(command)} did not end within {seconds:.0f} s") from None
    return process.returncode or 0, written.decode("utf-8", "replace")


async def run_checked(*command: str, env: Mapping[str, str] | None = None, seconds: float = _SECONDS) -> str:
    """Run a command and return its output; raises CheckFailed unless it succeeds."""
    code, written = await run(*command, env=env, seconds=seconds)
    if code:
        raise CheckFailed(f"{' '.join(command)}: exit code {code}\n{written[-3000:]}")
    return written


@dataclass(slots=True)
class Compose:
    """The compose file with a project name, env files and variables."""

    project: str
    env_files: Sequence[str] = ()
    files: Sequence[str] = ("docker-compose.yml",)
    variables: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, *arguments: str, seconds: float = _SECONDS) -> str:
        """Run a compose command and return its output; raises CheckFailed unless it succeeds."""
        return await run_checked(*self.command(*arguments), env=self.environment(), seconds=seconds)

    async def attempt(self, *arguments: str, seconds: float = _SECONDS) -> tuple[int, str]:
        """Run a compose command; returns its exit code and output."""
        return await run(*self.command(*arguments), env=self.environment(), seconds=seconds)

    def command(self, *arguments: str) -> list[str]:
        """The command line of a compose command."""
        options = [word for file in self.files for word in ("--file", file)]
        options += [word for file in self.env_files for word in ("--env-file", file)]
        return ["docker", "compose", "--project-name", self.project, *options, *arguments]

    def environment(self) -> dict[str, str]:
        """The variables of this process, except settings of the relay."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "OPENAI_"))}
        return own | dict(self.variables)

    async def inspect(self, service: str) -> Any:
        """The engine's description of a service's container, running or stopped."""
        container = (await self("ps", "--all", "--quiet", service)).strip()
        return json.loads(await run_checked("docker", "inspect", container))[0]

    async def logs(self, service: str) -> list[Any]:
        """A service's log events; raises CheckFailed unless every line is JSON."""
        container = (await self("ps", "--all", "--quiet", service)).strip()
        text = await run_checked("docker", "logs", container)  # `docker compose logs` adds prefixes
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise CheckFailed(f"the log of {service} is not JSON:\n{text[-2000:]}") from None
