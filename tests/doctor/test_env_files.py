"""The step `files`: `.env` files that are not read, or read differently than intended."""

import os
from pathlib import Path

import pytest

from service.doctor.env_files import find_env_files
from service.doctor.env_text import parse_env_text
from service.settings import SettingsRejected, load_settings
from tests.support.doctor_chain import KEY_CANARY, run_provider_chain

LINE = f"OPENAI_API_KEY={KEY_CANARY}\n"
SIMULATED = {"RELAY_UPSTREAM": "simulator"}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (".env.template", "it is a template"),
        (".env.example", "it is a template"),
        (".env.local.txt", "an editor appended '.txt'"),
        (".env.txt", "an editor appended '.txt'"),
        ("env", "only .env.local, .env.<RELAY_ENV> and .env are read"),
        ("relay.env", "only .env.local, .env.<RELAY_ENV> and .env are read"),
        (".ENV", "its name has the wrong case"),
        (".Env.Local", "its name has the wrong case"),
        (".envrc", "only direnv reads it"),
        (".env.production", "it belongs to a profile that is not selected"),
    ],
)
async def test_key_in_misnamed_file_is_found(tmp_path: Path, name: str, cause: str) -> None:
    """The step `key` fails, and names the file and the cause."""
    (tmp_path / name).write_text(LINE)

    report = await run_provider_chain({}, tmp_path)

    assert "warn" == report["files"].status
    assert "key" == report.failed_step
    assert "key_missing" == report["key"].reason
    assert f"Likely cause: {name} holds OPENAI_API_KEY but is not read: {cause}" in report.text("key")
    assert "CANARY" not in report.document


@pytest.mark.parametrize("place", ["..", "relay"])
async def test_key_in_parent_or_subdirectory_is_found(tmp_path: Path, place: str) -> None:
    """The step `key` names the directory in which to start the relay."""
    here = tmp_path / "here"
    (here / "relay").mkdir(parents=True)
    (here / place / ".env").write_text(LINE)

    report = await run_provider_chain({}, here)

    where = "a parent directory" if place == ".." else "a subdirectory"
    assert f"it is in {where}. Start the relay in {(here / place).resolve()}" in report.text("key")
    assert "warn" == report["files"].status


async def test_key_in_directory_of_program_is_found(tmp_path: Path) -> None:
    """The program is started in a directory that is far from its own."""
    here, program = tmp_path / "here" / "deep" / "deeper" / "deepest", tmp_path / "program"
    here.mkdir(parents=True)
    program.mkdir()
    (program / ".env").write_text(LINE)

    report = await run_provider_chain({}, here)

    assert "it is in the program's directory, but the program was started elsewhere" in report.text("key")


