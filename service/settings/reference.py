"""The reference of all settings, rendered from their declarations."""

from typing import Final

from service.settings.declared import SETTINGS
from service.settings.setting import Setting

SOURCE: Final = "service/settings/declared.py"
_RULES: Final = (
    "Settings are read from the process environment, then from .env.local, .env.<RELAY_ENV> and .env in the working "
    "directory. The first source that sets a name wins. An empty value counts as unset. A comment is never "
    "read. A comment that runs into NAME=value prevents the start: an append to a file without a final line feed leaves such "
    "a line. The value of a secret can also be read from a file: set NAME_FILE to its path."
)


def render_text() -> str:
    """The output of `python -m service settings`."""
    blocks = [_RULES]
    for setting in SETTINGS:
        default = f" [{setting.default}]" if setting.default else ""
        names = setting.name + (f" or {setting.file_name}" if setting.file_name else "")
        blocks.append(f"{names}{default}\n    {setting.sentence}\n    Accepts {setting.accepts}.")
    return "\n\n".join(blocks) + "\n"


def render_markdown() -> str:
    """The text of `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        (
            f"Generated from `{SOURCE}`; `python -m service settings` prints the same (in a checkout "
            "`.venv/run/bin/realtime-relay settings`)."
        ),
        "",
        _RULES,
        "",
        "| variable | default | accepts | what it does |",
        "| --- | --- | --- | --- |",
    ]
    lines += [_row(setting) for setting in SETTINGS]
    return "\n".join(lines) + "\n"


def _row(setting: Setting) -> str:
    name = f"`{setting.name}`" + (f"<br>`{setting.file_name}`" if setting.file_name else "")
    default = f"`{setting.default}`" if setting.default else ""
    return f"| {name} | {default} | {_cell(setting.accepts)} | {_cell(setting.sentence)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def render_env_example() -> str:
    """The text of `.env.example`: every setting in a comment, with its default."""
    lines = [
        f"# Copy to .env and fill in the key; every other setting has a default. Generated from {SOURCE}.",
        "# " + _RULES.replace(". ", ".\n# "),
        "",
    ]
    for setting in SETTINGS:
        lines.append(f"# {setting.sentence} Accepts {setting.accepts}.")
        value = setting.default or ""
        lines += [f"{'' if setting.name == 'OPENAI_API_KEY' else '# '}{setting.name}={value}", ""]
    return "\n".join(lines)
