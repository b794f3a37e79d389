"""A `.env` file that is not read whole stops the start: what is lost could be the setting that closes access."""

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.settings import SETTING_NAMES, SettingsRejected, load_settings
from service.settings.env_names import setting_names
from service.settings.envtext import parse_env_text
from service.settings.source_file import MAX_BYTES

KEY: Final = "OPENAI_API_KEY=sk-proj-CANARYaaaaaaaaaaaaaaaaaaaaaaaa"
ACCESS: Final = "RELAY_ACCESS=tokens\n"
TOKENS: Final = "RELAY_CLIENT_TOKENS=web:CANARY0123456789abcdef\n"


def rejected(directory: Path, content: str | bytes, **environ: str) -> SettingsRejected:
    """Why settings with this `.env` are rejected."""
    (directory / ".env").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsRejected) as caught:
        load_settings(environ, directory)
    return caught.value


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        # theskumar/python-dotenv#207: a comment in Latin-1
        (b"RELAY_MODEL=m\n# f\xfcr alle\n" + ACCESS.encode(), "is not UTF-8 text from line 2 on (byte 0xfc)"),
        (b"RELAY_CLIENT_TOKENS=caf\xe9:x\n", "not read: RELAY_CLIENT_TOKENS"),
        # PowerShell/PowerShell#9423, motdotla/dotenv#445 and #657, allan2/dotenvy#66
        (f"{KEY}\r\n".encode() + ACCESS.encode("utf-16-le"), "is UTF-16 text from line 2 on"),
        (f"{KEY}\r\n".encode() + ACCESS.encode("utf-16-be"), "is UTF-16 text from line 2 on"),
        (f"{KEY}\r\n".encode() + ACCESS.encode("utf-16"), "is UTF-16 text from line 2 on"),
        (ACCESS.encode("utf-16"), "is UTF-16 text from line 1 on"),
        ("FOO=1\n".encode("utf-16") + ACCESS.encode(), "not read: RELAY_ACCESS"),
        (b"# f\xfcr\nFOO=1\n" + ACCESS.encode("utf-16-le"), "is UTF-16 text from line 3 on"),
        (b"FOO=1\nRELAY_ACCESS=tok\0ens\n", "has NUL bytes from line 2 on; not read: RELAY_ACCESS"),
        (ACCESS.encode() + b"\0" * 64, "has NUL bytes from line 2 on"),
        (b"\0GITCRYPT\0\x8b\x1f", "has NUL bytes from line 1 on"),
        (b"A=1\n" * (MAX_BYTES // 4) + ACCESS.encode(), f"is larger than {MAX_BYTES // 1024} KiB"),
    ],
)
def test_file_that_is_not_decoded_whole_is_rejected(tmp_path: Path, content: bytes, sentence: str) -> None:
    """The mistake names the line from which on the file is not read, and the settings that are lost."""
    assert any(
        str(problem).startswith(".env ") and sentence in str(problem)
        for problem in rejected(tmp_path, content).problems
    )


