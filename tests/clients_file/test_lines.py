"""The line of every key and item of a TOML document is found, however it is written."""

import tomllib
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.clients_file.lines import KeyLines, Path

# Text that could be taken for the structure of a document.
HARMLESS = st.text(st.sampled_from("ab =[]{},.#'é\\ \t"), max_size=12)


class Writer:
    """Writes a document, and knows the line of each path."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    def note(self, path: Path) -> None:
        """The path begins in the current line."""
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def break_lines(self) -> None:
        """Blank lines and comments, in either convention."""
        for line in self.draw(st.lists(st.sampled_from(["", "  ", "# [x] = 1", '# "', "#'''"]), max_size=2)):
            self.text += line + self.draw(st.sampled_from(["\n", "\r\n"]))

    def key(self, name: str) -> str:
        """A key in one of its forms."""
        escaped = name.replace("a", "\\u0061")
        return str(self.draw(st.sampled_from([name, f'"{name}"', f"'{name}'", f'"{escaped}"', f" {name}\t"])))

    def value(self, path: Path, depth: int = 0) -> None:
        """A value in one of its forms."""
        kinds = [
            "basic",
            "literal",
            "basic lines",
            "literal lines",
            "scalar",
            *(["array", "inline"] if depth < 3 else []),
        ]
        match self.draw(st.sampled_from(kinds)):
            case "basic":
                self.text += (
                    '"' + self.draw(HARMLESS).replace("\\", "\\\\") + self.draw(st.sampled_from(["", '\\"'])) + '"'
                )
            case "literal":
                self.text += "'" + self.draw(HARMLESS).replace("'", "") + "'"
            case "basic lines":
                inner = self.draw(HARMLESS).replace("\\", "\\\\")
                end = self.draw(st.sampled_from(['"""', '""""', '"""""']))
                self.text += f'"""{inner}\n[x]\nk = "\\""x""y{end}'
            case "literal lines":
                self.text += (
                    "'''"
                    + self.draw(HARMLESS).replace("'", "")
                    + "\n''k' = 1"
                    + self.draw(st.sampled_from(["", "\n"]))
                    + "'''"
                )
            case "scalar":
                self.text += self.draw(st.sampled_from(["1", "-1_000", "true", "1e3", "1979-05-27 07:32:00", "nan"]))
            case "array":
                self.text += "["
                for index in range(self.draw(st.integers(0, 3))):
                    self.break_array()
                    self.note((*path, index))
                    self.value((*path, index), depth + 1)
                    self.break_array()
                    self.text += ","
                self.break_array()
                self.text += "]"
            case "inline":
                self.text += "{"
                for index in range(self.draw(st.integers(0, 3))):
                    self.text += ", " if index else " "
                    self.note((*path, f"a{index}"))
                    self.text += self.key(f"a{index}") + "="
                    self.value((*path, f"a{index}"), depth + 1)
                self.text += " }"

    def break_array(self) -> None:
        """Line breaks and comments within an array."""
        self.text += self.draw(st.sampled_from(["", " ", "\n", " # ], 'x\n", "\r\n"]))

    def document(self) -> None:
        """Pairs, tables, and arrays of tables."""
        for number in range(self.draw(st.integers(0, 2))):
            self.pair((), f"top{number}")
        for number in range(self.draw(st.integers(0, 3))):
            self.break_lines()
            table: Path = (f"t{number}", "sub a")
            is_array = self.draw(st.booleans())
            for index in range(self.draw(st.integers(1, 2)) if is_array else 1):
                self.break_lines()
                for path in (table[:1], table, *([(*table, index)] if is_array else [])):
                    self.note(path)
                header = f'{self.key(f"t{number}")}."sub a"'
                self.text += f"[[{header}]]\n" if is_array else f"[ {header} ] # ]\n"
                for inner in range(self.draw(st.integers(0, 2))):
                    self.pair((*table, index) if is_array else table, f"k{inner}")

    def pair(self, table: Path, name: str) -> None:
        """A key with its value, dotted or not."""
        self.break_lines()
        keys = (name, "x") if self.draw(st.booleans()) else (name,)
        for length in range(1, len(keys) + 1):
            self.note((*table, *keys[:length]))
        self.text += ".".join(map(self.key, keys)) + self.draw(st.sampled_from(["=", " = "]))
        self.value((*table, *keys))
        self.text += self.draw(st.sampled_from(["\n", " # x = [\n"]))


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """The paths of all keys and items of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


@given(st.data())
def test_line_of_every_key_and_item_is_found(data: st.DataObject) -> None:
    """A document that was written at random, with everything in it that looks like structure and is none."""
    writer = Writer(data.draw)
    writer.document()
    document = tomllib.loads(writer.text)
    lines = KeyLines(writer.text)

    assert {path: writer.lines[path] for path in paths(document)} == {
        path: lines.line_of(path) for path in paths(document)
    }


@given(st.text(st.sampled_from("ab=.[]{}\"'#,\\\n \r1"), max_size=60))
def test_scanner_ends_on_any_text(text: str) -> None:
    """A text that is not TOML gives a line within it."""
    assert 1 <= KeyLines(text).line_of(("a", 0, "b")) <= text.count("\n") + 1


def test_line_of_unknown_path_is_that_of_its_table() -> None:
    """A key that is missing is reported at the table that lacks it."""
    lines = KeyLines("x = 1\n[a]\nb = 2\n")

    assert [2, 2, 1] == [lines.line_of(path) for path in (("a", "missing"), ("a",), ("nowhere",))]


LONG = {
    "comments": "a = 1\n" + "#\n" * 100_000,
    "basic-string": 'a = "' + "\\n" * 100_000 + '"\n',
    "lines": 'a = """' + "\\\\\n" * 50_000 + '"""\n',
    "literal-lines": "a = '''" + "'' \n" * 50_000 + "'''\n",
    "quoted-key": '"' + "\\\\" * 50_000 + '" = 1\n',
}


@pytest.mark.parametrize("name", LONG)
def test_long_text_takes_no_memory_for_each_character(name: str) -> None:
    """A search that could be tried in another way would keep a state for each, and hold the interpreter's lock meanwhile."""
    text = f"{LONG[name]}b = 1\n"
    tracemalloc.start()
    lines = KeyLines(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert text.count("\n") == lines.line_of(("b",))
    assert peak < 30 * len(text)
