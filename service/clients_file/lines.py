"""Finds the line of each key and array item in a TOML document: `tomllib` reports none for values that it accepts. Pure.

The scanner reads documents that `tomllib` has accepted. It knows where strings, comments, arrays and inline tables end, and
nothing of the values. In another document it stops at the first thing that it does not know; what it found stays valid.
"""

import re
import tomllib
from bisect import bisect_right
from contextlib import suppress
from typing import Final

Path = tuple[str | int, ...]

# Possessive repetitions: what has been read of a group is not kept for another try. One search holds the interpreter's lock,
# and of a megabyte of comments it took a third of a second and 160 MB.
_KEY: Final = re.compile(r"""[ \t]*+(?P<key>[A-Za-z0-9_-]++|"(?:[^"\\\n]++|\\.)*+"|'[^'\n]*+')[ \t]*+(?P<dot>\.)?""")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_STRING: Final = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"""(?:"{1,2}(?!"))?'  # one or two quotation marks may precede the closing ones
    r"|'''(?:[^']++|'(?!''))*+'''(?:'{1,2}(?!'))?"
    r'|"(?:[^"\\\n]++|\\.)*+"'
    r"|'[^'\n]*+'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(r"[^,\]}\n#]+")


class _Unknown(Exception):
    """The scanner does not know what follows."""


class KeyLines:
    """The lines of a document's keys, counted from 1. The path of an array's item ends with its index, from 0."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._breaks = [found.start() for found in re.finditer("\n", self._text)]
        self._lines: dict[Path, int] = {}
        self._tables_in: dict[Path, int] = {}  # how many tables each array of tables has so far
        with suppress(_Unknown, RecursionError):
            self._scan()

    def line_of(self, path: Path) -> int:
        """The line of a key; of the nearest table or array around it if its own is unknown, and 1 if none is."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._lines:
                return self._lines[path[:length]]
        return 1

    def _scan(self) -> None:
        position, table = 0, Path()
        while (position := self._skip_blank(position)) < len(self._text):
            if self._text[position] == "[":
                position, table = self._header(position)
            else:
                position = self._pair(position, table)

    def _header(self, position: int) -> tuple[int, Path]:
        start, is_array = position, self._text.startswith("[[", position)
        keys, position = self._keys(position + (2 if is_array else 1))
        table = Path()
        for index, key in enumerate(keys):
            table = (*table, key)
            is_last = index == len(keys) - 1
            self._note(table, start, is_declaration=is_last and not is_array)
            if is_array and is_last:
                self._tables_in[table] = self._tables_in.get(table, 0) + 1
            if table in self._tables_in:
                table = (*table, self._tables_in[table] - 1)
                self._note(table, start)
        end = "]]" if is_array else "]"
        if not self._text.startswith(end, position):
            raise _Unknown
        return position + len(end), table

    def _pair(self, position: int, table: Path) -> int:
        start = position
        keys, position = self._keys(position)
        for length in range(1, len(keys) + 1):
            self._note((*table, *keys[:length]), start)
        position = self._expect("=", position)
        return self._value(position, (*table, *keys))

    def _keys(self, position: int) -> tuple[tuple[str, ...], int]:
        keys: list[str] = []
        while found := _KEY.match(self._text, position):
            keys.append(_plain(found["key"]))
            position = found.end()
            if found["dot"] is None:
                return tuple(keys), position
        raise _Unknown

    def _value(self, position: int, path: Path) -> int:
        if found := _STRING.match(self._text, position):
            return found.end()
        match self._text[position : position + 1]:
            case "[":
                return self._array(position, path)
            case "{":
                return self._inline_table(position, path)
        if found := _SCALAR.match(self._text, position):
            return found.end()
        raise _Unknown

    def _array(self, position: int, path: Path) -> int:
        index, position = 0, position + 1
        while (position := self._skip_blank(position)) < len(self._text):
            if self._text[position] == "]":
                return position + 1
            self._note((*path, index), position)
            position = self._skip_blank(self._value(position, (*path, index)))
            index += 1
            if self._text.startswith(",", position):
                position += 1
        raise _Unknown

    def _inline_table(self, position: int, path: Path) -> int:
        position += 1
        while (position := self._skip_blank(position)) < len(self._text):
            if self._text[position] == "}":
                return position + 1
            position = self._skip_blank(self._pair(position, path))
            if self._text.startswith(",", position):
                position += 1
        raise _Unknown

    def _skip_blank(self, position: int) -> int:
        found = _BLANK.match(self._text, position)
        return found.end() if found else position

    def _expect(self, character: str, position: int) -> int:
        if not self._text.startswith(character, position):
            raise _Unknown
        return self._skip_blank(position + 1)

    def _note(self, path: Path, position: int, *, is_declaration: bool = False) -> None:
        """Keep the first line of a path, and the header of a table rather than a key that implies it."""
        line = bisect_right(self._breaks, position) + 1
        if is_declaration:
            self._lines[path] = line
        else:
            self._lines.setdefault(path, line)


def _plain(key: str) -> str:
    """A key without its quotation marks and escapes."""
    if key[0] not in "\"'":
        return key
    try:
        return str(tomllib.loads(f"key = {key}")["key"])
    except tomllib.TOMLDecodeError:
        raise _Unknown from None
