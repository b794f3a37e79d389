"""The SDKs: how each is installed and started."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.e2e.live_clients.environments import node_modules, python_with

PROGRAMS: Final = Path(__file__).with_name("programs")
_RENEW: Final = "continuity=renew"
_NPM: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Client:
    """One SDK. `install` returns its interpreter or `node_modules`; it raises EnvironmentUnavailable or WrongPackage."""

    name: str
    program: str
    install: Callable[[], Path]
    query: str = _RENEW  # "": the SDK can add no query, so that the relay's setting asks for the mode
    needs_tls: bool = False
    truncates: bool = True  # when the user interrupts an answer

    def command(self, environment: Path, folder: Path) -> list[str]:
        """The command of its program, which is copied into an empty folder."""
        common = "common.mjs" if self.program.endswith(".mjs") else "common.py"
        for name in (common, self.program):
            shutil.copy(PROGRAMS / name, folder)
        if self.program.endswith(".mjs"):
            (folder / "node_modules").symlink_to(environment)
            return [shutil.which("node") or "node", self.program]
        return [str(environment), "-u", self.program]


def environment_of(**variables: str) -> dict[str, str]:
    """The environment of a program: this one's, without its settings and without telemetry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "OPENAI_", "PYTHON"))}
    return kept | {"OPENAI_AGENTS_DISABLE_TRACING": "1"} | variables


_NODE: Final = partial(node_modules, _NPM)
CLIENTS: Final = (
    Client("openai-python", "openai_python.py", partial(python_with, "live-openai")),
    Client("openai-node", "openai_node.mjs", _NODE, needs_tls=True),
    Client("openai-agents", "openai_agents.py", partial(python_with, "continuity-agents")),
    Client("openai-agents-js", "openai_agents.mjs", _NODE),
    Client("livekit", "livekit_agents.py", partial(python_with, "live-livekit")),
    Client("pipecat-1.10", "pipecat_ai.py", partial(python_with, "continuity-pipecat-1.10"), query=""),
    Client("pipecat", "pipecat_ai.py", partial(python_with, "live-pipecat"), query=""),
)
STRANDS: Final = Client("strands", "strands_bidi.py", partial(python_with, "continuity-strands"), truncates=False)
