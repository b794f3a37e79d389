"""The clients: how each is installed, and how it says a sentence to GPT-Live through a relay."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import Final

from service.failures import CATALOGUE
from tests.e2e.live_clients import browser
from tests.e2e.live_clients.checks import DELEGATING_KEY, KEY_CANARY, REFUSAL, REFUSAL_CODE
from tests.e2e.live_clients.environments import chromium, node_modules, python_with
from tests.e2e.live_clients.examples import connected, example
from tests.e2e.live_clients.outcome import ClientFailed, Outcome

_CLIENT_SECONDS: Final = 180  # only a hang lasts longer


Watch = Callable[[asyncio.subprocess.Process], Awaitable[None]]
"""Is called with the program once it runs, and may end it."""
Run = Callable[[Path, str, Path, bytes, Watch | None], Awaitable[Outcome]]
"""Runs an example: its environment, its text, an empty folder, the speech. Raises ClientFailed."""


@dataclass(frozen=True, slots=True)
class Client:
    """One client. `install` returns its environment, and raises EnvironmentUnavailable or WrongPackage."""

    name: str
    heading: str  # of its section in docs/clients.md
    install: Callable[[], Path]
    run: Run
    shows: tuple[str, ...] = (REFUSAL, CATALOGUE[REFUSAL].remedy[:20])  # of a start that is refused
    edit: Callable[[str], str] = str
    key: str = KEY_CANARY  # of the provider, which selects the behaviour of the simulator
    events: tuple[str, ...] = ()  # that it must have sent, beside those of every conversation
    is_program: bool = True  # one process, which can be killed

    async def talk(
        self, environment: Path, folder: Path, speech: bytes, *, port: int, token: str, watch: Watch | None = None
    ) -> Outcome:
        """Run its example against a relay. Raises ClientFailed, LookupError."""
        text = self.edit(connected(example(self.heading), port, token))
        return await self.run(environment, text, folder, speech, watch)


async def run_python(python: Path, text: str, folder: Path, speech: bytes, watch: Watch | None = None) -> Outcome:
    """See `Run`; the environment is the interpreter."""
    (folder / "example.py").write_text(text, encoding="utf-8")
    return await _run([str(python), "example.py"], folder, speech, watch)


async def _run_node(modules: Path, text: str, folder: Path, speech: bytes, watch: Watch | None = None) -> Outcome:
    (folder / "example.mjs").write_text(text, encoding="utf-8")
    (folder / "node_modules").symlink_to(modules)
    return await _run([shutil.which("node") or "node", "example.mjs"], folder, speech, watch)


async def _run_page(chromium: Path, text: str, folder: Path, speech: bytes, _: Watch | None = None) -> Outcome:
    return await browser.run(chromium, text, folder, speech)


def _delegating(text: str) -> str:
    """The example of livekit-agents with client delegation: the second block of its section is inserted."""
    model, wait = 'GPTLiveModel(model="gpt-live-1", ', "    await speech.is_over.wait()\n"
    for part in (model, wait):
        if part not in text:
            raise LookupError(f"the example does not contain {part!r}")
    work = indent(example("GPT-Live with livekit-agents", block=1), "    ")
    return text.replace(model, f'{model}delegation="client", ').replace(wait, f"{work}{wait}")


async def _run(command: Sequence[str], folder: Path, speech: bytes, watch: Watch | None) -> Outcome:
    """Run a program that reads speech.pcm and writes answer.pcm."""
    (folder / "speech.pcm").write_bytes(speech)
    log, answer = folder / "output.log", folder / "answer.pcm"
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=output, stderr=output)
    try:
        if watch is not None:
            await watch(child)
        code = await asyncio.wait_for(child.wait(), _CLIENT_SECONDS)
    except TimeoutError:
        child.kill()
        await child.wait()
        raise ClientFailed(f"it did not end within {_CLIENT_SECONDS} s:\n{log.read_text()[-3000:]}") from None
    except BaseException:
        child.kill()
        await child.wait()
        raise
    text = log.read_text(encoding="utf-8", errors="replace")
    return Outcome(speech, answer.read_bytes() if answer.exists() else b"", text, code)


_NODE: Final = partial(node_modules, Path(__file__).parent)
CLIENTS: Final = (
    Client("openai-python", "GPT-Live with openai-python", partial(python_with, "live-openai"), run_python),
    Client("openai-node", "GPT-Live with openai-node", _NODE, _run_node),
    Client("vercel", "GPT-Live with Vercel's AI SDK", _NODE, _run_node),
    Client(
        "livekit",
        "GPT-Live with livekit-agents",
        partial(python_with, "live-livekit"),
        run_python,
        shows=(REFUSAL_CODE,),
    ),
    Client(
        "livekit-delegation",
        "GPT-Live with livekit-agents",
        partial(python_with, "live-livekit"),
        run_python,
        shows=(REFUSAL_CODE,),
        edit=_delegating,
        key=DELEGATING_KEY,
        events=("session.commentary.append",),
    ),
    Client("pipecat", "GPT-Live with pipecat", partial(python_with, "live-pipecat"), run_python, shows=(REFUSAL,)),
    Client("browser", "GPT-Live in a browser", chromium, _run_page, is_program=False),
)
