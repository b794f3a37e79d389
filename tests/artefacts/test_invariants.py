"""`docs/invariants.md` names, for each invariant, tests that exist."""

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
SECTIONS: Final = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])


@pytest.mark.parametrize("invariant", SECTIONS)
def test_invariant_names_existing_tests(invariant: str) -> None:
    """Each invariant has tests, each is a test function of the file that it names, and none is named twice."""
    named = re.findall(r"^- `(tests/\S+\.py)::(\w+)`$", SECTIONS[invariant], re.MULTILINE)

    assert named
    assert len(set(named)) == len(named) == len(re.findall(r"^- ", SECTIONS[invariant], re.MULTILINE))
    for file, function in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function.startswith("test_")
