"""Reads one table of a clients file: takes its keys, collects mistakes with their lines, and refuses what is left. Pure."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from service.clients_file.lines import KeyLines, Path
from service.clients_file.mistakes import Mistake, NotAccepted, described, shown
from service.clients_file.values import ItemsNotAccepted, Parser

_T = TypeVar("_T")
_SIMILARITY: Final = 0.6


class Mistakes:
    """The mistakes of one file."""

    def __init__(self, file: str, lines: KeyLines) -> None:
        self._file = file
        self._lines = lines
        self._found: list[Mistake] = []

    def add(self, path: Path, predicate: str, remedy: str) -> None:
        """Add a mistake at a path; `predicate` is the sentence without its subject, which is the path."""
        name = ""
        for key in path:
            name += f"[{key}]" if isinstance(key, int) else f".{shown(key)}" if name else shown(key)
        self._found.append(Mistake(self._file, self._lines.line_of(path), f"{name} {predicate}", remedy))

    def in_order(self) -> list[Mistake]:
        """All mistakes in the order of the file."""
        return sorted(self._found, key=lambda mistake: mistake.line or 0)


class Table:
    """A table whose keys are taken one by one. `close` reports the keys that no call has taken."""

    def __init__(self, value: object, path: Path, mistakes: Mistakes) -> None:
        self.path = path
        self.mistakes = mistakes
        self._rest: dict[str, Any] = {}
        self._known: list[str] = []
        if isinstance(value, dict):
            self._rest = dict(value)
        else:
            mistakes.add(path, f"is {described(value)}, not a table", f"Write a header such as {_header(path)}")

    def __contains__(self, key: str) -> bool:
        return key in self._rest

    def take(self, key: str, parser: Parser[_T]) -> _T | None:
        """The parsed value of a key; None if it is missing or not accepted. None can also be a value: see `take_into`."""
        found: dict[str, _T] = {}
        self.take_into(found, key, parser, key)
        return found.get(key)

    def take_into(self, found: dict[str, Any], key: str, parser: Parser[Any], field: str) -> None:
        """Put the parsed value of a key into `found`, if it is there and accepted."""
        self._known.append(key)
        if key not in self._rest:
            return
        value, path = self._rest.pop(key), (*self.path, key)
        try:
            found[field] = parser(value)
        except ItemsNotAccepted as problem:
            for index, cause in problem.causes.items():
                self.mistakes.add((*path, index), cause.predicate, cause.remedy)
        except NotAccepted as problem:
            self.mistakes.add(path, problem.predicate, problem.remedy)

    def table(self, key: str) -> "Table | None":
        """A table within this one; None if it is missing."""
        self._known.append(key)
        if key not in self._rest:
            return None
        path = (*self.path, key)
        return Table(self._rest.pop(key), path, self.mistakes)

    def tables(self) -> "Iterable[tuple[str, Table]]":
        """All values of this table, each a table, by their keys."""
        rest, self._rest = self._rest, {}
        return [(key, Table(value, (*self.path, key), self.mistakes)) for key, value in rest.items()]

    def require(self, *keys: str, example: Mapping[str, str]) -> None:
        """Report keys that are missing; call it before they are taken."""
        for key in keys:
            if key not in self._rest:
                self.mistakes.add(self.path, f"has no {key}", f"Add it, for example {key} = {example[key]}")

    def close(self, *, home: str | None = None) -> None:
        """Report the keys that are unknown here; `home` is the key of the table in which an unknown table may belong."""
        for key, value in self._rest.items():
            intended = _intended(key, self._known)
            if intended is None and home is not None and isinstance(value, dict):
                intended = f"[{home}.{shown(key)}]"
            remedy = f"Write {intended}" if intended else f"Remove it; known here are {', '.join(self._known)}"
            self.mistakes.add((*self.path, key), "is unknown", remedy)


def _intended(key: str, known: Sequence[str]) -> str | None:
    """The known key that an unknown one may stand for: the first that continues it, such as token_sha256 for token."""
    longer = (name for name in known if name.startswith(f"{key}_"))
    return next(longer, None) or next(iter(difflib.get_close_matches(key, known, 1, _SIMILARITY)), None)


def _header(path: Path) -> str:
    return f"[{'.'.join(shown(key) for key in path if isinstance(key, str))}]"
