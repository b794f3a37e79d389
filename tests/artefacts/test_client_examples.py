"""The complete examples of docs/clients.md: each can be run as it is, and those with openai-python are run here."""

import random
import re
import shutil
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Final

import pytest

from service.simulator import SimulatorOptions
from tests.e2e.live_clients.clients import CLIENTS, Client, run_python
from tests.e2e.live_clients.examples import CLIENTS as DOCUMENT
from tests.e2e.live_clients.examples import connected, example
from tests.support.harness import TOKEN_CANARY, simulated_relay
from tests.support.live_client import quick_live

OPTIONS: Final = SimulatorOptions(pace=0, live=quick_live())
TOKENS: Final = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": TOKEN_CANARY}
HEADINGS: Final = ("openai-python", *(client.heading for client in CLIENTS))
_SOURCES: Final = Path(__file__).parents[1] / "e2e" / "live_clients"


def noise(seconds: float) -> bytes:
    """Loud audio without a repetition."""
    source = random.Random(1)
    return array("h", (source.randint(-8_000, 8_000) for _ in range(int(24_000 * seconds)))).tobytes()


def language_of(heading: str) -> str:
    """The language of an example."""
    found = re.search(rf"^#+ {heading}\n.*?^```(\w+)$", DOCUMENT.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.mark.parametrize("heading", HEADINGS)
def test_example_is_a_whole_program(heading: str, tmp_path: Path) -> None:
    """It names the relay and the token where the tests replace them, and its syntax is that of a program."""
    text = connected(example(heading), 1, "token")
    language = language_of(heading)
    if language == "python":
        compile(text, heading, "exec")
        return
    if language == "html":
        found = re.search(r'<script type="module">\n(.*?)</script>', text, re.DOTALL)
        assert found
        text = found[1]
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    program = tmp_path / "example.mjs"
    program.write_text(text, encoding="utf-8")
    checked = subprocess.run([node, "--check", program], capture_output=True, text=True, check=False, timeout=60)

    assert (0, "") == (checked.returncode, checked.stderr)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_examples_of_live_do_not_name_a_test(client: Client) -> None:
    """What `make e2e-live` runs is what a reader copies: only address and token are replaced."""
    assert "simulat" not in example(client.heading)
    assert "127.0.0.1:1/" in connected(example(client.heading), 1, "token")


async def test_realtime_example_of_openai_python_brings_back_the_speech(tmp_path: Path) -> None:
    """As it is in the document, with the SDK of the development environment."""
    speech = noise(1)
    async with simulated_relay(OPTIONS, **TOKENS) as relay:
        text = connected(example("openai-python"), relay.app.public_port, TOKEN_CANARY)
        outcome = await run_python(Path(sys.executable), text, tmp_path, speech)

    assert outcome.received == speech
    assert "completed" in outcome.output


async def test_live_example_of_openai_python_brings_back_the_speech(tmp_path: Path) -> None:
    """As it is in the document, except that it does not wait for real time."""
    text, pauses = re.subn(r"asyncio\.sleep\([\d.]+\)", "asyncio.sleep(0)", example("GPT-Live with openai-python"))
    async with simulated_relay(OPTIONS, **TOKENS) as relay:
        text = connected(text, relay.app.public_port, TOKEN_CANARY)
        outcome = await run_python(Path(sys.executable), text, tmp_path, noise(1))

        (ended,) = relay.events("session.ended")
    assert pauses == 1
    assert "24000 samples" in outcome.check()
    assert "(close_requested, " in outcome.output
    assert ("client_closed", True) == (ended["reason"], ended["usage_confirmed"])


def test_document_names_the_pinned_versions() -> None:
    """The introduction names the release of each SDK with which `make e2e-live` runs."""
    introduction = DOCUMENT.read_text(encoding="utf-8").split("\n## ", 1)[0]
    pins = [line for file in sorted(_SOURCES.glob("*.in")) for line in file.read_text().splitlines()]
    pins += re.findall(r"\"openai\": \"[\d.]+", (_SOURCES / "package.json").read_text())
    releases = {found[0] for pin in pins if (found := re.search(r"\d+\.\d+(?=\.\d)", pin))}

    assert len(pins) == 5
    assert {release for release in releases if f" {release}" not in introduction} == set()
