"""``simulate`` as a program."""

import argparse
import asyncio
import signal
import sys

import aiohttp
import pytest

from service.simulator import command
from service.simulator.scenarios import Scenario

PROGRAM = (
    "import argparse, sys; from service.simulator import command; parser = argparse.ArgumentParser(); "
    "command.add_arguments(parser); sys.exit(command.run(parser.parse_args(sys.argv[1:])))"
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_serves_until_it_is_told_to_stop(number: signal.Signals) -> None:
    """One line with the address, then service; a signal ends it with 0."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "--scenario", "key-rejected"), stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    async with asyncio.timeout(20):
        url = (await program.stdout.readline()).decode().split()[-1]
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{url}/models", headers={"Authorization": "Bearer sk-any"}) as response,
        ):
            assert response.status == 401
        program.send_signal(number)
        assert await program.wait() == 0
        assert await program.stdout.read() == b""


def test_it_listens_to_this_machine_only(capsys: pytest.CaptureFixture[str]) -> None:
    """An address that others can reach needs --anywhere."""
    assert command.run(_parser().parse_args(["--host", "0.0.0.0"])) == 2
    assert "--anywhere" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--port", "99999"], ["--pace", "-1"], ["--session-seconds", "0"]])
def test_a_wrong_option_is_told(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be done ends with 2 and a sentence, not with a traceback."""
    assert command.run(_parser().parse_args(given)) == 2
    assert capsys.readouterr().err.startswith("simulate: ")


def test_help_tells_every_scenario() -> None:
    """The list at the end of the help has every name and its sentence."""
    text = _parser().format_help()
    assert all(f"  {scenario.value} " in text and scenario.description in text for scenario in Scenario)
