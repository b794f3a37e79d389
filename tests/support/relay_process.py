"""The program as a process: starts it, reads its log, requests its URLs."""

import asyncio
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parents[2]
NO_CERTIFICATES: Final = "/nowhere.pem"
"""For processes that open no TLS connection: aiohttp's import reads the machine's CAs twice, which takes 75 ms of CPU."""


def environment(**settings: str) -> dict[str, str]:
    """The environment of the program: the settings given, on free ports, and no setting of the test's own environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "OPENAI_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT), "RELAY_PORT": "0", "RELAY_INTERNAL_PORT": "0", **settings}


def run(*words: str, directory: str = "/", **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, by default in a folder without .env files."""
    return subprocess.run(
        [sys.executable, "-m", "service", *words],
        env=environment(**settings),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass
class Process:
    """A running relay. `lines` holds the log events that were read so far."""

    process: asyncio.subprocess.Process
    lines: list[Any] = field(default_factory=list)

    async def event(self, name: str) -> Any:
        """Read the log up to the next event of a name."""
        assert self.process.stderr is not None
        while True:
            line = await asyncio.wait_for(self.process.stderr.readline(), 60)
            assert line, f"the log ended before {name}"
            assert line.startswith(b"{"), f"not a line of the log: {line.decode()}"  # why there was no start
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == name:
                return self.lines[-1]

    async def rest(self) -> int:
        """Read the log to its end; returns the exit code."""
        assert self.process.stderr is not None
        while line := await asyncio.wait_for(self.process.stderr.readline(), 60):
            if line.endswith(b"\n"):  # a killed process can leave half a line
                self.lines.append(json.loads(line))
        return await self.process.wait()


def serving(**settings: str) -> AbstractAsyncContextManager[tuple[Process, int, str]]:
    """A relay process in a folder without .env files; see `serving_in`."""
    return serving_in(Path("/"), **settings)


@asynccontextmanager
async def serving_in(directory: Path, /, **settings: str) -> AsyncIterator[tuple[Process, int, str]]:
    """A relay process in `directory`, by default on the simulator: the process, its public port, its internal URL."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve",
        env=environment(**{"RELAY_UPSTREAM": "auto", "SSL_CERT_FILE": NO_CERTIFICATES} | settings),
        cwd=directory,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    process = Process(child)
    try:
        started = await process.event("service.started")
    except BaseException:
        if child.returncode is None:
            child.kill()
        await child.communicate()
        raise
    try:
        health = urlsplit(started["health"])
        yield process, urlsplit(started["url"]).port or 0, f"http://{health.netloc}"
    finally:
        if child.returncode is None:
            child.kill()
        await process.rest()


async def get(url: str) -> int:
    """The HTTP status of a URL."""

    def fetch() -> int:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - loopback
                return int(response.status)
        except urllib.error.HTTPError as exc:
            exc.close()
            return exc.code

    return await asyncio.to_thread(fetch)
