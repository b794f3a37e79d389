"""The rungs of settings, key and proxy: what is said of values, where they come from, and what hides them."""

from pathlib import Path

import pytest

from service.realtime.keys import fingerprint
from tests.support.doctor_chain import KEY_CANARY, PASSWORD_CANARY, ChainReport, run_provider_chain

SIMULATED = {"RELAY_UPSTREAM": "simulator"}
# A name that no resolver knows (RFC 2606), so that nothing leaves the machine of the tests.
NOWHERE = {"OPENAI_BASE_URL": "https://provider.invalid/v1"}


async def test_bad_settings_are_one_broken_rung_with_all_mistakes(tmp_path: Path) -> None:
    """Every mistake is listed at once, nothing behind is tried, and no secret is shown."""
    environ = {"RELAY_PORT": "eighty", "RELAY_ACCESS": "maybe", "RELAY_CLIENT_TOKENS": "CANARY with blanks"}

    report = await run_provider_chain(environ, tmp_path)

    assert "settings" == report.failed_step
    assert "3 setting(s) cannot be used; the relay would not start." == report["settings"].finding
    for name in environ:
        assert f"{name}=" in report.notes("settings")
    assert {"not tried"} == {rung.finding for rung in report.results[2:]}
    assert "CANARY" not in report.printed


async def test_a_value_hidden_by_the_shell(tmp_path: Path) -> None:
    """A key of the shell that hides another in .env warns, with both fingerprints and the way out."""
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={KEY_CANARY}\n")

    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"}, tmp_path)

    note = report.notes("settings")
    assert "warn" == report["settings"].status
    assert "OPENAI_API_KEY of the shell hides another value in .env" in note
    assert f"({fingerprint('sk-sim-good')} against {fingerprint(KEY_CANARY)})" in note
    assert "'unset OPENAI_API_KEY' to use the file's" in note
    assert "CANARY" not in report.printed


async def test_two_files_that_disagree(tmp_path: Path) -> None:
    """Different values in .env.local and .env warn; the same value twice does not."""
    (tmp_path / ".env.local").write_text("RELAY_MODEL=gpt-realtime-mini\nRELAY_DRAIN_SECONDS=5\n")
    (tmp_path / ".env").write_text("RELAY_MODEL=gpt-realtime\nRELAY_DRAIN_SECONDS=5\n")

    report = await run_provider_chain(SIMULATED, tmp_path)

    assert "RELAY_MODEL in .env.local hides another value in .env; remove one of the two." in report.notes("settings")
    assert "RELAY_DRAIN_SECONDS in" not in report.notes("settings")


async def test_key_and_key_file_in_two_sources(tmp_path: Path) -> None:
    """Where one source names the key and another a file with it, the one that counts is told."""
    (tmp_path / "key").write_text("sk-sim-good\n")
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY_FILE={tmp_path / 'key'}\n")

    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good-too"}, tmp_path)

    assert "(.env) are both set; OPENAI_API_KEY counts." in report.notes("settings")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("OPENAI_KEY", "OPENAI_KEY is not read (environment); the name of the key is OPENAI_API_KEY"),
        ("openai_api_key", "openai_api_key is not read (environment); the name of the key is OPENAI_API_KEY"),
        (
            "AZURE_OPENAI_API_KEY",
            "AZURE_OPENAI_API_KEY is not read (the shell's environment); did you mean OPENAI_API_KEY?",
        ),
    ],
)
async def test_a_misspelt_key_variable(tmp_path: Path, name: str, sentence: str) -> None:
    """A key under a name that was meant for OPENAI_API_KEY is named in both rungs, and never shown."""
    report = await run_provider_chain({name: KEY_CANARY}, tmp_path)

    assert "key_missing" == report["key"].reason
    assert sentence in report.notes("settings")
    assert f"Probably this: {sentence}" in report.notes("key")
    assert "CANARY" not in report.printed


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
        ("OPENAI_ORGANIZATION", "OPENAI_ORG_ID"),
        ("relay_port", "RELAY_PORT"),
        ("RELAY_PROT", "RELAY_PORT"),
    ],
)
async def test_other_misspelt_names(tmp_path: Path, name: str, meant: str) -> None:
    """Names of older SDKs, in the wrong case, or with a slip of the finger warn with the right one."""
    report = await run_provider_chain(SIMULATED | {name: "x"}, tmp_path)

    assert "warn" == report["settings"].status
    assert f"did you mean {meant}?" in report.notes("settings")


async def test_an_empty_key_is_told_as_unset(tmp_path: Path) -> None:
    """The line `OPENAI_API_KEY=` of a copied example that nobody filled in is the probable cause of a missing key."""
    (tmp_path / ".env").write_text("OPENAI_API_KEY=\n")

    report = await run_provider_chain({}, tmp_path)

    assert "Probably this: OPENAI_API_KEY is set to nothing (.env), which counts as unset." in report.notes("key")


