"""The command ``simulate``."""

import argparse
import asyncio
import signal
import sys

import aiohttp
import pytest
from yarl import URL

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
async def test_command_serves_until_signal_and_exits_0(number: signal.Signals) -> None:
    """It writes one line, which ends with the URL."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "--scenario", "key-rejected"), stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    async with asyncio.timeout(60):
        url = (await program.stdout.readline()).decode().split()[-1]
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{url}/models", headers={"Authorization": "Bearer sk-any"}) as response,
        ):
            assert response.status == 401
        program.send_signal(number)
        assert await program.wait() == 0
        assert await program.stdout.read() == b""


async def test_command_is_controlled_over_http() -> None:
    """With --control, and what was said with --keep-conversations."""
    flags = ("--control", "--keep-conversations", "--numbered-answers")
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, *flags), stdout=asyncio.subprocess.PIPE
    )
    assert program.stdout is not None
    async with asyncio.timeout(60), aiohttp.ClientSession(headers={"X-Simulator-Control": "1"}) as http:
        url = URL((await program.stdout.readline()).decode().split()[-1])
        behaviour = {
            "answer_seconds": 0.5,
            "faults": [{"moment": "after-sent", "event": "response.done", "end": "fin"}],
        }
        async with http.post(url.with_path("/simulator/dials"), json={"dials": [behaviour]}) as response:
            assert response.status == 200
        async with http.ws_connect(f"{url}/realtime?model=gpt-realtime", headers={"api-key": "sk-sim-good"}) as ws:
            await ws.send_json({"type": "response.create"})
            while (await ws.receive()).type is aiohttp.WSMsgType.TEXT:
                pass
        async with http.get(url.with_path("/simulator/records")) as response:
            [dial] = (await response.json())["dials"]
    assert dial["ended_by"] == "after-sent response.done 1: fin"
    assert [answer["samples"] for answer in dial["conversation"]["responses"]] == [[0, 12_000]]
    program.send_signal(signal.SIGTERM)
    assert await program.wait() == 0


def test_non_loopback_host_requires_anywhere_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Without --anywhere, 0.0.0.0 is a usage error."""
    assert command.run(_parser().parse_args(["--host", "0.0.0.0"])) == 2
    assert "--anywhere" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--port", "99999"], ["--pace", "-1"], ["--session-seconds", "0"]])
def test_invalid_option_value_exits_2_with_message(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The message replaces a traceback."""
    assert command.run(_parser().parse_args(given)) == 2
    assert capsys.readouterr().err.startswith("simulate: ")


def test_help_lists_every_scenario_with_description() -> None:
    """The list is the epilog of the help."""
    text = _parser().format_help()
    assert all(f"  {scenario.value} " in text and scenario.description in text for scenario in Scenario)
    assert all(f"GPT-Live: {scenario.on_live}\n" in f"{text}\n" for scenario in Scenario if scenario.on_live)
