"""Decodes and parses the text of a `.env` file, for the relay and for the doctor. Pure.

Rules of this file:

* A file counts as read only if all of it was decoded and every line that names a setting, or may name one, was understood.
  Anything else is a `Flaw`, and no relay starts with one: the line that was lost can be the one that closes access.
* A line that is not understood and names no setting is a stray line: the file can belong to several programs.
* No text of a flaw or a stray line holds a value.
* An empty value counts as unset, so that it does not hide a value in an earlier line of the file either.
"""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from service.settings.env_names import SettingNames

UTF8_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_UTF16_BYTE_ORDER_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_LINE_BREAK: Final = re.compile(r"\r\n|\n|\r")
_UTF16_NUL_SHARE: Final = (0.3, 0.8)  # of ASCII characters in UTF-16 every second byte is NUL, in UTF-32 three of four
_BYTE_LINE_BREAK: Final = re.compile(rb"\r\n|\n|\r")
_ODD_LINE_BREAK: Final = re.compile("[\v\f\x1c-\x1e\x85\u2028\u2029]")
_CONFLICT_MARKER: Final = re.compile(r"(?:<{7}|>{7})(?:[ \t].*)?")  # between them one of two settings is not decided
_COMMENT: Final = re.compile(r"(?:^|\s)#.*")
_HASH_VALUE: Final = re.compile(r"=[^\S\r\n]+#\S")
_QUOTE: Final = re.compile(r"=[^\S\r\n]*[\"']")
_MIN_STRAYS: Final = 2  # without any NAME=value: an encrypted file, a web page, a pointer of Git LFS
_MAX_REPORTED: Final = 20
_STRAY_REMEDY: Final = "correct or remove it"


@dataclass(frozen=True, slots=True)
class Flaw:
    """What was not understood, as the rest of a sentence that begins with the file's name, and the remedy."""

    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.sentence}; {self.remedy}"


@dataclass(frozen=True, slots=True)
class Statement:
    """One line, or several if a quoted value spans them. `name` is None for a comment, blank lines and what is not parsed."""

    line: int
    last_line: int
    name: str | None
    value: str | None
    source: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class EnvText:
    """A parsed file: its statements, what prevents its use, and lines of no setting that were not understood."""

    statements: tuple[Statement, ...] = ()
    flaws: tuple[Flaw, ...] = ()
    strays: tuple[Flaw, ...] = ()

    def values(self) -> dict[str, str]:
        """The last value of each name that is not empty, else the empty one."""
        values: dict[str, str] = {}
        for statement in self.statements:
            if (
                statement.name
                and statement.value is not None
                and (statement.value.strip() or statement.name not in values)
            ):
                values[statement.name] = statement.value
        return values

    def lines(self) -> dict[str, int]:
        """The line of the value of each name."""
        values = self.values()
        return {s.name: s.line for s in self.statements if s.name and s.value is not None and s.value == values[s.name]}


def parse_env_text(data: bytes, names: SettingNames, file_name: str) -> EnvText:
    """Parse the bytes of a `.env` file. Accepts any bytes."""
    text, flaws = _decode(data, names, file_name)
    statements = tuple(_statements(text))
    strays: list[Flaw] = []
    flawed: set[int] = set()
    for before, statement in pairwise((None, *statements)):
        if statement is not None and (wrong := _wrong_with(statement, names)) is not None:
            is_flaw = _may_concern_setting(statement, names) or _continues(before, statement, names)
            (flaws if is_flaw else strays).append(wrong)
            if is_flaw:
                flawed.add(statement.line)
    if len(strays) >= _MIN_STRAYS and not any(statement.value is not None for statement in statements):
        flaws.append(Flaw("has no line of the form NAME=value: it is no .env file", "replace or remove it"))
    # The value of a flawed line is not used: it can hold a secret that the report of another setting would show.
    understood = tuple(replace(s, value=None) if s.line in flawed else s for s in statements)
    return EnvText(
        understood,
        _shortened(flaws),
        (*_shortened(strays), *_shortened([*_repeated(understood, names), *_emptied(understood, names)])),
    )


def _shortened(flaws: list[Flaw]) -> tuple[Flaw, ...]:
    more = len(flaws) - _MAX_REPORTED
    if more <= 0:
        return tuple(flaws)
    return (*flaws[:_MAX_REPORTED], Flaw(f"has {more} more lines like these", "check that it is the intended file"))