async def test_a_key_file_that_is_missing(tmp_path: Path) -> None:
    """A secret's file that cannot be read is the cause, with its path."""
    report = await run_provider_chain({"OPENAI_API_KEY_FILE": str(tmp_path / "nothing")}, tmp_path)

    assert "key_missing" == report["key"].reason
    assert "nothing' cannot be read (No such file or directory)" in report.notes("key")


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
async def test_a_malformed_key(tmp_path: Path, key: str, sentence: str) -> None:
    """What is wrong with a key's text breaks its rung as key_malformed, with the sentence and without the key."""
    report = await run_provider_chain(NOWHERE | {"OPENAI_API_KEY": key}, tmp_path)

    assert ("key", "key_malformed") == (report.failed_step, report["key"].reason)
    assert sentence in report.notes("key")
    assert "docs/failures.md#key_malformed" == report["key"].anchor
    assert "CANARY" not in report.printed


async def openai_key(tmp_path: Path, key: str) -> ChainReport:
    """Climb with a key for OpenAI itself; a proxy that nobody is behind keeps it on this machine."""
    return await run_provider_chain(
        {"OPENAI_API_KEY": key, "RELAY_UPSTREAM_PROXY": "http://127.0.0.1:1", "RELAY_DIAL_TIMEOUT_SECONDS": "1"},
        tmp_path,
    )


async def test_outdated_advice_is_named_as_such(tmp_path: Path) -> None:
    """A project key is right; guides that want 51 characters or no project key are contradicted."""
    report = await openai_key(tmp_path, KEY_CANARY)

    assert "ok" == report["key"].status
    assert f"{fingerprint(KEY_CANARY)}, from the environment" == report["key"].finding
    assert (
        "Outdated advice: a key need not have 51 characters, and one that begins with 'sk' and 'proj' is right."
        in report.printed
    )
    assert "The key belongs to one project" in report.notes("key")


@pytest.mark.parametrize(
    ("key", "status", "sentence"),
    [
        ("sk-ant-api03-abcdefghijklmnop", "fail", "The key is an Anthropic key."),
        ("sk-admin-abcdefghijklmnopqrst", "fail", "The key is an admin key, which cannot open sessions."),
        ("sk-sim-good", "warn", "This is a key of the simulator; OpenAI will refuse it."),
        ("ek_0123456789abcdef0123456789abcdef", "warn", "A client secret opens sessions for some minutes only"),
        ("abcdefghijklmnopqrstuvwxyz", "warn", "The key does not begin with 'sk-' or 'ek_', as OpenAI's keys do."),
    ],
)
async def test_keys_of_the_wrong_family(tmp_path: Path, key: str, status: str, sentence: str) -> None:
    """A key of another vendor, kind or purpose is named for what it is; only what cannot work breaks the rung."""
    report = await openai_key(tmp_path, key)

    assert status == report["key"].status
    assert sentence in report.notes("key")


async def test_without_a_key_the_simulator_stands_in(tmp_path: Path) -> None:
    """With RELAY_UPSTREAM=auto and no key the climb goes through the simulator to its end, and says so at the key."""
    report = await run_provider_chain({"RELAY_UPSTREAM": "auto"}, tmp_path)

    assert report.failed_step is None
    assert "warn" == report["key"].status
    assert "no key was found: the built-in simulator stands in" in report["key"].finding
    assert report["first_event"].finding.startswith("session ready: session.created")


@pytest.mark.parametrize(
    ("environ", "status", "sentence"),
    [
        ({}, "ok", "none: no proxy is set"),
        ({"HTTPS_PROXY": f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128"}, "warn",
         "HTTPS_PROXY is set (http://proxy.invalid:3128) but not used, because RELAY_UPSTREAM_PROXY is off"),
        ({"HTTPS_PROXY": "http://proxy.invalid:3128", "NO_PROXY": ".invalid", "RELAY_UPSTREAM_PROXY": "auto"}, "ok",
         "direct: NO_PROXY excepts provider.invalid from HTTPS_PROXY"),
        ({"HTTPS_PROXY": f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128", "RELAY_UPSTREAM_PROXY": "auto"}, "ok",
         "through http://proxy.invalid:3128 with a user and password (from HTTPS_PROXY)"),
        ({"RELAY_UPSTREAM_PROXY": f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128"}, "ok",
         "(from RELAY_UPSTREAM_PROXY)"),
    ],
)  # fmt: skip
async def test_the_proxy_variables(tmp_path: Path, environ: dict[str, str], status: str, sentence: str) -> None:
    """Which proxy applies and why, and which variable is passed over; never the password."""
    report = await run_provider_chain(NOWHERE | {"OPENAI_API_KEY": KEY_CANARY} | environ, tmp_path)

    assert status == report["proxy"].status
    assert sentence in report.notes("proxy")
    assert "CANARY" not in report.printed


async def test_a_proxy_in_a_file_is_not_read(tmp_path: Path) -> None:
    """HTTPS_PROXY in .env has no effect, and that is told."""
    (tmp_path / ".env").write_text("HTTPS_PROXY=http://proxy.invalid:3128\n")

    report = await run_provider_chain(NOWHERE | {"OPENAI_API_KEY": KEY_CANARY}, tmp_path)

    assert "HTTPS_PROXY in .env is not read" in report.notes("proxy")
