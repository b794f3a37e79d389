"""A key that is set but not read, while RELAY_UPSTREAM=auto selects the simulator: the doctor fails, the relay warns."""

from pathlib import Path

import aiohttp
import pytest

from service.settings import load_settings
from tests.support.doctor_chain import KEY_CANARY, NO_RUNNING_RELAY, run_provider_chain
from tests.support.relay_process import run, serving_in

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


@pytest.mark.parametrize("name", UNREAD)
def test_doctor_on_the_simulator_fails_if_a_key_is_not_read(tmp_path: Path, name: str) -> None:
    """Exit code 1; the last line has SIMULATOR and the cause."""
    file, text, settings, cause = UNREAD[name]
    (tmp_path / file).write_text(text)
    done = run("doctor", directory=str(tmp_path), RELAY_UPSTREAM="auto", **NO_RUNNING_RELAY, **settings)

    last = done.stdout.rstrip().splitlines()[-1]
    assert (1, "") == (done.returncode, done.stderr)
    assert last.startswith("SIMULATOR, not OpenAI: ")
    assert cause in last
    assert "Failed at key" in last
    assert "CANARY" not in done.stdout


@pytest.mark.parametrize("name", UNREAD)
async def test_start_on_the_simulator_names_a_key_that_is_not_read(tmp_path: Path, name: str) -> None:
    """The relay starts; its log and its detailed health have the cause."""
    file, text, settings, cause = UNREAD[name]
    (tmp_path / file).write_text(text)
    async with serving_in(tmp_path, **settings) as (process, _, internal):
        (line,) = [line for line in process.lines if line["event"] == "simulator.stands_in"]
        async with aiohttp.ClientSession() as session, session.get(f"{internal}/healthz?verbose") as reply:
            notes = (await reply.json(content_type=None))["notes"]

    assert "error" == line["level"]
    assert line["message"].startswith("SIMULATOR, not OpenAI: a key is set but not read. ")
    assert cause in line["message"]
    assert cause in str(notes)
    assert "CANARY" not in str(process.lines) + str(notes)


@pytest.mark.parametrize(
    ("upstream", "words"), [("auto", "no key is set"), ("simulator", "nothing was checked at OpenAI")]
)
def test_doctor_on_the_simulator_without_a_key_passes_and_names_it(tmp_path: Path, upstream: str, words: str) -> None:
    """The last line begins with SIMULATOR, so that it is not read as a success with OpenAI."""
    done = run("doctor", directory=str(tmp_path), RELAY_UPSTREAM=upstream, **NO_RUNNING_RELAY)

    last = done.stdout.rstrip().splitlines()[-1]
    assert 0 == done.returncode
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