def _repeated(statements: Iterable[Statement], names: SettingNames) -> Iterator[Flaw]:
    """Settings that the file sets to different values, or to a value and then to nothing."""
    found: dict[str, list[tuple[int, str]]] = {}
    for statement in statements:
        if statement.name in names.known and statement.value is not None:
            found.setdefault(statement.name or "", []).append((statement.line, statement.value.strip()))
    for name, places in sorted(found.items()):
        lines = [line for line, value in places if value]
        emptied = [line for line, value in places if not value and lines and line > lines[0]]
        if len({value for _, value in places if value}) > 1:
            yield Flaw(
                f"sets {name} to different values in lines {', '.join(map(str, lines))}",
                f"line {lines[-1]} is used; remove the others",
            )
        elif emptied:
            yield Flaw(
                f"sets {name} in line {lines[-1]} and to nothing in line {emptied[-1]}",
                f"the value in line {lines[-1]} is used, because an empty one counts as unset; remove one of the two lines",
            )


def _emptied(statements: Iterable[Statement], names: SettingNames) -> Iterator[Flaw]:
    """Settings whose value may be what follows a '#', which is a comment after a blank."""
    for statement in statements:
        if statement.name in names.known and statement.value == "" and _HASH_VALUE.search(statement.source):
            yield Flaw(
                f"line {statement.line}: {statement.name} is empty, because '#' after a blank begins a comment",
                "if it is the value, put it in quotation marks, or remove the blank or the '#'",
            )


# -- decoding ---------------------------------------------------------------------------------------------------------


def _decode(data: bytes, names: SettingNames, file_name: str) -> tuple[str, list[Flaw]]:
    """The lines that are UTF-8 text, and what is wrong with the others."""
    start = 0
    if not data.startswith(_UTF16_BYTE_ORDER_MARKS):
        data = data.removeprefix(UTF8_BYTE_ORDER_MARK)
        nul = data.find(b"\0")
        start = len(data) if nul < 0 else _line_start(data, nul)
    text, flaws = _decode_lines(data[:start], names, file_name)
    if start < len(data):
        flaws.append(_nul_flaw(data, start, names, file_name))
    return text, flaws


def _decode_lines(data: bytes, names: SettingNames, file_name: str) -> tuple[str, list[Flaw]]:
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as exc:
        position = exc.start
    # The lines that can be decoded are parsed, so that what is wrong with them is reported at the same time.
    lines = _LINE_BREAK.sub("\n", data.decode("utf-8", "replace")).split("\n")
    lost = names.listed_in("\n".join(line for line in lines if "\ufffd" in line and not line.lstrip().startswith("#")))
    flaw = Flaw(
        f"is not UTF-8 text from line {_line_number(data, position)} on (byte 0x{data[position]:02x}){_not_read(lost)}",
        f"save the file as UTF-8; if it is Latin-1: iconv -f LATIN1 -t UTF-8 {file_name} > new && mv new {file_name}",
    )
    return "\n".join("" if "\ufffd" in line else line for line in lines), [flaw]


def _nul_flaw(data: bytes, start: int, names: SettingNames, file_name: str) -> Flaw:
    rest = data[start:]
    lost = _not_read(names.listed_in(rest.replace(b"\0", b"").decode("latin-1")))
    line = _line_number(data, start)
    if (
        rest.startswith(_UTF16_BYTE_ORDER_MARKS)
        or _UTF16_NUL_SHARE[0] < rest.count(b"\0") / len(rest) < _UTF16_NUL_SHARE[1]
    ):
        return Flaw(
            f"is UTF-16 text from line {line} on, which PowerShell's '>' and '>>' write{lost}",
            "delete these lines and write them again as UTF-8; "
            f"in PowerShell: Add-Content -Encoding utf8 {file_name} 'NAME=value'",
        )
    return Flaw(f"has NUL bytes from line {line} on{lost}", "save the file as UTF-8 text")


def _not_read(names: str) -> str:
    return f"; not read: {names}" if names else ""


def _line_start(data: bytes, position: int) -> int:
    return max(data.rfind(b"\n", 0, position), data.rfind(b"\r", 0, position)) + 1


def _line_number(data: bytes, position: int) -> int:
    return len(_BYTE_LINE_BREAK.findall(data[:position])) + 1


# -- parsing ----------------------------------------------------------------------------------------------------------


def _statements(text: str) -> Iterator[Statement]:
    from dotenv.parser import parse_stream  # noqa: PLC0415 - only for a file: it takes a tenth of the time of a probe

    # Not dotenv_values(): it reports lines that it cannot parse to a logger of its own, in the middle of our output.
    breaks = 0  # dotenv's own line number is that of the blank lines before a statement
    for binding in parse_stream(io.StringIO(_LINE_BREAK.sub("\n", text))):
        source = binding.original.string
        stripped = source.strip()
        first = breaks + 1 + source[: len(source) - len(source.lstrip())].count("\n")
        yield Statement(first, first + stripped.count("\n"), binding.key, binding.value, stripped, binding.error)
        breaks += source.count("\n")


