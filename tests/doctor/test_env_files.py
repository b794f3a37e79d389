"""Every way in which a `.env` file can be missed or misread, with real files."""

import os
from pathlib import Path

import pytest

from service.doctor.env_files import find_env_files
from service.doctor.sources import read_env_text
from tests.support.doctor_chain import KEY_CANARY, run_provider_chain

LINE = f"OPENAI_API_KEY={KEY_CANARY}\n"
SIMULATED = {"RELAY_UPSTREAM": "simulator"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        (".env.template", "it is a template"),
        (".env.example", "it is a template"),
        (".env.local.txt", "an editor has added '.txt'"),
        (".env.txt", "an editor has added '.txt'"),
        ("env", "only .env.local, .env.<RELAY_ENV> and .env are"),
        ("relay.env", "only .env.local, .env.<RELAY_ENV> and .env are"),
        (".ENV", "its name is in the wrong case"),
        (".Env.Local", "its name is in the wrong case"),
        (".envrc", "direnv reads it"),
        (".env.production", "it is a profile that was not chosen"),
    ],
)
async def test_a_key_in_a_misnamed_file_is_found(tmp_path: Path, name: str, why: str) -> None:
    """A key in a file with nearly the right name breaks the key's rung, which names the file, the mistake and the cure."""
    (tmp_path / name).write_text(LINE)

    report = await run_provider_chain({}, tmp_path)

    assert "warn" == report["files"].status
    assert "key" == report.failed_step
    assert "key_missing" == report["key"].reason
    assert f"Probably this: {name} holds OPENAI_API_KEY but is not read: {why}" in report.notes("key")
    assert "CANARY" not in report.printed


@pytest.mark.parametrize("where", ["..", "relay"])
async def test_a_key_in_the_wrong_folder_is_found(tmp_path: Path, where: str) -> None:
    """A .env in the folder above or below is named, with the folder to start in."""
    here = tmp_path / "here"
    (here / "relay").mkdir(parents=True)
    (here / where / ".env").write_text(LINE)

    report = await run_provider_chain({}, here)

    side = "above" if where == ".." else "below"
    assert f"it lies in a folder {side} this one. Start in {(here / where).resolve()}" in report.notes("key")
    assert "warn" == report["files"].status


async def test_a_key_beside_the_program_is_found(tmp_path: Path) -> None:
    """A .env that lies where the program lies is named when the program is started from elsewhere."""
    here, program = tmp_path / "here" / "deep" / "deeper" / "deepest", tmp_path / "program"
    here.mkdir(parents=True)
    program.mkdir()
    (program / ".env").write_text(LINE)

    report = await run_provider_chain({}, here)

    assert "it lies beside the program, which was started elsewhere" in report.notes("key")


