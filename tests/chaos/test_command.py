"""The command line and the lists of `make chaos`."""

import re
from pathlib import Path
from typing import Final

import pytest

from chaos import hostile
from chaos.__main__ import parse
from chaos.attacker import PROGRAMS
from chaos.attacks import ADMITTED, ATTACKS, SHORT, SUSPENDED, WITHOUT_TOKEN, Attack
from chaos.endurance import attack_words

BEHAVIOURS: Final = {"sink", "deaf", "slow", "lost"}.union(
    hostile.FRAMES, hostile.COSTLY, hostile.HTTP_ANSWERS, hostile.FIRST_EVENTS, hostile.HEADS, hostile.FIRST_MESSAGES
)


def test_unknown_attack_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the way to see the known ones."""
    with pytest.raises(SystemExit) as raised:
        parse(["--only", "letters,lettres"])

    assert 2 == raised.value.code
    assert "unknown attack: lettres; `--only list` prints all" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "shown"), [(["--help"], "--against"), (["--only", "list"], "no token: letters\n")])
def test_help_and_list_are_printed(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a measurement."""
    with pytest.raises(SystemExit) as raised:
        parse(words)

    assert 0 == raised.value.code
    assert shown in capsys.readouterr().out


def test_folder_without_a_relay_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything starts."""
    with pytest.raises(SystemExit):
        parse(["--against", str(tmp_path)])

    assert "is no working tree of the relay" in capsys.readouterr().err


def test_short_form_has_attacks_of_each_kind() -> None:
    """Except the pause, which takes longer than all others together."""
    assert list(SHORT) == parse(["--short"]).names
    assert {attack.family for attack in ATTACKS.values()} - {SUSPENDED.family} == {ATTACKS[n].family for n in SHORT}


@pytest.mark.parametrize(
    "attack", [attack for attack in ATTACKS.values() if attack is not SUSPENDED], ids=lambda a: a.name
)
def test_attack_has_its_program_and_behaviour(attack: Attack) -> None:
    """By the names in the list."""
    assert attack.program in PROGRAMS
    assert attack.model.removeprefix("chaos-") in BEHAVIOURS


@pytest.mark.parametrize(("admitted", "names"), [(0, WITHOUT_TOKEN), (50, ADMITTED), (3, ADMITTED[:3])])
def test_mixed_attack_has_the_stated_number_of_connections(admitted: int, names: tuple[str, ...]) -> None:
    """Shared by its attacks."""
    words = attack_words(admitted)

    assert list(names) == [word.partition("=")[0] for word in words]
    assert (admitted or 100) == sum(int(word.partition("=")[2]) for word in words)


def test_page_names_only_existing_options() -> None:
    """`docs/chaos.md`, and the names of attacks in it."""
    text = (Path(__file__).resolve().parents[2] / "docs/chaos.md").read_text(encoding="utf-8")

    for words in re.findall(r'ARGS="?([^"`]+)"?`', text):
        used = [word if word != "FOLDER" else str(Path(__file__).resolve().parents[2]) for word in words.split()]
        if used != ["--only", "list"]:
            assert parse(used)
