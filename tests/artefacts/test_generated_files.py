"""The documents that are generated agree with the code that they are generated from."""

from collections.abc import Callable

import pytest

from tools.generate import GENERATED, ROOT


@pytest.mark.parametrize(("name", "render"), GENERATED, ids=[name for name, _ in GENERATED])
def test_generated_file_is_in_step(name: str, render: Callable[[], str]) -> None:
    """The file in the repository is what the code prints; `make docs` writes it again."""
    assert render() == (ROOT / name).read_text(encoding="utf-8")
