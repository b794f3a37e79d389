"""Runbooks: every reason has a section, and every name, link, query and command in them is valid."""

import argparse
import re
import subprocess
from pathlib import Path

import pytest

from service.doctor import command as doctor
from service.failures import CATALOGUE, RUNBOOK_PAGES
from service.health.checks import CHECKS
from service.settings import SETTING_NAMES
from service.telemetry.metrics import PREFIX, Metrics
from service.web import live
from service.web.realtime import TRANSLATION_PATHS
from service.web.unserved import REALTIME_PATHS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "runbooks"
INDEX = FOLDER / "README.md"
ALERTS = FOLDER / "alerts.md"  # sections by alert, not by reason
BROWSER = FOLDER / "browser.md"  # sections by cause that only the talk page sees, not by reason
PAGES = sorted(path for path in FOLDER.glob("*.md") if path not in {INDEX, ALERTS, BROWSER})
ALL_PAGES = [*PAGES, INDEX, ALERTS, BROWSER]
CAUSES = ROOT / "service" / "console" / "talk" / "causes.js"
SECTIONS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
PROVIDER_PATHS = {"/v1", "/v1/live/sessions"}
# Added by Prometheus.
SCRAPE_LABELS = {"instance", "le"}
EVENT_NOUNS = "access|admission|client|drain|health|key|loop|request|service|session|setting|task|upstream"


def name_of(path: Path) -> str:
    """The id of a test case: the name of the page."""
    return path.stem


def text_of(path: Path) -> str:
    """The text of a page."""
    return path.read_text(encoding="utf-8")


def section_of(path: Path, name: str) -> str:
    """The text of one section of a page."""
    return text_of(path).split(f"\n## {name}\n")[1].split("\n## ")[0]


def blocks_of(path: Path, language: str) -> list[str]:
    """The code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(path), flags=re.MULTILINE | re.DOTALL)


def source() -> str:
    """The source code of the service."""
    return "".join(file.read_text(encoding="utf-8") for file in (ROOT / "service").rglob("*.py"))


def anchors_of(path: Path) -> set[str]:
    """The anchors of a page's headings."""
    return {
        title.lower().replace(" ", "-") for title in re.findall(r"^#+ ([\w ]+)$", text_of(path), flags=re.MULTILINE)
    }


def test_every_reason_has_a_section() -> None:
    """Each reason has exactly one heading, on the page that the catalogue names."""
    found = [
        (path.stem, reason) for path in PAGES for reason in re.findall(r"^### (\w+)$", text_of(path), re.MULTILINE)
    ]

    assert sorted((page, reason) for reason, page in RUNBOOK_PAGES.items()) == sorted(found)
    assert CATALOGUE.keys() == RUNBOOK_PAGES.keys()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_page_has_all_sections(path: Path) -> None:
    """A sentence on the scope, four sections in order, commands for compose and Kubernetes, and queries."""
    commands = "".join(blocks_of(path, "sh"))

    assert re.match(r"# .+\n\n\w.+\n\n## Meaning\n", text_of(path))
    assert SECTIONS == re.findall(r"^## (.+)$", text_of(path), flags=re.MULTILINE)
    assert "docker compose " in commands
    assert "kubectl " in commands
    assert blocks_of(path, "promql")


def test_every_cause_of_the_talk_page_has_a_section() -> None:
    """The causes have sections, in the same order, and none has the name of a reason."""
    causes = re.findall(r"^  (\w+): \{$", text_of(CAUSES), re.MULTILINE)

    assert causes == re.findall(r"^### (\w+)$", text_of(BROWSER), re.MULTILINE)
    assert not set(causes) & CATALOGUE.keys()


@pytest.mark.parametrize("path", PAGES, ids=name_of)
@pytest.mark.parametrize("section", ["Diagnosis", "Mitigation"])
def test_every_reason_has_a_line(path: Path, section: str) -> None:
    """Diagnosis and Mitigation have a list item for each reason of the page."""
    heads = "".join(re.findall(r"^- ((?:`\w+`(?:, )?)+):", section_of(path, section), flags=re.MULTILINE))

    assert {reason for reason, page in RUNBOOK_PAGES.items() if page == path.stem} == set(re.findall(r"\w+", heads))


