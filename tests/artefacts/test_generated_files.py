"""Generated files match the code that generates them."""

from collections.abc import Callable

import pytest

from tools.generate import GENERATED, ROOT


@pytest.mark.parametrize(("name", "render"), GENERATED, ids=[name for name, _ in GENERATED])
def test_generated_file_is_current(name: str, render: Callable[[], str]) -> None:
    """The committed file equals the output of its generator; `make docs` updates it."""
    assert render() == (ROOT / name).read_text(encoding="utf-8")
