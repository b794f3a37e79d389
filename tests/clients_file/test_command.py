"""`python -m service token`, `python -m service clients`, and the start of a relay with a clients file."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.access.clients import digest_of
from service.settings import SettingsRejected, load_settings
from tests.clients_file.relays import TOKENS, table
from tests.support.command import Command
from tests.support.doctor_chain import run_provider_chain
from tests.support.harness import environment
from tests.support.relay_process import ROOT


def run(*arguments: str, **variables: str) -> tuple[int, str, str]:
    """The exit code and output of a command."""
    environ = {"PATH": os.environ["PATH"], **environment(RELAY_UPSTREAM="simulator", **variables)}
    result = subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environ,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


def test_token_has_256_random_bits_and_its_hash() -> None:
    """Each call makes another one; the hash is what the clients file accepts."""
    outputs = [run("token") for _ in range(2)]
    for code, out, _ in outputs:
        lines = [line.strip() for line in out.splitlines()]
        assert 0 == code
        assert len(lines[1]) == 43  # 32 bytes in base64
        assert f'token_sha256 = ["{digest_of(lines[1])}"]' == lines[3]

    assert outputs[0][1] != outputs[1][1]


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_here(command: Command) -> Run:
    """As `run`, in this process."""
    return lambda *arguments, **variables: command(*arguments, **environment(RELAY_UPSTREAM="simulator", **variables))


def test_clients_command_is_a_process(tmp_path: Path, run_here: Run) -> None:
    """With the output and the exit codes that the tests below see in this process."""
    path = tmp_path / "clients.toml"
    path.write_text(table("kiosk", "x = 1"))

    result = run("clients", str(path))

    assert 1 == result[0]
    assert result == run_here("clients", str(path))


def test_clients_command_shows_a_file_without_secrets(tmp_path: Path, run_here: Run) -> None:
    """Effective values; the file of RELAY_CLIENTS_FILE, or the one that is named."""
    path = tmp_path / "clients.toml"
    path.write_text("[defaults]\nmax_sessions = 2\n" + table("kiosk", 'models = ["gpt-realtime"]'))
    by_name, by_setting = run_here("clients", str(path)), run_here("clients", RELAY_CLIENTS_FILE=str(path))

    assert by_name == by_setting
    assert 0 == by_name[0]
    for text in ("kiosk\n", "models: gpt-realtime", "max_sessions 2, max_session_seconds 3900", "1 client(s)"):
        assert text in by_name[1]
    assert digest_of(TOKENS["kiosk"]) not in by_name[1]


def test_clients_command_shows_limits_as_the_file_has_them(tmp_path: Path, run_here: Run) -> None:
    """Not rounded to six digits, nor with an exponent."""
    path = tmp_path / "clients.toml"
    lines = ("tokens_per_day 12345678", "usd_per_session 0.00001", "usd_per_month 234567.5", "max_sessions 1000000")
    path.write_text(table("kiosk", "\n".join(line.replace(" ", " = ") for line in lines)))
    code, out, _ = run_here("clients", str(path))

    assert 0 == code
    for line in lines:
        assert line in out


def test_clients_command_has_an_exit_code_for_mistakes_and_for_no_file(tmp_path: Path, run_here: Run) -> None:
    """1 with every mistake, 2 without a file to check."""
    path = tmp_path / "clients.toml"
    path.write_text("[clients.kiosk]\nx = 1\n")
    code, _, error = run_here("clients", str(path))

    assert 1 == code
    assert f"'{path}', line 2: clients.kiosk.x is unknown" in error
    assert "2 mistakes: a relay does not use this file." in error
    assert (2, True) == ((result := run_here("clients"))[0], "RELAY_CLIENTS_FILE is not set" in result[2])


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "does not exist"), ("[clients.kiosk]\n", "line 1: clients.kiosk has no")]
)
def test_start_with_a_file_that_cannot_be_used_exits_with_2(tmp_path: Path, content: str | None, sentence: str) -> None:
    """Nothing is started; the output names file, line and remedy."""
    path = tmp_path / "clients.toml"
    if content is not None:
        path.write_text(content)
    code, _, error = run("serve", RELAY_CLIENTS_FILE=str(path))

    assert 2 == code
    assert "RELAY_CLIENTS_FILE cannot be used; nothing was started:" in error
    assert sentence in error


def test_clients_file_makes_access_by_token_the_default() -> None:
    """Also on loopback, and without RELAY_CLIENT_TOKENS. Open access beside it is a mistake."""
    variables = {"RELAY_CLIENTS_FILE": "/etc/relay/clients.toml"}

    assert ["open", "tokens", "tokens"] == [
        load_settings(environ).access
        for environ in ({}, variables, {**variables, "RELAY_HOST": "0.0.0.0", "RELAY_ACCESS": "tokens"})
    ]
    with pytest.raises(
        SettingsRejected, match="RELAY_ACCESS='open': expected tokens or no value while RELAY_CLIENTS_FILE"
    ):
        load_settings({**variables, "RELAY_ACCESS": "open"})
    with pytest.raises(SettingsRejected, match="or RELAY_CLIENTS_FILE"):
        load_settings({"RELAY_ACCESS": "tokens"})


async def test_doctor_checks_the_clients_file(tmp_path: Path) -> None:
    """A step of its own, only if there is a file."""
    path = tmp_path / "clients.toml"
    path.write_text(table("kiosk") + table("web", "enabled = false"))
    variables = environment(RELAY_UPSTREAM="simulator", RELAY_CLIENTS_FILE=str(path))
    (step,) = [step for step in (await run_provider_chain(variables, tmp_path)).results if step.name == "clients_file"]
    path.write_text(table("kiosk", "x = 1"))
    failed = next(step for step in (await run_provider_chain(variables, tmp_path)).results if step.status == "fail")

    assert ("ok", "2 client(s): kiosk, web") == (step.status, step.finding)
    assert "The client web has enabled = false." in step.notes
    assert "clients_file" == failed.name
    assert "line 3: clients.kiosk.x is unknown" in failed.notes[0]