async def test_env_file_elsewhere_does_not_warn_if_a_key_is_found(tmp_path: Path) -> None:
    """It may belong to another program, so that a note is enough."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / ".env").write_text(LINE)
    (here / ".env").write_text("OPENAI_API_KEY=sk-sim-good\n")

    report = await run_provider_chain(SIMULATED, here)

    assert "ok" == report["files"].status
    assert "it is in a parent directory" in report.text("files")


async def test_template_without_a_key_is_not_reported(tmp_path: Path) -> None:
    """Every checkout has .env.example; a placeholder is not a key."""
    (tmp_path / ".env.example").write_text("OPENAI_API_KEY=\nRELAY_PORT=8080\n")
    (tmp_path / ".env.sample").write_text("OPENAI_API_KEY=sk-proj-your-key-goes-here-and-nowhere-else\n")

    assert () == find_env_files(tmp_path, {}).unread


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"\xef\xbb\xbf" + LINE.encode(), "begins with a byte order mark"),
        (LINE.encode().replace(b"\n", b"\r\n"), "has Windows line endings"),
        (
            f'\n\nOPENAI_API_KEY="{KEY_CANARY}"\n'.encode(),
            "line 3: the relay removes the quotes around OPENAI_API_KEY",
        ),
        (f"OPENAI_API_KEY = {KEY_CANARY}\n".encode(), "line 1: the relay removes the spaces around the '='"),
        (
            b"OPENAI_API_KEY=sk-other\n" + LINE.encode(),
            "sets OPENAI_API_KEY to different values in lines 1, 2; line 2 is",
        ),
        (LINE.encode() + b"two words\n", "line 2 is not NAME=value and was not read"),
        (b"RELAY_PORT=\n" + LINE.encode(), "line 1: RELAY_PORT is empty, which counts as unset"),
    ],
)
async def test_unusual_text_in_env_file_is_remarked(tmp_path: Path, content: bytes, remark: str) -> None:
    """The remark names the line; the key is read nevertheless."""
    (tmp_path / ".env").write_bytes(content)

    report = await run_provider_chain(SIMULATED, tmp_path)

    assert "read: .env" == report["files"].finding
    assert f".env {remark}" in report.text("files")
    assert f"project key, {len(KEY_CANARY)} characters" in report["key"].finding
    assert report["key"].finding.endswith("from .env")
    assert "CANARY" not in report.document


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (LINE.encode("utf-16"), "is UTF-16 text from line 1 on"),
        (LINE.encode() + "RELAY_ACCESS=tokens\n".encode("utf-16-le"), "is UTF-16 text from line 2 on"),
        (b"# f\xfcr\n" + LINE.encode(), "is not UTF-8 text from line 1 on (byte 0xfc)"),
        (b"# a note\nRELAY_PORT\n" + LINE.encode(), "line 2: RELAY_PORT has no '='; write RELAY_PORT=value"),
        (b"RELAY_ACCESS: tokens\n", "line 1 is not NAME=value and was not read (RELAY_ACCESS)"),
    ],
)
async def test_env_file_that_is_not_read_whole_fails_in_the_words_of_the_relay(
    tmp_path: Path, content: bytes, sentence: str
) -> None:
    """The step `settings` fails with the sentences with which the relay refuses to start; `files` has them, too."""
    (tmp_path / ".env").write_bytes(content)

    report = await run_provider_chain(SIMULATED, tmp_path)
    with pytest.raises(SettingsRejected) as caught:
        load_settings(SIMULATED, tmp_path)

    assert "settings" == report.failed_step
    assert f".env {sentence}" in report.text("files")
    assert "read: .env in part" == report["files"].finding
    assert all(str(problem) in report.text("settings") for problem in caught.value.problems)
    assert "CANARY" not in report.document


async def test_key_in_variable_of_any_name_is_found_by_its_shape(tmp_path: Path) -> None:
    """The note names the line and the variable, never the value."""
    (tmp_path / ".env").write_text(f"# mine\nMY_SECRET={KEY_CANARY}\n")

    report = await run_provider_chain({}, tmp_path)

    assert "Likely cause: .env line 2: MY_SECRET holds what looks like an OpenAI key" in report.text("key")
    assert "CANARY" not in report.document


async def test_directory_named_env_is_reported(tmp_path: Path) -> None:
    """Docker creates a directory if the file to mount is missing."""
    (tmp_path / ".env").mkdir()

    report = await run_provider_chain(SIMULATED, tmp_path)

    assert ".env is a directory, which docker creates" in report.text("files")
    assert "settings" == report.failed_step


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
async def test_unreadable_env_file_is_reported(tmp_path: Path) -> None:
    """The note has the user's number."""
    (tmp_path / ".env").write_text(LINE)
    (tmp_path / ".env").chmod(0)

    report = await run_provider_chain({}, tmp_path)

    assert f".env is not readable for this user (uid {os.geteuid()})" in report.text("files")


async def test_profile_without_its_env_file_warns(tmp_path: Path) -> None:
    """Once the file exists, it is read."""
    without = await run_provider_chain(SIMULATED | {"RELAY_ENV": "staging"}, tmp_path)
    (tmp_path / ".env.staging").write_text("RELAY_MODEL=gpt-realtime-mini\n")
    with_file = await run_provider_chain(SIMULATED | {"RELAY_ENV": "staging"}, tmp_path)

    assert "RELAY_ENV selects .env.staging, which does not exist" in without.text("settings")
    assert "read: .env.staging" == with_file["files"].finding


def test_parse_env_text_accepts_any_bytes() -> None:
    """No remark holds a value."""
    for data in (
        b"",
        b"\x00\xff",
        b"=\n=\n",
        b"A='unclosed\nB=2",
        "\u2028K=\u201cx\u201d".encode(),
        b"export \n",
        os.urandom(4096),
    ):
        assert all("unclosed" not in remark.text for remark in parse_env_text(data).remarks)
