"""Recognizes the names of settings in text that is not understood. Pure.

A name counts as meant where it is written in another case, with other separators, with invisible characters or with letters
of another script that look alike: what a person reads as the name of a setting is one.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from service.realtime.redaction import redact

_PREFIX: Final = "RELAY_"
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Mn"})
_PLAIN_NAME: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_ESCAPED_BREAK: Final = re.compile(r"\\[nrt]")
_NAMES_OF_MAILERS: Final = frozenset({"RELAY_HOST", "RELAY_PORT"})  # SMTPRELAY_HOST is that of another program
_TRAILING_COMMENT: Final = re.compile(r"(?<=\S)\s#[^#]*$")
_MAX_WORD: Final = 100
_NAMES_SHOWN: Final = 6
_MAX_SHOWN: Final = 40


class SettingNames:
    """The names of all settings, and the names that begin like one."""

    def __init__(self, known: Iterable[str]) -> None:
        self.known = frozenset(known)
        longest_first = sorted(self.known, key=lambda name: (-len(name), name))
        exact = "|".join(map(re.escape, longest_first))
        loose = "|".join(r"[\W_]{1,3}".join(name.split("_")) for name in longest_first)
        self._mentioned = re.compile(
            rf"(?<![A-Za-z0-9_])(?:(?:{loose})(?![A-Za-z0-9_])|RELAY_(?:[A-Z]|\s|$)|(?<=\[)RELAY(?=\]))", re.IGNORECASE
        )
        self._assigned = re.compile(rf"(?<![$_{{])(?:{exact}|(?<![A-Z0-9]){_PREFIX}[A-Z0-9_]+)[ \t]*=")
        self._glued = re.compile(
            rf"(?<![^\s#])[\w(][\w.,;!?()'-]*(?<=[^\W_]|[.!?)])(?:export[ \t]+)?(?:{exact})[ \t]*=[ \t]*"
            r"(?:\"[^\"]*\"|'[^']*'|\S*)\s*$"
        )
        own = "|".join(name for name in longest_first if name.startswith(_PREFIX) and name not in _NAMES_OF_MAILERS)
        self._joined = re.compile(rf".*[^_${{]({own})", re.DOTALL)
        self._listed = re.compile(rf"(?<![A-Z0-9_])(?:{exact})(?![A-Z0-9_])")

    def may_be_named(self, text: str) -> bool:
        """Whether a text that is not understood may name a setting."""
        if self._mentioned.search(_visible(_ESCAPED_BREAK.sub("\n", text))):
            return True
        return any(self._similar_to(word) for word in re.split(r"[\s=:;,\"']+", text) if not word.isascii())

    def meant_by(self, name: str) -> str | None:
        """The setting that a misspelt name means; None for the name of another program.

        A plain `OPENAI_...`, in any case, can be the name of another program, and an unknown `RELAY_...` that of another
        version of the relay: both only warn.
        """
        joined = self._joined.fullmatch(name)  # a file without a line feed at its end, to which a line was appended
        if joined is not None:
            return joined.group(1)
        if any(unicodedata.category(character) == "Cc" for character in name):
            return self._found_in(name) or "NAME"
        if _PLAIN_NAME.fullmatch(name) or (name.upper() in self.known and not name.upper().startswith(_PREFIX)):
            return None
        return self._meant_by_odd_name(name)

    def _meant_by_odd_name(self, name: str) -> str | None:
        visible = re.sub(r"[.-]", "_", _visible(name).upper())
        found = self._listed.search(visible)
        if found is not None and (found.group() == visible or not _IDENTIFIER.fullmatch(name)):
            return found.group()
        similar = self._similar_to(name)
        if similar is None and not _IDENTIFIER.fullmatch(name) and self.may_be_named(name):
            return "NAME"
        return similar

    def _found_in(self, text: str) -> str | None:
        return next((name for name in sorted(self.known, key=len, reverse=True) if name in text), None)

    def _similar_to(self, word: str) -> str | None:
        """The setting that a word is, if each of its characters that is not ASCII replaces one letter."""
        if word.isascii() or len(word) > _MAX_WORD:
            return None
        visible = _visible(word).upper()
        if sum(character.isascii() for character in visible) * 3 < len(visible):
            return None
        candidates = (name for name in sorted(self.known) if len(name) == len(visible))
        return next(
            (n for n in candidates if all(a == b or not a.isascii() for a, b in zip(visible, n, strict=True))), None
        )

    def is_assigned_in(self, text: str) -> bool:
        """Whether a text holds `NAME=` of a setting, also if it is joined to what precedes it."""
        return self._assigned.search(text) is not None

    def begins(self, text: str) -> bool:
        """Whether a text begins with the assignment of a setting."""
        return self._assigned.match(re.sub(r"^\s*(?:export\s+)?", "", text)) is not None

    def is_glued_in(self, text: str) -> bool:
        """Whether a comment ends in a setting that was appended to it without a line break.

        That is the case only if its last word is a word of prose with `NAME=value` joined to it. A URL, an option of a
        command, a longer name, text after the value, and a blank or `#` before the name make it an ordinary comment.
        """
        return any(self._glued.search(part) for part in (text, _TRAILING_COMMENT.sub("", text)))

    def listed_in(self, text: str) -> str:
        """The settings that a text names, as a list for people; empty if it names none."""
        names = sorted(set(self._listed.findall(text)))
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        return ", ".join(names[:_NAMES_SHOWN]) + more


def printable_name(name: str) -> str:
    """A variable's name for messages. A longer text than a name can hold a value, such as a key: only its length is shown."""
    if len(name) <= _MAX_SHOWN and redact(name) == name:
        return ascii(name)[1:-1]
    return f"{re.sub(r'[^A-Z_].*', '', name.upper()[:12], flags=re.DOTALL)}..., {len(name)} characters"


@lru_cache(maxsize=4)
def setting_names(known: frozenset[str]) -> SettingNames:
    """The matcher of a set of names; compiled once."""
    return SettingNames(known)


def _visible(text: str) -> str:
    """The text as it looks: full-width letters as plain ones, without invisible characters."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if c in "\t\r\n" or unicodedata.category(c) not in _INVISIBLE)