async def test_a_file_elsewhere_is_no_warning_where_a_key_is_found(tmp_path: Path) -> None:
    """Another program's .env in the folder above is noted, and nothing more."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / ".env").write_text(LINE)
    (here / ".env").write_text("OPENAI_API_KEY=sk-sim-good\n")

    report = await run_provider_chain(SIMULATED, here)

    assert "ok" == report["files"].status
    assert "it lies in a folder above this one" in report.notes("files")


async def test_a_template_without_a_key_is_not_spoken_of(tmp_path: Path) -> None:
    """The .env.example that every checkout has is no finding, nor is one whose key is a placeholder."""
    (tmp_path / ".env.example").write_text("OPENAI_API_KEY=\nRELAY_PORT=8080\n")
    (tmp_path / ".env.sample").write_text("OPENAI_API_KEY=sk-proj-your-key-goes-here-and-nowhere-else\n")

    assert () == find_env_files(tmp_path, {}).unread


@pytest.mark.parametrize(
    ("content", "remark"),
    [
        (b"\xef\xbb\xbf" + LINE.encode(), "begins with a byte order mark"),
        (LINE.encode().replace(b"\n", b"\r\n"), "has Windows line ends"),
        (f'\n\nOPENAI_API_KEY="{KEY_CANARY}"\n'.encode(), "line 3: quotes around OPENAI_API_KEY are taken off here"),
        (f"OPENAI_API_KEY = {KEY_CANARY}\n".encode(), "line 1: blanks around the '=' of OPENAI_API_KEY"),
        (LINE.encode() * 2, "OPENAI_API_KEY stands in it 2 times; the last one counts"),
        (b"# a note\nRELAY_PORT\n" + LINE.encode(), "line 2: RELAY_PORT has no '=' behind it"),
        (LINE.encode() + b"two words\n", "line 2 is not NAME=value and was not read"),
        (b"RELAY_PORT=\n" + LINE.encode(), "line 1: RELAY_PORT is empty, which counts as unset"),
    ],
)
async def test_oddities_of_a_file_that_is_read(tmp_path: Path, content: bytes, remark: str) -> None:
    """What an editor has left in the file is told, with its line; the key is read nevertheless."""
    (tmp_path / ".env").write_bytes(content)

    report = await run_provider_chain(SIMULATED, tmp_path)

    assert "read: .env" == report["files"].finding
    assert f".env {remark}" in report.notes("files")
    assert f"project key, {len(KEY_CANARY)} characters" in report["key"].finding
    assert report["key"].finding.endswith("from .env")
    assert "CANARY" not in report.printed


async def test_a_utf16_file_is_named_as_such(tmp_path: Path) -> None:
    """What PowerShell's '>' writes cannot be read; the files' rung warns and the key's rung says so again."""
    (tmp_path / ".env").write_bytes(LINE.encode("utf-16"))

    report = await run_provider_chain({}, tmp_path)

    assert "warn" == report["files"].status
    assert "is UTF-16 text" in report.notes("files")
    assert "Probably this: .env is UTF-16 text" in report.notes("key")


async def test_a_key_under_another_name_is_found_by_its_shape(tmp_path: Path) -> None:
    """A key of OpenAI's shape under a name that nobody could guess is named by its line, not by its value."""
    (tmp_path / ".env").write_text(f"# mine\nMY_SECRET={KEY_CANARY}\n")

    report = await run_provider_chain({}, tmp_path)

    assert "Probably this: .env line 2: MY_SECRET holds what looks like a key of OpenAI" in report.notes("key")
    assert "CANARY" not in report.printed


async def test_a_folder_called_env(tmp_path: Path) -> None:
    """Docker makes a folder where a file to be mounted is missing; the finding says so."""
    (tmp_path / ".env").mkdir()

    report = await run_provider_chain(SIMULATED, tmp_path)

    assert ".env is a folder, not a file" in report.notes("files")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_an_unreadable_file(tmp_path: Path) -> None:
    """A file that this user may not read is named with the user's number."""
    (tmp_path / ".env").write_text(LINE)
    (tmp_path / ".env").chmod(0)

    report = await run_provider_chain({}, tmp_path)

    assert f".env may not be read by this user ({os.geteuid()})" in report.notes("files")


async def test_a_profile_without_its_file(tmp_path: Path) -> None:
    """RELAY_ENV that names a file which is not there warns; with the file, the file is read."""
    without = await run_provider_chain(SIMULATED | {"RELAY_ENV": "staging"}, tmp_path)
    (tmp_path / ".env.staging").write_text("RELAY_MODEL=gpt-realtime-mini\n")
    with_it = await run_provider_chain(SIMULATED | {"RELAY_ENV": "staging"}, tmp_path)

    assert "RELAY_ENV=staging asks for .env.staging, which does not exist here" in without.notes("files")
    assert "read: .env.staging" == with_it["files"].finding


def test_nothing_in_a_file_upsets_the_reading() -> None:
    """Whatever bytes stand in a file, reading ends in remarks, none of which holds a value."""
    for data in (
        b"",
        b"\x00\xff",
        b"=\n=\n",
        b"A='unclosed\nB=2",
        "\u2028K=\u201cx\u201d".encode(),
        b"export \n",
        os.urandom(4096),
    ):
        assert all("unclosed" not in remark for remark in read_env_text(data).remarks)
