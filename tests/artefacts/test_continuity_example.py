"""The program of docs/continuity.md: its call outlives the loss that the document causes."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Final

from service.simulator import End, Simulator, SimulatorOptions
from tests.support.harness import running_relay

TEXT: Final = (Path(__file__).parents[2] / "docs/continuity.md").read_text(encoding="utf-8")
PROGRAM: Final = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0]
END: Final = re.findall(r'"end": "([^"]+)"', TEXT)[0]


async def test_call_of_the_document_outlives_its_connection() -> None:
    """As it is written, without its pause: every turn once and in order, over two connections."""
    async with (
        Simulator(SimulatorOptions(pace=0)) as simulator,
        running_relay(simulator=simulator, intervals=None, adjust=None) as relay,
    ):
        address = f"127.0.0.1:{relay.app.public_port}"
        program = PROGRAM.replace("127.0.0.1:8080", address).replace("sleep(1)", "sleep(0.01)")
        call = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        assert call.stdout is not None
        lines: list[str] = []
        try:
            while not relay.events("session.recovered") or len(lines) < 12:
                line = await call.stdout.readline()
                assert line, "the program ended"
                lines.append(line.decode().strip())
                if lines[-1] == "This is turn 3.":
                    assert 1 == await simulator.drop_all(End.parse(END))
        finally:
            call.kill()
            await call.wait()

    assert ["Relay-Continuity: renew", "session.created"] == lines[:2]
    assert [f"This is turn {turn}." for turn in range(1, len(lines) - 1)] == lines[2:]
