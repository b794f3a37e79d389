"""Documents: links, anchors, paths and `make` verbs in them exist, headings skip no level, and the README stays short."""

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
README_WORDS: Final = 750

_FENCE: Final = re.compile(r"^(`{3,}|~{3,}).*?^\1[`~]*\s*$", re.MULTILINE | re.DOTALL)
_INLINE_CODE: Final = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK: Final = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^()\s<>]+(?:\([^()]*\))?)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE: Final = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?", re.MULTILINE)
_HEADING: Final = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$", re.MULTILINE)
_HTML_ANCHOR: Final = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")
_EXTERNAL: Final = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)
_PATH: Final = re.compile(r"(?:[\w.-]+/)+[\w.-]+\.(?:py|md|json|toml|txt|cfg|svg|in)|[a-z_]+(?:/[a-z_]+)*\.py")
_VERB: Final = re.compile(r"\bmake ([a-z][a-z0-9-]*)\b(?!\.)")
_BUILT: Final = ("build/", "secrets/tls/", "sbom.json")  # paths that exist after a command has run


def _tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


DOCUMENTS: Final = _tracked("*.md")


def name_of(path: Path) -> str:
    """A document's path within the repository, for the test's id."""
    return str(path.relative_to(ROOT))


def without_code(text: str) -> str:
    """Markdown without fenced blocks and inline code, in which brackets are no links."""
    return _INLINE_CODE.sub("", _FENCE.sub("", text))


def links_of(text: str) -> list[str]:
    """Targets of all inline links, images and reference definitions that stay within the repository."""
    plain = without_code(text)
    return [link for link in _LINK.findall(plain) + _REFERENCE.findall(plain) if not _EXTERNAL.match(link)]


def anchors_of(text: str) -> set[str]:
    """Anchors of a document as GitHub makes them: lower case, no punctuation, blanks to hyphens, repetitions numbered."""
    found: set[str] = set()
    for _, title in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title)
        plain = re.sub(r"(?<!\w)[*_]{1,3}(.+?)[*_]{1,3}(?!\w)", r"\1", plain)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        anchor, number = slug, 0
        while anchor in found:
            number += 1
            anchor = f"{slug}-{number}"
        found.add(anchor)
    return found | set(_HTML_ANCHOR.findall(text))


@cache
def anchors_in(path: Path) -> set[str]:
    """The anchors of a file."""
    return anchors_of(path.read_text(encoding="utf-8"))


def broken_links(document: Path) -> list[str]:
    """Links of a document that lead to no file, no folder or no heading."""
    broken = []
    for link in links_of(document.read_text(encoding="utf-8")):
        name, _, anchor = unquote(link).partition("#")
        target = (ROOT / name.lstrip("/") if name.startswith("/") else document.parent / name) if name else document
        resolved = target.resolve()
        is_within = resolved.is_relative_to(ROOT) and resolved.exists()
        if not is_within or (anchor and resolved.suffix == ".md" and anchor not in anchors_in(resolved)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_relative_links_and_anchors_resolve(document: Path) -> None:
    """A link that leads nowhere names itself here."""
    assert [] == broken_links(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_headings_skip_no_level(document: Path) -> None:
    """The operator's page shows runbooks, and screen readers follow the order of their headings."""
    headings = _HEADING.findall(_FENCE.sub("", document.read_text(encoding="utf-8")))
    levels = [0, *(len(marks) for marks, _ in headings)]

    assert [] == [
        title for (_, title), before, level in zip(headings, levels, levels[1:], strict=False) if level > before + 1
    ]


def test_links_in_the_catalogue_resolve() -> None:
    """Runbook links of reasons and alerts lead to a heading of a page."""
    text = "".join(path.read_text(encoding="utf-8") for path in _tracked("monitoring/*.yaml") + _tracked("k8s/*.yaml"))
    links = set(re.findall(r"docs/[\w/-]+\.md#[\w-]+", text))

    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        assert anchor in anchors_in(ROOT / name), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_in_inline_code_exist(document: Path) -> None:
    """A path in inline code is a file of the repository, from its root, from `service/` or from the document's folder."""
    spans = [
        match.group(0).strip("`")
        for match in _INLINE_CODE.finditer(_FENCE.sub("", document.read_text(encoding="utf-8")))
    ]
    paths = {span for span in spans if _PATH.fullmatch(span) and not span.startswith(_BUILT)}

    assert set() == {
        path for path in paths if not any((base / path).exists() for base in (ROOT, ROOT / "service", document.parent))
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_make_verbs_exist(document: Path) -> None:
    """Every `make` command in a document is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    code = "\n".join(match.group(0) for pattern in (_FENCE, _INLINE_CODE) for match in pattern.finditer(text))

    assert set() == set(_VERB.findall(code)) - targets


def test_identifiers_in_contributing_exist() -> None:
    """Each class and constant in inline code of CONTRIBUTING.md is a name in a Python file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    spans = {match.group(0).strip("`") for match in _INLINE_CODE.finditer(_FENCE.sub("", text))}
    names = {span for span in spans if re.fullmatch(r"_?[A-Z][A-Za-z_]+", span) and span not in {"_SECONDS", "_BYTES"}}
    sources = "".join(path.read_text(encoding="utf-8") for path in _tracked("*.py") if path != Path(__file__).resolve())

    assert names
    assert {name for name in names if not re.search(rf"\b{name}\b", sources)} == set()


def test_readme_is_short() -> None:
    """The README has at most 750 words, as `wc -w` counts them."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= README_WORDS


@pytest.mark.parametrize(
    ("title", "anchor"),
    [
        ("Kubernetes", "kubernetes"),
        ("TLS in front of the relay", "tls-in-front-of-the-relay"),
        ("@openai/agents-realtime", "openaiagents-realtime"),
        ("openai-agents (Python)", "openai-agents-python"),
        ("Per core, per 100 MB", "per-core-per-100-mb"),
        ("key_missing", "key_missing"),
        ("`make run` and *more*", "make-run-and-more"),
        ("A [link](x.md)", "a-link"),
    ],
)
def test_anchors_follow_the_rules_of_github(title: str, anchor: str) -> None:
    """Examples as GitHub renders them."""
    assert {anchor} == anchors_of(f"## {title}\n")


def test_repeated_headings_have_numbered_anchors() -> None:
    """The second of two equal headings ends in -1; a comment in a code block is no heading."""
    assert {"same", "same-1"} == anchors_of("# Same\n\n```sh\n# not a heading\n```\n\n## Same\n")


def test_links_in_code_are_not_checked() -> None:
    """Brackets in code are no links; a link around code is one."""
    text = "`[a](b.md)`\n\n```\n[c](d.md)\n```\n\n[`e`](f.md#g) ![h](i.svg) [j](https://example.com)\n"
    assert ["f.md#g", "i.svg"] == links_of(text)