@pytest.mark.parametrize(
    "line",
    [
        "RELAY_ACCESS tokens",
        "RELAY_ACCESS\ttokens",
        "RELAY_ACCESS: tokens",  # docker/compose#12841: compose accepts the colon
        "RELAY_ACCESS:tokens",
        "RELAY_ACCESS",
        "export RELAY_ACCESS",
        "set RELAY_ACCESS=tokens",
        "setx RELAY_ACCESS tokens",
        "$env:RELAY_ACCESS='tokens'",
        "$env:RELAY_ACCESS = 'tokens'",
        'declare -x RELAY_ACCESS="tokens"',
        "set -gx RELAY_ACCESS tokens",
        "ENV RELAY_ACCESS=tokens",
        "Environment=RELAY_ACCESS=tokens",
        'Environment="RELAY_ACCESS=tokens"',
        "- RELAY_ACCESS=tokens",
        '{"RELAY_ACCESS":"tokens"}',
        '"RELAY_ACCESS" = "tokens"',
        "RELAY_ACCESS+=tokens",
        "RELAY_ACCESS:=tokens",
        "RELAY_ACCESS\uff1dtokens",
        "RELAY ACCESS=tokens",
        "relay_access=tokens",
        "RELAY_Access=tokens",
        "RELAY-ACCESS=tokens",
        "\u200bRELAY_ACCESS=tokens",
        "RELAY_\u200bACCESS=tokens",
        "RELAY_\u0410CCESS=tokens",  # a Cyrillic A
        "RELAY\u2011ACCESS=tokens",  # a hyphen from a word processor
        ";RELAY_ACCESS=tokens",
        "`RELAY_ACCESS`=tokens",
        "FOO=1\ufeff\n\ufeffRELAY_ACCESS=tokens",  # theskumar/python-dotenv#637, in a file that was appended
        f"{KEY}RELAY_ACCESS=tokens",  # reactioncommerce/reaction#5111: no line feed at the end before
        f"{KEY} RELAY_ACCESS=tokens",
        f"{KEY}\\nRELAY_ACCESS=tokens",
        "FOO=1; RELAY_ACCESS=tokens",  # theskumar/python-dotenv#343
        "# the last lineRELAY_ACCESS=tokens",
        "EOFRELAY_ACCESS=tokens",
        "RELAY_CLIENT_TOKENS=\n  web:CANARY0123456789abcdef",
        "RELAY_\nACCESS=tokens",
        "\x1b[1mRELAY_ACCESS\x1b[0m=tokens",
        "RELAX\bY_ACCESS=tokens",
        "\u0420\u0415L\u0410Y_\u0410\u0421\u0421\u0415SS=tokens",  # most letters are Cyrillic
        "[relay]\naccess=tokens",
        "apiVersion: v1\n- name: RELAY_ACCESS\n  value: tokens",
        "RELAY_ACCESS=tokens&RELAY_CLIENT_TOKENS=web:CANARY0123456789abcdef",
        '<add key="RELAY_ACCESS" value="tokens"/>',
        "+RELAY_ACCESS=tokens",
        "12:RELAY_ACCESS=tokens",
        "os.environ['RELAY_ACCESS'] = 'tokens'",
        "[Environment]::SetEnvironmentVariable('RELAY_ACCESS','tokens')",
        "# a note\u2028RELAY_ACCESS=tokens",
        "FOO=1\u2028RELAY_ACCESS=tokens",
        'FOO="abc\nRELAY_ACCESS=tokens\nBAR="x"',  # theskumar/python-dotenv#520: a quotation mark that is not closed
        'FOO="abc\nRELAY_ACCESS=tokens\nBAR="',
        "FOO='it\n'#RELAY_ACCESS=tokens",
        'OPENAI_API_KEY="sk-proj-CANARY\nFOO=1',
        'RELAY_MODEL="a\nb"',
        "<<<<<<< HEAD\nRELAY_ACCESS=tokens\n=======\nRELAY_ACCESS=open\n>>>>>>> main",
    ],
)
def test_line_that_may_name_a_setting_is_rejected(tmp_path: Path, line: str) -> None:
    """A mistake with file, line and remedy, which shows no value."""
    caught = rejected(tmp_path, f"BEFORE=1\n{line}\n", RELAY_PORT="eighty")
    shown = [str(problem) for problem in caught.problems]

    assert any(text.startswith((".env line ", ".env lines ")) and "; " in text for text in shown)
    assert any(text.startswith("RELAY_PORT='eighty'") for text in shown)  # all mistakes are reported together
    assert "CANARY" not in str(caught)


@pytest.mark.parametrize(
    "content",
    [
        "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n",
        "$ANSIBLE_VAULT;1.1;AES256\n62313236\n64333132\n",
        "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
    ],
)
def test_file_of_another_kind_is_rejected(tmp_path: Path, content: str) -> None:
    """No line sets a name: an encrypted file, a pointer or a page in the place of the `.env` file."""
    assert "it is no .env file" in str(rejected(tmp_path, content))


@pytest.mark.parametrize(
    "text",
    [
        "some stray words",
        "mail relay is down",
        "MAIL_RELAY_HOST: mx",
        "it's",
        "CMD='a' && b",
    ],
)
def test_stray_line_of_another_program_is_a_warning(tmp_path: Path, text: str) -> None:
    """The file can belong to several programs."""
    (tmp_path / ".env").write_text(f"RELAY_MODEL=m\n{text}\n")
    loaded = load_settings({}, tmp_path)

    assert "m" == loaded.model
    assert [".env"] == [warning.variable for warning in loaded.warnings]
    assert loaded.warnings[0].sentence.startswith("line 2 is not NAME=value and was not read")


