"""Advice that names a setting or a value of one can be followed: a misprint in a remedy costs an operator an outage."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from service.failures import CATALOGUE
from service.settings import SETTING_NAMES, SETTINGS

ROOT: Final = Path(__file__).resolve().parents[2]
PARSERS: Final = {setting.name: setting.parser for setting in SETTINGS} | {
    setting.file_name: str for setting in SETTINGS if setting.file_name is not None
}
ADVICE: Final = re.compile(r"(?<![\w$])((?:RELAY|OPENAI)_[A-Z_]+)=([^\s`\"'|)\]&;{]+)")
FOLDERS: Final = ("service", "docs", "monitoring", "compose")
SERVICE_LINK: Final = "tcp://"
"""The value of a variable that Kubernetes sets for a Service, which the sources explain."""


def advised_values() -> Iterator[tuple[str, str, str]]:
    """File, setting and value of each NAME=value in a text for people."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md"}]
    for path in (*files, ROOT / "README.md", ROOT / "docker-compose.yml"):
        for name, value in ADVICE.findall(path.read_text(encoding="utf-8")):
            if value[0] not in "<.$%" and not value.startswith(SERVICE_LINK):
                yield str(path.relative_to(ROOT)), name, value.rstrip(".,:")


def test_advised_values_are_accepted() -> None:
    """Each NAME=value in a remedy, a document or a program names a setting and one of its values."""
    wrong = []
    for file, name, value in advised_values():
        try:
            PARSERS[name](value)
        except (KeyError, ValueError):
            wrong.append(f"{file}: {name}={value}")

    assert [] == wrong


@pytest.mark.parametrize("reason", CATALOGUE)
def test_remedy_names_settings_that_exist(reason: str) -> None:
    """A name of another program would carry no such prefix."""
    row = CATALOGUE[reason]
    named = set(re.findall(r"\b(?:RELAY|OPENAI)_[A-Z_]+", f"{row.sentence} {row.remedy}"))

    assert named <= SETTING_NAMES
