"""Writes the generated documents again: `make docs`. `test_docs_in_step.py` fails when one of them is out of step."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from service import failures_reference, settings_reference

ROOT: Final = Path(__file__).resolve().parent.parent

GENERATED: Final[tuple[tuple[str, Callable[[], str]], ...]] = (
    (".env.example", settings_reference.render_env_example),
    ("docs/settings.md", settings_reference.render_markdown),
    ("docs/failures.md", failures_reference.render_markdown),
)


def main() -> None:
    """Write every generated file."""
    for name, render in GENERATED:
        path = ROOT / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
