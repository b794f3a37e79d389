"""Remarks on the text of a `.env` file: what the relay does not read, and what editors, shells and Docker do to it. Pure.

The relay's own parser reads the text, so that relay and doctor report the same. No remark holds a value.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from service.realtime.keys import family_of
from service.settings import SETTING_NAMES
from service.settings import envtext as parser
from service.settings.env_names import setting_names
from service.settings.envtext import UTF8_BYTE_ORDER_MARK, Statement

KEY: Final = "OPENAI_API_KEY"
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
    """The text of a `.env` file: its names, remarks, whether it sets a key that is no placeholder, and is read whole."""

    names: frozenset[str] = frozenset()
    remarks: tuple[Remark, ...] = ()
    holds_key: bool = False
    is_whole: bool = True

    @property
    def holds_setting(self) -> bool:
        """Whether it sets any setting of the relay."""
        return bool(self.names & SETTING_NAMES)


_BYTE_ORDER_MARK: Final = Remark(
    "begins with a byte order mark: the relay skips it, but shells and 'docker run --env-file' do not; save it as UTF-8 "
    "without BOM"
)
_CARRIAGE_RETURNS: Final = Remark(
    "has Windows line endings (CR LF): the relay accepts them, but shells and 'docker run --env-file' keep the CR in each "
    "value; save it with LF"
)


def parse_env_text(data: bytes, file_name: str = ".env") -> EnvText:
    """Parse the bytes of a `.env` file. Accepts any bytes."""
    text = parser.parse_env_text(data, setting_names(SETTING_NAMES), file_name)
    values = {name: value for name, value in text.values().items() if value.strip()}
    remarks = [Remark(str(flaw), is_lossy=True, explains_missing_key=True) for flaw in text.flaws]
    remarks += [Remark(str(stray), is_lossy=True) for stray in text.strays]
    if data.startswith(UTF8_BYTE_ORDER_MARK):
        remarks.append(_BYTE_ORDER_MARK)
    if b"\r" in data:
        remarks.append(_CARRIAGE_RETURNS)
    remarks += _line_remarks(text.statements)
    return EnvText(frozenset(values), tuple(remarks), _is_filled_in(values.get(KEY) or ""), is_whole=not text.flaws)


def is_misplaced_key(value: str) -> bool:
    """Whether the value of some other variable has the shape of an OpenAI key."""
    return len(value) > _MIN_KEY_LENGTH and family_of(value.strip()).name in _KEY_FAMILIES


def _line_remarks(statements: Iterable[Statement]) -> Iterator[Remark]:
    for statement in statements:
        name, value = statement.name, statement.value
        if name is None or value is None:
            continue
        if name in SETTING_NAMES:
            if text := _setting_remark(name, value, statement.source):
                yield Remark(f"line {statement.line}: {text}")
        elif is_misplaced_key(value):
            yield Remark(
                f"line {statement.line}: {name} holds what looks like an OpenAI key, but the relay reads {KEY}; rename it",
                explains_missing_key=True,
            )


def _setting_remark(name: str, value: str, source: str) -> str | None:
    if not value.strip():
        return f"{name} is empty, which counts as unset"
    if _QUOTED.search(source):
        return f"the relay removes the quotes around {name}, but 'docker run --env-file' keeps them; remove them"
    if _SPACED.search(source.lstrip()):
        return f"the relay removes the spaces around the '=' of {name}, but shells reject them; remove them"
    return None


def _is_filled_in(key: str) -> bool:
    """Whether a key is more than a placeholder. What is wrong with it is left to the lint of the step `key`."""
    return len(key.strip()) >= _MIN_KEY_LENGTH and not _PLACEHOLDER.search(key)
