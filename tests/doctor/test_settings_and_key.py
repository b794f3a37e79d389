"""The steps `settings`, `key` and `proxy`: invalid values, where values come from, and what overrides them."""

from pathlib import Path

import pytest

from service.doctor.steps import StepFailed
from service.failures import CATALOGUE, DIAL_FAILURES, Failure
from service.realtime.keys import fingerprint
from tests.support.doctor_chain import KEY_CANARY, PASSWORD_CANARY, ChainReport, run_provider_chain

SIMULATED = {"RELAY_UPSTREAM": "simulator"}
# A name that no resolver knows (RFC 2606): no test sends anything to another machine.
UNREACHABLE = {"OPENAI_BASE_URL": "https://provider.invalid/v1"}


async def test_invalid_settings_fail_one_step_together(tmp_path: Path) -> None:
    """All problems are listed, no later step runs, and no secret is printed."""
    environ = {"RELAY_PORT": "eighty", "RELAY_ACCESS": "maybe", "RELAY_CLIENT_TOKENS": "CANARY with blanks"}

    report = await run_provider_chain(environ, tmp_path)

    assert "settings" == report.failed_step
    assert "3 invalid setting(s): the relay would not start." == report["settings"].finding
    for name in environ:
        assert f"{name}=" in report.text("settings")
    assert {"not run"} == {result.finding for result in report.results[2:]}
    assert "CANARY" not in report.document


async def test_environment_overriding_env_file_warns(tmp_path: Path) -> None:
    """The warning has both fingerprints and the remedy."""
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY_CANARY}\n")

    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"}, tmp_path)

    text = report.text("settings")
    assert "warn" == report["settings"].status
    assert "OPENAI_API_KEY from the environment overrides a different value in .env" in text
    assert f"({fingerprint('sk-sim-good')}, not {fingerprint(KEY_CANARY)})" in text
    assert "run 'unset OPENAI_API_KEY' to use the file's value" in text
    assert "CANARY" not in report.document


async def test_different_values_in_two_env_files_warn(tmp_path: Path) -> None:
    """The same value in both does not."""
    (tmp_path / ".env.local").write_text("RELAY_MODEL=gpt-realtime-mini\nRELAY_DRAIN_SECONDS=5\n")
    (tmp_path / ".env").write_text("RELAY_MODEL=gpt-realtime\nRELAY_DRAIN_SECONDS=5\n")

    report = await run_provider_chain(SIMULATED, tmp_path)

    text = report.text("settings")
    assert "RELAY_MODEL from .env.local overrides a different value in .env; remove one of the two." in text
    assert "RELAY_DRAIN_SECONDS from" not in text


async def test_records_that_cannot_be_written_warn(tmp_path: Path) -> None:
    """With the cause; a path that can be written is no warning, and the doctor does not create it."""
    path = tmp_path / "records.jsonl"
    good = await run_provider_chain(SIMULATED | {"RELAY_RECORDS": str(path)}, tmp_path)
    bad = await run_provider_chain(SIMULATED | {"RELAY_RECORDS": str(path / "below")}, tmp_path)
    path.mkdir()
    folder = await run_provider_chain(SIMULATED | {"RELAY_RECORDS": str(path)}, tmp_path)

    assert ["ok", "warn", "warn"] == [report["settings"].status for report in (good, bad, folder)]
    sentence = "Records of sessions cannot be written"
    assert f"RELAY_RECORDS '{path}/below': {sentence}: its folder is missing." in bad.text("settings")
    assert f"RELAY_RECORDS '{path}': {sentence}: it is not a regular file. Set RELAY_RECORDS to" in folder.text(
        "settings"
    )


async def test_key_and_key_file_in_two_sources_warn(tmp_path: Path) -> None:
    """The warning names the one that is used."""
    (tmp_path / "key").write_text("sk-sim-good\n")
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY_FILE={tmp_path / 'key'}\n")

    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good-too"}, tmp_path)

    assert "(.env) are both set; OPENAI_API_KEY is used; unset the other." in report.text("settings")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("OPENAI_KEY", "OPENAI_KEY is not read (environment); the name of the key is OPENAI_API_KEY"),
        ("openai_api_key", "openai_api_key is not read (environment); the name of the key is OPENAI_API_KEY"),
        (
            "AZURE_OPENAI_API_KEY",
            "AZURE_OPENAI_API_KEY is not read (environment); the name of the key is OPENAI_API_KEY",
        ),
    ],
)
async def test_misspelt_key_variable_is_found(tmp_path: Path, name: str, sentence: str) -> None:
    """Both steps name the variable; none prints its value."""
    report = await run_provider_chain({name: KEY_CANARY}, tmp_path)

    assert "key_missing" == report["key"].reason
    assert sentence in report.text("settings")
    assert f"Likely cause: {sentence}" in report.text("key")
    assert "CANARY" not in report.document


