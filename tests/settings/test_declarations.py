"""The declarations of the settings, and what is rendered from them."""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from service.settings import SETTINGS, Setting, Settings, load_settings
from service.settings.reference import render_env_example, render_markdown, render_text

ROOT: Final = Path(__file__).resolve().parents[2]
DECLARATIONS: Final = tuple((ROOT / "service/settings").glob("declared*.py"))
READ_BY_SETTINGS: Final = {
    "configured_access": "by the property `access`",
    "configured_console": "by the property `console`",
    "environment": "by the reader of .env files",
}
"""The fields that no other package reads, with the reason."""


def test_loading_an_empty_environment_gives_the_defaults() -> None:
    """Nothing has to be set, and every default is the parsed form of the written one."""
    loaded = load_settings({})

    assert Settings() == loaded
    for setting in SETTINGS:
        written = None if setting.default is None else setting.parser(setting.default)
        assert written == getattr(loaded, setting.field), setting.name


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: str(setting.name))
def test_example_is_accepted(setting: Setting) -> None:
    """The example that an error message gives is accepted."""
    assert setting.parser(setting.example) is not None


def test_accepted_numbers_are_described_by_their_bounds() -> None:
    """The description of a number is made from the bounds that its parser checks, with the unit and the meaning of 0."""
    accepts = {setting.name: setting.accepts for setting in SETTINGS}

    assert "1 to 1000000 sessions" == accepts["RELAY_MAX_SESSIONS"]
    assert "0.1 to 120 seconds" == accepts["RELAY_DIAL_TIMEOUT_SECONDS"]
    assert "0 to 86400 seconds; 0 is off" == accepts["RELAY_IDLE_TIMEOUT_SECONDS"]
    assert "openai, simulator or auto" == accepts["RELAY_UPSTREAM"]


def test_unit_in_a_name_is_the_declared_unit() -> None:
    """A setting whose name ends in its unit declares the same unit."""
    for setting in SETTINGS:
        found = re.search(r"_(SECONDS|BYTES)$", setting.name)
        if found is not None:
            assert found[1].lower() == setting.unit, setting.name


def literals(path: Path) -> Iterator[object]:
    """Every literal of a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant):
            yield node.value


def test_no_default_is_written_twice() -> None:
    """No program, tool or test helper repeats a default. Small and round numbers and plain words also mean other things."""
    texts = {setting.default for setting in SETTINGS if setting.default is not None}
    numbers = {text for text in texts if text.isdigit() and int(text) > 100 and int(text) % 100}
    distinctive = numbers | {text for text in texts if re.search(r"[-:]", text)}
    bytes_of_continuity = {"268435456", "2097152"}
    others = {"8080", "9464", "16777216", "gpt-realtime", "https://api.openai.com/v1", "memory:"}
    assert bytes_of_continuity | others == distinctive
    defaults: set[object] = {*distinctive, *(int(text) for text in numbers)}
    files = [
        path
        for folder in ("service", "tools", "tests/support")
        for path in (ROOT / folder).rglob("*.py")
        # The simulator and the price list know the models of the provider, whichever one is the default here.
        if path not in DECLARATIONS and "simulator" not in path.parts and path.name != "pricing.py"
    ]

    assert [] == [(path.name, value) for path in files for value in literals(path) if value in defaults]


def test_settings_fields_are_declared_or_derived() -> None:
    """Each field of `Settings` is a declared setting or one of those that loading adds."""
    fields = {field.name for field in dataclasses.fields(Settings)}
    derived = {"proxy", "origins", "openai_api_key_file", "openai_api_key_problem", "warnings", "misplaced_secrets"}

    assert derived == fields - {setting.field for setting in SETTINGS}


@pytest.mark.parametrize("render", [render_text, render_markdown, render_env_example])
def test_reference_lists_every_setting(render: Callable[[], str]) -> None:
    """Each form of the reference names each setting, its sentence and its default."""
    text = render()

    for setting in SETTINGS:
        assert setting.name in text
        assert (setting.default or "") in text
        assert setting.sentence.replace("<", "&lt;") in text.replace("<", "&lt;")


def reads_of_settings(path: Path) -> Iterator[str]:
    """The attributes that a file reads from `settings`, `self._settings` or `x.settings`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2].lstrip("_") == "settings":
            yield node.attr


def test_every_setting_is_used() -> None:
    """Code outside service/settings reads each field, so that no setting is declared without an effect."""
    files = [path for path in (ROOT / "service").rglob("*.py") if path.parent != ROOT / "service/settings"]
    used = {name for path in files for name in reads_of_settings(path)}

    assert {setting.field for setting in SETTINGS} - used == READ_BY_SETTINGS.keys()