def test_values_of_other_programs_are_no_mistake(tmp_path: Path) -> None:
    """Names that only resemble a setting, and quoted values with several lines or with a command."""
    (tmp_path / ".env").write_text(
        'PEM="-----BEGIN\nabc=\n-----END"\nCMD="docker run -e RELAY_ACCESS=open x"\nSMTP_RELAY_HOST=mx\n'
        "RELAYHOST=mx\nSMTPRELAY_HOST=mx\nPORTS=$RELAY_PORT:80\nAZURE_OPENAI_API_KEY=x\nopenai_base_url=x\n\u041f\u0415\u0420\u0415\u041c\u0415\u041d\u041d=1\n"
        "# RELAY_ACCESS=tokens\n#RELAY_ACCESS=tokens\n"
    )

    assert "open" == load_settings({}, tmp_path).access


@pytest.mark.parametrize(
    "name", ["\ufeffRELAY_ACCESS", "RELAY_ACCESS\u200b", "export RELAY_ACCESS", "RELAY-ACCESS", '"RELAY_ACCESS"']
)
def test_variable_with_an_odd_name_is_rejected(name: str) -> None:
    """'docker run --env-file' makes such names of a file with a byte order mark, of quotes and of 'export'."""
    with pytest.raises(SettingsRejected, match="environment has a variable whose name resembles RELAY_ACCESS"):
        load_settings({name: "tokens"})


def test_missing_file_of_a_profile_is_a_warning(tmp_path: Path) -> None:
    """RELAY_ENV is often set without a file of that name."""
    [warning] = load_settings({"RELAY_ENV": "staging"}, tmp_path).warnings

    assert f"selects .env.staging, which does not exist in {tmp_path}" == warning.sentence


@pytest.mark.parametrize("piece", ["'", '"\\', "A='x\n", "A\n", "\u00e9A", "#\n", "# aRELAY_PORT=1 # "])
def test_long_file_is_parsed_in_time(piece: str) -> None:
    """Some patterns make regular expressions take quadratic time, which would be hours; the report stays short."""
    data = (piece * MAX_BYTES).encode()[:MAX_BYTES]
    started = time.process_time()
    text = parse_env_text(data, setting_names(SETTING_NAMES), ".env")

    assert time.process_time() - started < 20
    assert len(text.flaws) + len(text.strays) < 50


def test_empty_value_does_not_hide_an_earlier_line(tmp_path: Path) -> None:
    """An empty value counts as unset within a file, as it does between files."""
    (tmp_path / ".env").write_text(f"{ACCESS}{TOKENS}RELAY_ACCESS=\n")

    assert "tokens" == load_settings({}, tmp_path).access


@pytest.mark.parametrize("name", [".env", ".env.local", ".env.staging"])
def test_file_that_cannot_be_read_is_rejected(tmp_path: Path, name: str) -> None:
    """A directory, a pipe, a link to nothing and a loop of links, in the place of each file that is read."""
    path = tmp_path / name
    made: dict[str, Callable[[], None]] = {
        "is a directory, which docker creates": path.mkdir,
        "is a pipe, not a regular file": lambda: os.mkfifo(path),
        "is a symbolic link to 'nowhere', which does not exist": lambda: path.symlink_to("nowhere"),
        "cannot be read (Too many levels of symbolic links)": lambda: path.symlink_to(name),
    }
    for cause, make in made.items():
        make()
        with pytest.raises(SettingsRejected) as caught:
            load_settings({"RELAY_ENV": "staging"}, tmp_path)
        assert f"{name} {cause}" in str(caught.value)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def test_file_without_permission_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistake has the user's number. The tests can run as root, who can read everything."""
    (tmp_path / ".env").write_text(ACCESS)

    def refuse(*_args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SettingsRejected, match=rf"\.env is not readable for this user \(uid {os.geteuid()}\)"):
        load_settings({}, tmp_path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "cannot be read (No such file or directory"),
        (b"", "is empty"),
        ("web:CANARY".encode("utf-16"), "is UTF-16 text or binary"),
        (b"web:CANARY\xff", "is not UTF-8 text"),
        (b"web:CANARY0123456789abcdef," * 50_000, "is larger than"),
    ],
)
def test_file_of_tokens_that_is_not_read_whole_is_rejected(tmp_path: Path, content: bytes | None, cause: str) -> None:
    """Variable, path and cause; a long file is not cut off."""
    path = tmp_path / "tokens"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsRejected) as caught:
        load_settings({"RELAY_CLIENT_TOKENS_FILE": str(path)})

    assert f"RELAY_CLIENT_TOKENS_FILE names the file '{path}', which {cause}" in str(caught.value)
    assert "CANARY" not in str(caught.value)