def _wrong_with(statement: Statement, names: SettingNames) -> Flaw | None:
    source, where = statement.source, f"line {statement.line}"
    if statement.last_line > statement.line and statement.is_error:
        where = f"lines {statement.line} to {statement.last_line}"
    if _CONFLICT_MARKER.fullmatch(source):
        return Flaw(f"{where} is a marker of a merge conflict", "resolve the conflict and remove the markers")
    if (hidden := _hidden_setting(source, where, names)) is not None or source.startswith("#"):
        return hidden
    if statement.is_error:
        return _unparsed(statement, where, names)
    if statement.name is None:
        return None
    return _wrong_with_assignment(statement, where, names)


def _unparsed(statement: Statement, where: str, names: SettingNames) -> Flaw:
    is_or_are, was_or_were = ("is", "was") if statement.last_line == statement.line else ("are", "were")
    named = names.listed_in(statement.source)
    remedy = f"write {named}=value, or remove it" if named in names.known else _STRAY_REMEDY
    if _QUOTE.search(statement.source):
        remedy += "; check for a quotation mark that is not closed"
    lost = f" ({named})" if named else ""
    return Flaw(f"{where} {is_or_are} not NAME=value and {was_or_were} not read{lost}", remedy)


def _hidden_setting(source: str, where: str, names: SettingNames) -> Flaw | None:
    """A setting that a comment or a line separator of another kind hides."""
    comment = _COMMENT.search(source.rpartition("\n")[2])
    if comment is not None and names.is_glued_in(comment.group()):
        return Flaw(f"{where} has a comment to which a setting was appended", "put the setting on a line of its own")
    parts = _ODD_LINE_BREAK.split(source)[1:]
    if any(names.is_assigned_in(part) for part in parts if not part.lstrip().startswith("#")):
        return Flaw(f"{where} has an unusual line separator, which hides a setting", "replace it by a line feed")
    return None


def _wrong_with_assignment(statement: Statement, where: str, names: SettingNames) -> Flaw | None:
    name, value, source = statement.name or "", statement.value, statement.source
    is_ours = name in names.known
    if value is None and is_ours:
        return Flaw(f"{where}: {name} has no '='", f"write {name}=value")
    if value is None:
        return _unparsed(statement, where, names)
    if (meant := names.meant_by(name)) is not None:
        return Flaw(f"{where} has a name that resembles a setting of the relay but is not one", f"write {meant}=value")
    if is_ours and "\n" in value:
        last = statement.last_line
        return Flaw(
            f"{where}: the quotation mark after {name}= is closed in line {last} only", "close it in the same line"
        )
    if _swallows_setting(statement, value, names, is_ours=is_ours):
        whole = (
            "" if is_ours or _QUOTE.search(source) else "; if it is part of the value, put the value in quotation marks"
        )
        return Flaw(
            f"{where}: the value of {name if is_ours else 'this line'} contains another setting, which was not read",
            f"put each setting on a line of its own, and close quotation marks in the same line{whole}",
        )
    return None


def _swallows_setting(statement: Statement, value: str, names: SettingNames, *, is_ours: bool) -> bool:
    first, _, others = statement.source.partition("\n")
    if is_ours or not _QUOTE.search(first):
        return names.is_assigned_in(value)
    if names.is_assigned_in(others.rpartition("\n")[2]):  # after the closing quotation mark
        return True
    # A quoted value of another program can contain a command that names a setting; a line of it that begins so is swallowed.
    return any(names.begins(line) for line in re.split(r"[\r\n]|" + _ODD_LINE_BREAK.pattern, value))


def _continues(before: Statement | None, statement: Statement, names: SettingNames) -> bool:
    """Whether a line that is not understood can be the value of the setting before it, which is empty."""
    return (
        before is not None
        and before.name in names.known
        and not (before.value or "").strip()
        and statement.line == before.last_line + 1
    )


def _may_concern_setting(statement: Statement, names: SettingNames) -> bool:
    """Whether a statement that is not understood may concern a setting."""
    source = statement.source
    if statement.value is not None or source.startswith("#") or _CONFLICT_MARKER.fullmatch(source):
        return True
    text = "\n".join(_COMMENT.sub("", line) for line in source.split("\n"))
    return names.may_be_named(text) or names.is_assigned_in(text)