@pytest.mark.parametrize(
    ("name", "intended"),
    [
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
        ("relay_port", "RELAY_PORT"),
        ("RELAY_PROT", "RELAY_PORT"),
    ],
)
async def test_misspelt_setting_warns(tmp_path: Path, name: str, intended: str) -> None:
    """Names of older SDKs, names in the wrong case and typing errors."""
    report = await run_provider_chain(SIMULATED | {name: "x"}, tmp_path)

    assert "warn" == report["settings"].status
    assert f"did you mean {intended}?" in report.text("settings")


async def test_empty_key_explains_the_missing_key(tmp_path: Path) -> None:
    """A copied example has the line `OPENAI_API_KEY=`."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=\n")

    report = await run_provider_chain({}, tmp_path)

    assert "Likely cause: OPENAI_API_KEY is empty (.env), which counts as unset." in report.text("key")


async def test_variables_that_compose_sets_to_nothing_are_no_notes(tmp_path: Path) -> None:
    """Compose passes `${NAME:-}`: an empty variable in the environment is of interest only if the setting is missing."""
    empty = {"OPENAI_API_KEY_FILE": "", "OPENAI_BASE_URL": "", "RELAY_TRUSTED_PROXIES": ""}

    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"} | empty, tmp_path)

    assert "is empty" not in report.text("settings")


async def test_variables_that_compose_sets_to_nothing_are_one_cause(tmp_path: Path) -> None:
    """Compose sets both variables of the key: the empty one of its file is no cause beside the other."""
    report = await run_provider_chain({"OPENAI_API_KEY": "", "OPENAI_API_KEY_FILE": ""}, tmp_path)

    assert "Likely cause: OPENAI_API_KEY is empty (the environment)" in report.text("key")
    assert "OPENAI_API_KEY_FILE is empty" not in report.text("key")


async def test_missing_key_file_explains_the_missing_key(tmp_path: Path) -> None:
    """The note has the path and the system's error."""
    report = await run_provider_chain({"OPENAI_API_KEY_FILE": str(tmp_path / "nothing")}, tmp_path)

    assert "key_missing" == report["key"].reason
    assert "nothing' cannot be read (No such file or directory)" in report.text("key")
    assert "set: OPENAI_API_KEY_FILE (environment)" in report.text("settings")


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (f'"{KEY_CANARY}"', "The key begins or ends with a quotation mark."),
        (f"\u201c{KEY_CANARY}\u201d", "The key begins or ends with a quotation mark."),
        (f" {KEY_CANARY}", "The key has spaces around it."),
        (f"{KEY_CANARY}\r", "The key contains a carriage return."),
        (f"\ufeff{KEY_CANARY}", "The key begins with a byte order mark."),
        (f"Bearer {KEY_CANARY}", "The key begins with 'Bearer'."),
        (f"OPENAI_API_KEY={KEY_CANARY}", "The key begins with its variable's name."),
        (f"{KEY_CANARY[:60]} {KEY_CANARY[60:]}", "The key contains a space."),
        ("sk-proj-your-key-here", "The key is a placeholder."),
    ],
)
async def test_malformed_key_fails_with_the_problem(tmp_path: Path, key: str, sentence: str) -> None:
    """The output holds the lint's sentence, never the key."""
    report = await run_provider_chain(UNREACHABLE | {"OPENAI_API_KEY": key}, tmp_path)

    assert ("key", "key_malformed") == (report.failed_step, report["key"].reason)
    assert sentence in report.text("key")
    assert "docs/failures.md#key_malformed" == report["key"].anchor
    assert "CANARY" not in report.document


async def run_with_openai_key(tmp_path: Path, key: str) -> ChainReport:
    """Run the chain with OpenAI as the target; a proxy on a closed port keeps it on this machine."""
    return await run_provider_chain(
        {"OPENAI_API_KEY": key, "RELAY_UPSTREAM_PROXY": "http://127.0.0.1:1", "RELAY_DIAL_TIMEOUT_SECONDS": "1"},
        tmp_path,
    )


async def test_valid_project_key_passes_without_advice(tmp_path: Path) -> None:
    """Outdated advice is contradicted only where the provider rejects the key."""
    report = await run_with_openai_key(tmp_path, KEY_CANARY)

    assert "ok" == report["key"].status
    assert f"{fingerprint(KEY_CANARY)}, from the environment" == report["key"].finding
    assert "outdated advice" not in report.document
    assert "The key belongs to one project" in report.text("key")


