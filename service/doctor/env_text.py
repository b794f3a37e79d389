"""Parses the text of a `.env` file and remarks on what editors, shells and Docker do to it. Pure.

No remark holds a value.
"""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dotenv.parser import Binding, parse_stream

from service.realtime.keys import family_of
from service.settings import SETTING_NAMES

KEY: Final = "OPENAI_API_KEY"
_UTF16_BYTE_ORDER_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_UTF8_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_QUOTED: Final = re.compile(r"=\s*[\"']")
_SPACED: Final = re.compile(r"^\s*(?:export\s+)?[^=\s]+(?:[ \t]+=|=[ \t]+[^\s#])")
_PLACEHOLDER: Final = re.compile(r"\.\.\.|your|here|<|xxx", re.IGNORECASE)
_KEY_FAMILIES: Final = frozenset({"project key", "service account key", "user key"})
_MIN_KEY_LENGTH: Final = 20


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark on a file. `is_lossy`: something is not read. `explains_missing_key`: the key may be what is not read."""

    text: str
    is_lossy: bool = False
    explains_missing_key: bool = False


@dataclass(frozen=True, slots=True)
class EnvText:
    """The text of a `.env` file: the names that it sets, remarks, and whether it sets a key that is not a placeholder."""

    names: frozenset[str] = frozenset()
    remarks: tuple[Remark, ...] = ()
    holds_key: bool = False

    @property
    def holds_setting(self) -> bool:
        """Whether it sets any setting of the relay."""
        return bool(self.names & SETTING_NAMES)


_UTF16: Final = Remark(
    "is UTF-16 text, which PowerShell's '>' writes, and cannot be read; save it as UTF-8",
    is_lossy=True,
    explains_missing_key=True,
)
_BYTE_ORDER_MARK: Final = Remark(
    "begins with a byte order mark: the relay skips it, but shells and 'docker run --env-file' do not; save it as UTF-8 "
    "without BOM"
)
_CARRIAGE_RETURNS: Final = Remark(
    "has Windows line endings (CR LF): the relay accepts them, but shells and 'docker run --env-file' keep the CR in each "
    "value; save it with LF"
)


def parse_env_text(data: bytes) -> EnvText:
    """Parse the bytes of a `.env` file. Accepts any bytes."""
    if data.startswith(_UTF16_BYTE_ORDER_MARKS) or b"\x00" in data:
        return EnvText(remarks=(_UTF16,))
    text = data.removeprefix(_UTF8_BYTE_ORDER_MARK).decode("utf-8", "replace")
    bindings = list(parse_stream(io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n"))))
    values = {binding.key: binding.value for binding in bindings if binding.key and (binding.value or "").strip()}
    remarks = [_BYTE_ORDER_MARK] if data.startswith(_UTF8_BYTE_ORDER_MARK) else []
    if "\r" in text:
        remarks.append(_CARRIAGE_RETURNS)
    remarks += [*_line_remarks(bindings), *_repeated_names(bindings)]
    return EnvText(frozenset(values), tuple(remarks), _is_filled_in(values.get(KEY) or ""))


def is_misplaced_key(value: str) -> bool:
    """Whether the value of some other variable has the shape of an OpenAI key."""
    return len(value) > _MIN_KEY_LENGTH and family_of(value.strip()).name in _KEY_FAMILIES


def _line_remarks(bindings: Iterable[Binding]) -> Iterator[Remark]:
    line_breaks = 0  # dotenv's own line number is that of the blank lines before a binding
    for binding in bindings:
        source = binding.original.string
        line = line_breaks + 1 + source[: len(source) - len(source.lstrip())].count("\n")
        line_breaks += source.count("\n")
        if binding.error:
            yield Remark(f"line {line} is not NAME=value and is not read; correct or remove it", is_lossy=True)
        elif binding.key in SETTING_NAMES:
            if text := _setting_remark(binding.key, binding.value, source):
                yield Remark(f"line {line}: {text}")
        elif binding.key and binding.value and is_misplaced_key(binding.value):
            yield Remark(
                f"line {line}: {binding.key} holds what looks like an OpenAI key, but the relay reads {KEY}; rename it",
                explains_missing_key=True,
            )


def _setting_remark(name: str, value: str | None, source: str) -> str | None:
    if value is None:
        return f"{name} has no '='; write {name}=value"
    if not value.strip():
        return f"{name} is empty, which counts as unset"
    if _QUOTED.search(source):
        return f"the relay removes the quotes around {name}, but 'docker run --env-file' keeps them; remove them"
    if _SPACED.search(source.lstrip()):
        return f"the relay removes the spaces around the '=' of {name}, but shells reject them; remove them"
    return None


def _repeated_names(bindings: Iterable[Binding]) -> Iterator[Remark]:
    names = [binding.key for binding in bindings if binding.key in SETTING_NAMES and binding.value is not None]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield Remark(f"sets {name} {names.count(name)} times; the last value is used; remove the others")


def _is_filled_in(key: str) -> bool:
    """Whether a key is more than a placeholder. What is wrong with it is left to the lint of the step `key`."""
    return len(key.strip()) >= _MIN_KEY_LENGTH and not _PLACEHOLDER.search(key)
