"""A Docker Engine and one compose project in it, told apart from whatever else runs there."""

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


class NoEngine(Exception):
    """There is no Docker Engine with compose here; the message says what is missing."""


class Failed(Exception):
    """A command or a check failed."""


def find_engine() -> str:
    """The version of the engine that `docker` reaches; raises NoEngine."""
    for command in (("docker", "info", "--format", "{{.ServerVersion}}"), ("docker", "compose", "version", "--short")):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as fault:
            raise NoEngine(f"{' '.join(command[:2])}: {type(fault).__name__}") from None
        if done.returncode or not done.stdout.strip():
            raise NoEngine(f"{' '.join(command[:2])}: {(done.stderr or done.stdout).strip()[:200]}")
    return subprocess.run(
        ("docker", "version", "--format", "{{.Server.Version}}"), capture_output=True, text=True, check=True
    ).stdout.strip()


async def run(*command: str, env: Mapping[str, str] | None = None, seconds: float = _SECONDS) -> tuple[int, str]:
    """Run a command in the repository; its exit code, and what it wrote."""
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
        raise Failed(f"{' '.join(command)}: no end within {seconds:.0f} s") from None
    return process.returncode or 0, written.decode("utf-8", "replace")


async def must(*command: str, env: Mapping[str, str] | None = None, seconds: float = _SECONDS) -> str:
    """Run a command that has to succeed; what it wrote. Raises Failed."""
    code, written = await run(*command, env=env, seconds=seconds)
    if code:
        raise Failed(f"{' '.join(command)}: exit code {code}\n{written[-3000:]}")
    return written


@dataclass(slots=True)
class Compose:
    """The compose file under a project name of its own, with these env files and variables."""

    project: str
    env_files: Sequence[str] = ()
    files: Sequence[str] = ("docker-compose.yml",)
    variables: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, *words: str, seconds: float = _SECONDS) -> str:
        """Run a command of compose that has to succeed."""
        return await must(*self.command(*words), env=self.environment(), seconds=seconds)

    async def attempt(self, *words: str, seconds: float = _SECONDS) -> tuple[int, str]:
        """Run a command of compose; its exit code, and what it wrote."""
        return await run(*self.command(*words), env=self.environment(), seconds=seconds)

    def command(self, *words: str) -> list[str]:
        """The words of a command line."""
        options = [word for file in self.files for word in ("--file", file)]
        options += [word for file in self.env_files for word in ("--env-file", file)]
        return ["docker", "compose", "--project-name", self.project, *options, *words]

    def environment(self) -> dict[str, str]:
        """This process's own, without what would be taken for a setting."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "OPENAI_"))}
        return own | dict(self.variables)

    async def inspect(self, service: str) -> Any:
        """What the engine knows of a service's container, stopped or not."""
        container = (await self("ps", "--all", "--quiet", service)).strip()
        return json.loads(await must("docker", "inspect", container))[0]

    async def logs(self, service: str) -> list[Any]:
        """The lines of a service's log, each of which has to be JSON."""
        container = (await self("ps", "--all", "--quiet", service)).strip()
        text = await must("docker", "logs", container)  # what compose adds is meant for terminals
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise Failed(f"the log of {service} is not JSON:\n{text[-2000:]}") from None