def test_index_lists_every_reason() -> None:
    """Each reason has a row with its page, the catalogue's sentence, status and close code."""
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(([\w-]+)\.md#(\w+)\) \| (.+?) \| (\S+) \| (\S+) \|$", text_of(INDEX), re.MULTILINE
    )

    assert [
        (reason, RUNBOOK_PAGES[reason], reason, row.sentence, str(row.http_status or "-"), str(row.close_code or "-"))
        for reason, row in sorted(CATALOGUE.items())
    ] == [(reason, page, anchor, *rest) for reason, page, anchor, *rest in rows]


@pytest.mark.parametrize("path", ALL_PAGES, ids=name_of)
def test_links_exist(path: Path) -> None:
    """Linked files and headings exist."""
    for link, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", text_of(path)):
        target = (path.parent / link).resolve()
        assert target.is_file(), link
        assert not anchor or anchor in anchors_of(target), (link, anchor)


@pytest.mark.parametrize("path", ALL_PAGES, ids=name_of)
def test_names_exist(path: Path) -> None:
    """Settings, log events and URL paths exist in the code."""
    text, code = text_of(path), source()
    # Expand alternatives in a grep pattern, such as key\.(found|rotated).
    events = {
        f"{noun}.{verb}" for noun, verbs in re.findall(r"(\w+)\\\.\(([\w|]+)\)", text) for verb in verbs.split("|")
    }
    events |= {f"{noun}.{verb}" for noun, verb in re.findall(r"\b([a-z]+)\\\.([a-z_]+)", text)}
    events |= set(re.findall(rf"`((?:{EVENT_NOUNS})\.[a-z_]+)`", text))
    served = {
        *REALTIME_PATHS, *TRANSLATION_PATHS, *live.PATHS, *PROVIDER_PATHS, *re.findall(r'web\.get\("(/[^"{]+)"', code),
        *(f"/healthz/{check}" for check in CHECKS),
    }  # fmt: skip

    assert set(re.findall(r"\b(?:RELAY|OPENAI)_[A-Z_]+\b", text)) <= SETTING_NAMES
    assert [] == [event for event in sorted(events) if f'"{event}"' not in code]
    assert set(re.findall(r"(?:127\.0\.0\.1:\d+|`)(/(?!dev/)[a-z0-9/]+)", text)) <= served


@pytest.mark.parametrize("path", ALL_PAGES, ids=name_of)
def test_metrics_and_labels_exist(path: Path) -> None:
    """Queries name series, labels and values of the relay's registry."""
    metrics = Metrics("openai")
    for check in CHECKS:
        metrics.set_check_status(check, "pass")
        metrics.health_success.labels(check)
    metrics.budget_used.labels("kiosk")
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    queries = "\n".join(blocks_of(path, "promql"))
    labels = {name for sample in samples for name in sample.labels} | SCRAPE_LABELS

    assert set(re.findall(rf"\b(?:{PREFIX}|process)_\w+", queries)) <= {sample.name for sample in samples}
    assert set(re.findall(rf"\b{PREFIX}_\w+", text_of(path))) <= {sample.name for sample in samples}
    for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", queries):
        assert set(names.split(", ")) <= labels
    for label, pattern in re.findall(r'(\w+)(?:=~|!=|=)"([^"]+)"', queries):
        values = {sample.labels[label] for sample in samples if label in sample.labels}
        values |= {*CATALOGUE, "admitted"} if label in {"reason", "result"} else set()
        for part in pattern.split("|"):
            assert any(re.fullmatch(part, value) for value in values), (label, part)


@pytest.mark.parametrize("path", ALL_PAGES, ids=name_of)
def test_commands_are_valid(path: Path) -> None:
    """Bash parses each block, the doctor has the options, and kubectl reads the logs of all pods."""
    parser = argparse.ArgumentParser(add_help=False)
    doctor.add_arguments(parser)
    for block in blocks_of(path, "sh"):
        subprocess.run(["bash", "-n", "-c", block], check=True)
        for options in re.findall(r"(?:service|relay) doctor(.*)", block):
            assert set(re.findall(r"--[a-z-]+", options)) <= set(parser._option_string_actions)
        assert "kubectl logs deploy/" not in block
