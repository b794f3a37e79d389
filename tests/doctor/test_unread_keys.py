"""A key that is set but not read, while RELAY_UPSTREAM=auto selects the simulator: the doctor fails, the relay warns."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from service import cli
from service.app import App
from service.settings import load_settings
from tests.support.command import Command
from tests.support.doctor_chain import KEY_CANARY, NO_RUNNING_RELAY, run_provider_chain
from tests.support.harness import QUIET_INTERVALS
from tests.support.relay_process import environment, run, serving_in

LINE = f"OPENAI_API_KEY={KEY_CANARY}\n"
PREFIXES = [
    "NEXT_PUBLIC_", "VITE_", "REACT_APP_", "NUXT_PUBLIC_", "VUE_APP_", "GATSBY_", "EXPO_PUBLIC_", "PUBLIC_", "NG_APP_",
    "STORYBOOK_", "PLASMO_PUBLIC_", "WXT_",
]  # fmt: skip


# A file, its text, further settings, and why the key is not read.
UNREAD = {
    "file with .txt": (".env.local.txt", LINE, {}, "an editor appended '.txt' to its name"),
    "file with the wrong case": (".ENV", LINE, {}, "its name has the wrong case"),
    "file of a profile": (".env.production", LINE, {}, "it belongs to a profile that is not selected"),
    "file without a dot": ("env", LINE, {}, "only .env.local, .env.<RELAY_ENV> and .env are read"),
    "file of direnv": (".envrc", f"export {LINE}", {}, "only direnv reads it"),
    "template": (".env.example", LINE, {}, "it is a template"),
    "other name": (".env", f"OPENAI_KEY={KEY_CANARY}\n", {}, "OPENAI_KEY is not read (.env)"),
    "name in lower case": (".env", f"openai_api_key={KEY_CANARY}\n", {}, "openai_api_key is not read (.env)"),
    "name of Azure": (".env", f"AZURE_OPENAI_API_KEY={KEY_CANARY}\n", {}, "AZURE_OPENAI_API_KEY is not read"),
    "name of a browser": (".env", f"VITE_OPENAI_API_KEY={KEY_CANARY}\n", {}, "ships to browsers"),
    "key file missing": ("x", "", {"OPENAI_API_KEY_FILE": "./nothing"}, "'./nothing' cannot be read"),
    "key file empty": ("key", "\n", {"OPENAI_API_KEY_FILE": "./key"}, "'./key' is empty"),
}


IN_PROCESSES = ["other name", "key file empty"]
"""Those for which the program runs as operators run it; the others show the same of the same code in this process."""


def assert_doctor_names(cause: str, code: int, out: str, err: str) -> None:
    """Exit code 1; the last line has SIMULATOR and the cause."""
    last = out.rstrip().splitlines()[-1]
    assert (1, "") == (code, err)
    assert last.startswith("SIMULATOR, not OpenAI: ")
    assert cause in last
    assert "Failed at key" in last
    assert "CANARY" not in out


@pytest.mark.parametrize("name", UNREAD)
def test_doctor_on_the_simulator_fails_if_a_key_is_not_read(tmp_path: Path, name: str, command: Command) -> None:
    """Whatever the reason is for which the key is not read."""
    file, text, settings, cause = UNREAD[name]
    (tmp_path / file).write_text(text)

    assert_doctor_names(cause, *command("doctor", RELAY_UPSTREAM="auto", **NO_RUNNING_RELAY, **settings))


@pytest.mark.parametrize("name", IN_PROCESSES)
def test_doctor_as_a_process_fails_if_a_key_is_not_read(tmp_path: Path, name: str) -> None:
    """With its own environment, directory and exit code."""
    file, text, settings, cause = UNREAD[name]
    (tmp_path / file).write_text(text)
    done = run("doctor", directory=str(tmp_path), RELAY_UPSTREAM="auto", **NO_RUNNING_RELAY, **settings)

    assert_doctor_names(cause, done.returncode, done.stdout, done.stderr)


async def assert_start_names(cause: str, internal: str, lines: list[Any]) -> None:
    """The relay starts; its log and its detailed health have the cause."""
    (line,) = [line for line in lines if line["event"] == "simulator.stands_in"]
    async with aiohttp.ClientSession() as session, session.get(f"{internal}/healthz?verbose") as reply:
        notes = (await reply.json(content_type=None))["notes"]

    assert "error" == line.get("level", line.get("log_level"))
    assert line["message"].startswith("SIMULATOR, not OpenAI: a key is set but not read. ")
    assert cause in line["message"]
    assert cause in str(notes)
    assert "CANARY" not in str(lines) + str(notes)


@pytest.mark.parametrize("name", UNREAD)
async def test_start_on_the_simulator_names_a_key_that_is_not_read(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason is for which the key is not read."""
    file, text, settings, cause = UNREAD[name]
    (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    environ = environment(RELAY_UPSTREAM="auto", **settings)
    loaded = load_settings(environ, tmp_path)
    with capture_logs() as lines:
        app = App(loaded, intervals=QUIET_INTERVALS, environ=environ, unread_keys=cli._unread_keys(environ, loaded))
        await app.start()
        try:
            await assert_start_names(cause, f"http://127.0.0.1:{app.internal_port}", lines)
        finally:
            await app.drain()
            await app.stop()


@pytest.mark.parametrize("name", IN_PROCESSES)
async def test_start_as_a_process_names_a_key_that_is_not_read(tmp_path: Path, name: str) -> None:
    """In its log, which is JSON on standard error."""
    file, text, settings, cause = UNREAD[name]
    (tmp_path / file).write_text(text)
    async with serving_in(tmp_path, **settings) as (process, _, internal):
        await assert_start_names(cause, internal, process.lines)


@pytest.mark.parametrize(
    ("upstream", "words"), [("auto", "no key is set"), ("simulator", "nothing was checked at OpenAI")]
)
def test_doctor_on_the_simulator_without_a_key_passes_and_names_it(command: Command, upstream: str, words: str) -> None:
    """The last line begins with SIMULATOR, so that it is not read as a success with OpenAI."""
    code, out, _ = command("doctor", RELAY_UPSTREAM=upstream, **NO_RUNNING_RELAY)

    last = out.rstrip().splitlines()[-1]
    assert 0 == code
    assert last.startswith("SIMULATOR")
    assert words in last
    assert "All steps passed: connected, session ready." in last


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_key_in_a_variable_for_browsers_is_to_be_revoked(tmp_path: Path, prefix: str) -> None:
    """The advice is not to rename it: browsers have received the key. It applies beside a good key, too."""
    name = f"{prefix}OPENAI_API_KEY"
    (tmp_path / ".env").write_text(f"{name}={KEY_CANARY}\n")
    report = await run_provider_chain({"OPENAI_BASE_URL": "https://provider.invalid/v1"}, tmp_path)
    beside = load_settings({"OPENAI_API_KEY": "sk-sim-good", name: KEY_CANARY})

    assert f"{name} (.env) ships to browsers" in report.text("settings")
    assert "Revoke this key" in report.text("key")
    assert "rename it" not in report.document
    assert [name] == [warning.variable for warning in beside.warnings]


def test_variable_for_browsers_without_a_key_is_no_mistake() -> None:
    """Addresses and flags are public, and may be."""
    found = load_settings(
        {"OPENAI_API_KEY": "sk-sim-good", "VITE_RELAY_URL": "ws://127.0.0.1:8080", "NEXT_PUBLIC_OPENAI_KEY_SET": "true"}
    )

    assert () == found.warnings
