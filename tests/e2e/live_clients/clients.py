"""The clients: how each is installed, and how it says a sentence to GPT-Live through a relay."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from service.failures import CATALOGUE
from tests.e2e.live_clients import browser
from tests.e2e.live_clients.checks import REFUSAL, REFUSAL_CODE
from tests.e2e.live_clients.environments import chromium, node_modules, python_with
from tests.e2e.live_clients.examples import connected, example
from tests.e2e.live_clients.outcome import ClientFailed, Outcome

_CLIENT_SECONDS: Final = 180  # only a hang lasts longer


Run = Callable[[Path, str, Path, bytes], Awaitable[Outcome]]
"""Runs an example: its environment, its text, an empty folder, the speech. Raises ClientFailed."""


@dataclass(frozen=True, slots=True)
class Client:
    """One client. `install` returns its environment, and raises EnvironmentUnavailable or WrongPackage."""

    name: str
    heading: str  # of its section in docs/clients.md
    install: Callable[[], Path]
    run: Run
    shows: tuple[str, ...] = (REFUSAL, CATALOGUE[REFUSAL].remedy[:20])  # of a start that is refused

    async def talk(self, environment: Path, folder: Path, speech: bytes, *, port: int, token: str) -> Outcome:
        """Run its example against a relay. Raises ClientFailed, LookupError."""
        return await self.run(environment, connected(example(self.heading), port, token), folder, speech)


async def run_python(python: Path, text: str, folder: Path, speech: bytes) -> Outcome:
    """See `Run`; the environment is the interpreter."""
    (folder / "example.py").write_text(text, encoding="utf-8")
    return await _run([str(python), "example.py"], folder, speech)


async def _run_node(modules: Path, text: str, folder: Path, speech: bytes) -> Outcome:
    (folder / "example.mjs").write_text(text, encoding="utf-8")
    (folder / "node_modules").symlink_to(modules)
    return await _run([shutil.which("node") or "node", "example.mjs"], folder, speech)


async def _run(command: Sequence[str], folder: Path, speech: bytes) -> Outcome:
    """Run a program that reads speech.pcm and writes answer.pcm."""
    (folder / "speech.pcm").write_bytes(speech)
    log, answer = folder / "output.log", folder / "answer.pcm"
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=output, stderr=output)
    try:
        code = await asyncio.wait_for(child.wait(), _CLIENT_SECONDS)
    except TimeoutError:
        child.kill()
        await child.wait()
        raise ClientFailed(f"it did not end within {_CLIENT_SECONDS} s:\n{log.read_text()[-3000:]}") from None
    text = log.read_text(encoding="utf-8", errors="replace")
    return Outcome(speech, answer.read_bytes() if answer.exists() else b"", text, code)


CLIENTS: Final = (
    Client("openai-python", "GPT-Live with openai-python", partial(python_with, "openai"), run_python),
    Client("openai-node", "GPT-Live with openai-node", node_modules, _run_node),
    Client(
        "livekit", "GPT-Live with livekit-agents", partial(python_with, "livekit"), run_python, shows=(REFUSAL_CODE,)
    ),
    Client("pipecat", "GPT-Live with pipecat", partial(python_with, "pipecat"), run_python, shows=(REFUSAL,)),
    Client("browser", "GPT-Live in a browser", chromium, browser.run),
)
