"""What a comment of a `.env` file can hide, and settings that one file sets twice."""

from pathlib import Path

import pytest

from service.settings import SettingsRejected, load_settings


def test_different_values_of_a_setting_in_one_file_are_a_warning(tmp_path: Path) -> None:
    """The same value twice is none."""
    (tmp_path / ".env").write_text("RELAY_MODEL=m\nRELAY_ACCESS=tokens\nRELAY_MODEL=m\nRELAY_ACCESS=open\n")

    assert ["sets RELAY_ACCESS to different values in lines 2, 4; line 4 is used; remove the others"] == [
        warning.sentence for warning in load_settings({}, tmp_path).warnings
    ]


@pytest.mark.parametrize("name", ["RELAY_ACCESS", "RELAY_MODEL"])
def test_value_that_is_set_to_nothing_below_is_a_warning(tmp_path: Path, name: str) -> None:
    """The value is used. An empty line above the value, as a template has it, is no mistake."""
    (tmp_path / ".env").write_text(f"{name}=open\n\n{name}=\n")
    sentence = f"sets {name} in line 1 and to nothing in line 3; the value in line 1 is used"

    assert any(warning.sentence.startswith(sentence) for warning in load_settings({}, tmp_path).warnings)

    (tmp_path / ".env").write_text(f"{name}=\n{name}=open\n")
    assert () == load_settings({}, tmp_path).warnings


@pytest.mark.parametrize(
    "comment",
    [
        "# https://x/?OPENAI_API_KEY=1",
        "# https://x.example/docs#RELAY_ACCESS=tokens",
        "#OPENAI_API_KEY=sk-proj-CANARYaaaaaaaaaaaaaaaaaaaaaaaa",
        "##RELAY_ACCESS=tokens",
        "# docker run -eRELAY_ACCESS=tokens image",
        "# docker run -eRELAY_ACCESS=tokens",
        "# -DRELAY_ACCESS=tokens",
        "# curl example.com?a=1&RELAY_MODEL=x",
        "# MY_RELAY_ACCESS=tokens",
        "# see theRELAY_ACCESS=tokens form above",
        "# `RELAY_ACCESS=tokens`",
        "# was:RELAY_ACCESS=tokens",
        "# export RELAY_ACCESS=tokens",
        "RELAY_MODEL=m # https://x/?RELAY_ACCESS=1",
    ],
)
def test_comment_is_no_setting(tmp_path: Path, comment: str) -> None:
    """Only a setting that is joined to the last word of a comment was appended by mistake."""
    (tmp_path / ".env").write_text(f"FOO=1\n{comment}\n")

    assert () == load_settings({}, tmp_path).warnings


def test_value_that_is_a_comment_is_a_warning(tmp_path: Path) -> None:
    """Access would be open without a word. A sentence behind an empty value, as a template has it, is no mistake."""
    (tmp_path / ".env").write_text("RELAY_ACCESS= #tokens\nRELAY_MODEL= # by default gpt-realtime\n")

    [warning] = load_settings({}, tmp_path).warnings
    assert warning.sentence.startswith("line 1: RELAY_ACCESS is empty, because '#' after a blank begins a comment; ")


@pytest.mark.parametrize(
    "comment",
    [
        "# the endRELAY_ACCESS=tokens",
        "# the end.RELAY_ACCESS=tokens # closed",
        "# schlie\u00dft\u00e4RELAY_ACCESS='tokens'",
        "# (see docs)export RELAY_ACCESS=tokens",
        'FOO=1 # why?RELAY_ALLOWED_ORIGINS="https://a.example, https://b.example"',
    ],
)
def test_setting_appended_to_a_comment_is_rejected(tmp_path: Path, comment: str) -> None:
    """A file without a line feed at its end, to which 'echo NAME=value >> .env' appends."""
    (tmp_path / ".env").write_text(comment)
    with pytest.raises(SettingsRejected) as caught:
        load_settings({}, tmp_path)

    assert ".env line 1 has a comment to which a setting was appended" in str(caught.value)
