"""What the tests of the settings share: secrets to search for, and the problems and warnings of an environment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from service.settings import SettingsRejected, load_settings

KEY: Final = "sk-proj-CANARY0key1234567890abcdef"
TOKEN: Final = "CANARY1token-abcdefghijklmnop"


def problems(**environ: str) -> dict[str, str]:
    """The problems of an environment, by variable."""
    with pytest.raises(SettingsRejected) as caught:
        load_settings(environ)
    return {problem.variable: str(problem) for problem in caught.value.problems}


def warnings(environ: Mapping[str, str], directory: Path | None = None) -> dict[str, str]:
    """The warnings of an environment, by variable."""
    return {warning.variable: warning.sentence for warning in load_settings(environ, directory).warnings}
