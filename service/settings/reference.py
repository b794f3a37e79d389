"""The reference of all settings, printed from their declaration."""

from typing import Final

from service.settings.declared import SETTINGS, Setting

_RULES: Final = (
    "Read from the process environment, then .env.local, .env.<RELAY_ENV> and .env of the working directory; the first "
    "that sets a name wins, an empty value counts as unset. A secret can also be read from a file that NAME_FILE names."
)


def render_text() -> str:
    """For a terminal: `python -m service settings`."""
    blocks = [_RULES]
    for setting in SETTINGS:
        default = "" if setting.default in {None, ""} else f" [{setting.default}]"
        names = setting.name + (f" or {setting.file_name}" if setting.file_name else "")
        blocks.append(f"{names}{default}\n    {setting.sentence}\n    Accepts {setting.accepts}.")
    return "\n\n".join(blocks) + "\n"


def render_markdown() -> str:
    """`docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Generated from `service/settings/declared.py`; `python -m service settings` prints the same.",
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
    """`.env.example`: copy to `.env`, fill in what is needed."""
    lines = [
        "# Copy to .env and fill in the key; everything else has a default. Generated from service/settings/declared.py.",
        "# " + _RULES.replace(". ", ".\n# "),
        "",
    ]
    for setting in SETTINGS:
        lines.append(f"# {setting.sentence} Accepts {setting.accepts}.")
        value = setting.default or ""
        lines += [f"{'' if setting.name == 'OPENAI_API_KEY' else '# '}{setting.name}={value}", ""]
    return "\n".join(lines)
