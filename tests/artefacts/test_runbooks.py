"""The runbooks speak of every reason, and of nothing that does not exist."""

import re
from pathlib import Path

import pytest

from service.failures import CATALOGUE, RUNBOOKS
from service.settings import SETTING_NAMES
from service.telemetry.metrics import PREFIX, Metrics

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "runbooks"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def text_of(path: Path) -> str:
    """A page."""
    return path.read_text(encoding="utf-8")


def test_every_reason_has_its_page() -> None:
    """Each reason stands under a heading of its own, once, on the page that the catalogue names."""
    found = {
        (path.stem, reason)
        for path in PAGES
        for reason in re.findall(r"^### (\w+)$", text_of(path), flags=re.MULTILINE)
    }

    assert {(page, reason) for reason, page in RUNBOOKS.items()} == found
    assert CATALOGUE.keys() == RUNBOOKS.keys()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.stem))
def test_every_page_has_its_sections(path: Path) -> None:
    """Meaning, Impact, Diagnosis, Mitigation, in this order; and commands to paste."""
    assert SECTIONS == re.findall(r"^## (.+)$", text_of(path), flags=re.MULTILINE)
    assert "```sh" in text_of(path)
    assert "```promql" in text_of(path)


def test_every_page_is_in_the_index() -> None:
    """A page that nobody finds helps nobody."""
    assert {path.name for path in PAGES} == set(re.findall(r"\]\(([\w-]+\.md)\)", text_of(FOLDER / "README.md")))


@pytest.mark.parametrize("path", [*PAGES, FOLDER / "README.md"], ids=lambda path: str(path.stem))
def test_what_is_named_exists(path: Path) -> None:
    """Metrics with their labels, settings, log events, paths and links: a renamed one fails here."""
    text = text_of(path)
    registry = Metrics("openai").registry
    series = {sample.name for family in registry.collect() for sample in family.samples}
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "service").rglob("*.py"))
    # Counted alternatives such as key\.(found|rotated) in a grep are spelt out.
    grepped = [
        f"{noun}.{verb}" for noun, verbs in re.findall(r"(\w+)\\\.\(([\w|]+)\)", text) for verb in verbs.split("|")
    ] + [f"{noun}.{verb}" for noun, verb in re.findall(r"\b([a-z]+)\\\.([a-z_]+)", text)]

    assert set(re.findall(rf"\b{PREFIX}_\w+", text)) <= series
    assert set(re.findall(r"\b(?:RELAY|OPENAI)_[A-Z_]+\b", text)) <= SETTING_NAMES
    assert [] == [event for event in grepped if f'"{event}"' not in source]
    assert [] == [name for name in re.findall(r"`((?:key|task|session|upstream|client|drain)\.[a-z_]+)`", text)
                  if f'"{name}"' not in source]  # fmt: skip
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (path.parent / link).exists(), link


def test_label_values_are_known() -> None:
    """A query that asks for a reason which does not exist would be silent for ever."""
    known = {*CATALOGUE, "admitted"}
    for path in PAGES:
        for pattern in re.findall(r'(?:reason|result)(?:=|=~|!=)"([^"]+)"', text_of(path)):
            assert any(re.fullmatch(pattern, reason) for reason in known), (path.name, pattern)
            for part in pattern.split("|"):
                assert any(re.fullmatch(part, reason) for reason in known), (path.name, part)
