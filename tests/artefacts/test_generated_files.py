"""Generated files match the code that generates them."""

from collections.abc import Callable

import pytest

from tools.generate import GENERATED, ROOT
from tools.generated import TABLE_BEGIN, TABLE_END, with_table


@pytest.mark.parametrize(("name", "render"), GENERATED, ids=[name for name, _ in GENERATED])
def test_generated_file_is_current(name: str, render: Callable[[], str]) -> None:
    """The committed file equals the output of its generator; `make docs` updates it."""
    assert render() == (ROOT / name).read_text(encoding="utf-8")


def test_table_is_replaced_between_its_markers() -> None:
    """The text around the markers stays, and a missing marker is named."""
    text = f"before\n{TABLE_BEGIN}\nold\n{TABLE_END}\nafter\n"

    assert f"before\n{TABLE_BEGIN}\n\nnew\n\n{TABLE_END}\nafter\n" == with_table(text, "new")
    with pytest.raises(ValueError, match="each of these lines once"):
        with_table("before\nold\nafter\n", "new")