@pytest.mark.parametrize(
    ("key", "status", "sentence"),
    [
        ("sk-ant-api03-abcdefghijklmnop", "fail", "The key is an Anthropic key."),
        ("sk-admin-abcdefghijklmnopqrst", "fail", "The key is an admin key, which cannot open sessions."),
        ("sk-sim-good", "warn", "This is a key of the simulator; OpenAI rejects it."),
        ("ek_0123456789abcdef0123456789abcdef", "warn", "A client secret expires within minutes."),
        ("abcdefghijklmnopqrstuvwxyz", "warn", "The key does not begin with 'sk-' or 'ek_', as OpenAI's keys do."),
    ],
)
async def test_key_of_wrong_family_fails_or_warns(tmp_path: Path, key: str, status: str, sentence: str) -> None:
    """The step fails only if the key cannot work."""
    report = await run_with_openai_key(tmp_path, key)

    assert status == report["key"].status
    assert sentence in report.text("key")


async def test_missing_key_with_upstream_auto_selects_the_simulator(tmp_path: Path) -> None:
    """All steps run against the simulator, and the step `key` warns that it is one."""
    report = await run_provider_chain({"RELAY_UPSTREAM": "auto"}, tmp_path)

    assert report.failed_step is None
    assert "warn" == report["key"].status
    assert "no key is set, so RELAY_UPSTREAM=auto selects the built-in simulator" in report["key"].finding
    assert report["first_event"].finding.startswith("session ready: session.created")


@pytest.mark.parametrize(
    ("environ", "status", "sentence"),
    [
        ({}, "ok", "none: no proxy is set"),
        ({"HTTPS_PROXY": f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128"}, "warn",
         "HTTPS_PROXY is set (http://proxy.invalid:3128) but not used, because RELAY_UPSTREAM_PROXY is off"),
        ({"ALL_PROXY": "socks5h://proxy.invalid:1080"}, "warn",
         "ALL_PROXY is not used. RELAY_UPSTREAM_PROXY=auto would stop the start: this is a SOCKS proxy"),
        ({"HTTPS_PROXY": "proxy.invalid/path"}, "warn",
         "RELAY_UPSTREAM_PROXY=auto would stop the start: it is not the URL of an HTTP proxy"),
        ({"ALL_PROXY": "socks5h://x:1", "NO_PROXY": ".invalid", "RELAY_UPSTREAM_PROXY": "auto"}, "ok", "direct"),
        ({"HTTPS_PROXY": "http://proxy.invalid:3128", "NO_PROXY": ".invalid", "RELAY_UPSTREAM_PROXY": "auto"}, "ok",
         "direct: NO_PROXY excludes provider.invalid from HTTPS_PROXY"),
        ({"HTTPS_PROXY": f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128", "RELAY_UPSTREAM_PROXY": "auto"}, "ok",
         "through http://proxy.invalid:3128 with credentials (from HTTPS_PROXY)"),
        ({"RELAY_UPSTREAM_PROXY": f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128"}, "ok",
         "(from RELAY_UPSTREAM_PROXY)"),
    ],
)  # fmt: skip
async def test_proxy_step_explains_which_proxy_applies(
    tmp_path: Path, environ: dict[str, str], status: str, sentence: str
) -> None:
    """A variable without effect warns; the password is never printed."""
    report = await run_provider_chain(UNREACHABLE | {"OPENAI_API_KEY": KEY_CANARY} | environ, tmp_path)

    assert status == report["proxy"].status
    assert sentence in report.text("proxy")
    assert "CANARY" not in report.document


async def test_proxy_variable_in_env_file_warns(tmp_path: Path) -> None:
    """Proxy variables have no effect in a `.env` file."""
    (tmp_path / ".env").write_text("HTTPS_PROXY=http://proxy.invalid:3128\n")

    report = await run_provider_chain(UNREACHABLE | {"OPENAI_API_KEY": KEY_CANARY}, tmp_path)

    assert "HTTPS_PROXY in .env is not read" in report.text("proxy")


@pytest.mark.parametrize("reason", sorted(DIAL_FAILURES))
def test_remedy_of_the_doctor_does_not_advise_to_run_the_doctor(reason: str) -> None:
    """The other sentences remain."""
    remedy = StepFailed.from_failure(Failure(reason)).remedy

    assert remedy
    assert "service doctor" not in remedy
    assert remedy.endswith((".", ")"))
    assert CATALOGUE[reason].operator_action.startswith(remedy.removesuffix("."))