def test_directory_in_place_of_a_file_of_tokens_is_rejected(tmp_path: Path) -> None:
    """Docker creates it if the file to mount is missing."""
    with pytest.raises(SettingsRejected, match="which is a folder; docker makes one"):
        load_settings({"RELAY_CLIENT_TOKENS_FILE": str(tmp_path)})


def test_key_and_key_file_are_not_exemplified_by_what_is_forbidden(tmp_path: Path) -> None:
    """The remedy is to unset one of the two."""
    with pytest.raises(SettingsRejected) as caught:
        load_settings({"OPENAI_API_KEY": "sk-proj-CANARY", "OPENAI_API_KEY_FILE": str(tmp_path / "key")})

    assert "OPENAI_API_KEY and OPENAI_API_KEY_FILE are both set (environment)" in str(caught.value)
    assert "for example" not in str(caught.value)


def test_value_that_is_not_accepted_names_file_and_line(tmp_path: Path) -> None:
    """The line is that of the value in use."""
    assert "RELAY_PORT='eighty' (.env line 3): expected" in str(
        rejected(tmp_path, "RELAY_PORT=1\n\nRELAY_PORT=eighty\n")
    )


def test_summary_shows_values_as_they_are_written() -> None:
    """Not the representations of Python objects."""
    environ = {
        "RELAY_ALLOWED_ORIGINS": "https://a.example,https://b.example",
        "RELAY_TRUSTED_PROXIES": "10.0.0.0/8",
        "RELAY_DRAINING_EVENT": "yes",
        "RELAY_DRAIN_SECONDS": "30",
        "RELAY_DIAL_TIMEOUT_SECONDS": "0.5",
    }
    expected = environ | {"RELAY_DRAINING_EVENT": "true"}

    assert expected == load_settings(environ).summary()


lines = st.sampled_from([KEY, ACCESS.strip(), TOKENS.strip(), 'FOO="a b"', "# note", "BAR='x", "BAZ=1 # x", ""])
pieces = st.one_of(
    lines, st.sampled_from(['"', "'", "\0", "\u2028", "\\", " ", "=", "\r", "\ufeff"]), st.text(max_size=3)
)


@settings(max_examples=300, deadline=None)
@given(st.lists(pieces, max_size=6), st.sampled_from(["\n", "\r\n", "", " "]), st.binary(max_size=3))
def test_access_is_closed_or_the_start_is_refused(before: list[str], joint: str, junk: bytes) -> None:
    """Whatever precedes the line that closes access, it is either read or reported."""
    content = "\n".join(before).encode("utf-8", "replace") + junk + joint.encode() + ACCESS.encode()
    parsed = parse_env_text(content, setting_names(SETTING_NAMES), ".env")
    with contextlib.suppress(UnicodeDecodeError):
        last = content.decode().splitlines()[-1]
        if "#" in last or re.search(r"[_${]RELAY", last):  # a comment, or the name of another program
            return

    assert parsed.flaws or "tokens" == parsed.values().get("RELAY_ACCESS")
    assert all("CANARY" not in str(flaw) for flaw in (*parsed.flaws, *parsed.strays))


def test_remedy_for_a_command_in_a_value_can_be_followed(tmp_path: Path) -> None:
    """A value of another program may name a setting; in quotation marks it hides none."""
    (tmp_path / ".env").write_text("RUN=docker run -e RELAY_ACCESS=tokens image\n")
    with pytest.raises(SettingsRejected, match="put the value in quotation marks"):
        load_settings({}, tmp_path)

    (tmp_path / ".env").write_text("RUN='docker run -e RELAY_ACCESS=tokens image'\n")
    load_settings({}, tmp_path)
