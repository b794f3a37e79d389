"""What the sources of the settings say about each other, and what is odd in the text of a `.env` file. Pure.

Sentences never hold a value; of a key they hold its fingerprint.
"""

import difflib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dotenv.parser import Binding, parse_stream

from service.realtime.keys import family_of, fingerprint
from service.settings import SETTING_NAMES, SETTINGS
from service.settings.envfiles import ENVIRONMENT_ORIGIN, Layers

KEY: Final = "OPENAI_API_KEY"
SIMULATOR_PREFIX: Final = "sk-sim-"
_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_QUOTED: Final = re.compile(r"=\s*[\"']")
_SPACED: Final = re.compile(r"^\s*(?:export\s+)?[^=\s]+(?:[ \t]+=|=[ \t]+[^\s#])")
# What other programs and older SDKs call a setting that is called otherwise here.
_MEANT: Final = {
    "OPENAI_API_BASE": "OPENAI_BASE_URL",
    "OPENAI_API_URL": "OPENAI_BASE_URL",
    "OPENAI_URL": "OPENAI_BASE_URL",
    "OPENAI_ENDPOINT": "OPENAI_BASE_URL",
    "AZURE_OPENAI_ENDPOINT": "OPENAI_BASE_URL",
    "AZURE_OPENAI_API_KEY": KEY,
    "OPENAI_ORGANIZATION": "OPENAI_ORG_ID",
    "OPENAI_ORGANIZATION_ID": "OPENAI_ORG_ID",
    "OPENAI_ORG": "OPENAI_ORG_ID",
    "OPENAI_PROJECT": "OPENAI_PROJECT_ID",
    "OPENAI_MODEL": "RELAY_MODEL",
}
_KEY_FAMILIES: Final = frozenset({"project key", "service account key", "user key"})
_LEAST_KEY: Final = 20


@dataclass(frozen=True, slots=True)
class EnvText:
    """A `.env` file's text: its names, the remarks on it, and whether a key that could be one stands in it."""

    names: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()
    holds_key: bool = False

    @property
    def holds_setting(self) -> bool:
        """Whether it sets anything that the relay reads."""
        return bool(self.names & SETTING_NAMES)


def read_env_text(data: bytes) -> EnvText:
    """Look at the bytes of a `.env` file as an editor, a shell or PowerShell has left them."""
    if data.startswith(_UTF16_MARKS) or b"\x00" in data:
        return EnvText(remarks=("is UTF-16 text, as PowerShell's '>' writes it, and cannot be read; save it as UTF-8",))
    marked = data.startswith(_UTF8_MARK)
    text = data.removeprefix(_UTF8_MARK).decode("utf-8", "replace")
    bindings = list(parse_stream(io.StringIO(text.replace("\r\n", "\n").replace("\r", "\n"))))
    values = {binding.key: binding.value for binding in bindings if binding.key and (binding.value or "").strip()}
    remarks = [*(_MARK_REMARK for _ in range(marked)), *(_CR_REMARK for _ in range("\r" in text))]
    remarks += [*_line_remarks(bindings), *_repeated(bindings)]
    key = values.get(KEY) or ""
    return EnvText(frozenset(values), tuple(remarks), _could_be_a_key(key))


_MARK_REMARK: Final = "begins with a byte order mark: skipped here, but shells and 'docker run --env-file' trip over it"
_CR_REMARK: Final = (
    "has Windows line ends (CR LF): read well here, but a shell or --env-file keeps the CR in each value"
)


def _line_remarks(bindings: Iterable[Binding]) -> Iterator[str]:
    before = 0  # line breaks so far; dotenv's own count is of where a binding's leading blank lines begin
    for binding in bindings:
        source = binding.original.string
        line = before + 1 + source[: len(source) - len(source.lstrip())].count("\n")
        before += source.count("\n")
        if binding.error:
            yield f"line {line} is not NAME=value and was not read"
        elif binding.key in SETTING_NAMES:
            if binding.value is None:
                yield f"line {line}: {binding.key} has no '=' behind it"
            elif not binding.value.strip():
                yield f"line {line}: {binding.key} is empty, which counts as unset"
            elif _QUOTED.search(source):
                yield f"line {line}: quotes around {binding.key} are taken off here; 'docker run --env-file' keeps them"
            elif _SPACED.search(source.lstrip()):
                yield f"line {line}: blanks around the '=' of {binding.key} are taken off here; shells refuse them"
        elif binding.key and binding.value and _is_misplaced_key(binding.value):
            yield f"line {line}: {binding.key} holds what looks like a key of OpenAI; the relay reads {KEY}"


def _repeated(bindings: Iterable[Binding]) -> Iterator[str]:
    names = [binding.key for binding in bindings if binding.key in SETTING_NAMES and binding.value is not None]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"{name} stands in it {names.count(name)} times; the last one counts"


def _is_misplaced_key(value: str) -> bool:
    return len(value) > _LEAST_KEY and family_of(value.strip()).name in _KEY_FAMILIES


def _could_be_a_key(value: str) -> bool:
    """Whether somebody has filled it in; the lint speaks of what is wrong with it."""
    return len(value.strip()) >= _LEAST_KEY and not re.search(r"\.\.\.|your|here|<|xxx", value, re.IGNORECASE)


# -- between the sources ----------------------------------------------------------------------------------------------


def disagreements(layers: Layers) -> Iterator[str]:
    """Values that hide other values of the same name, where the two differ; and secrets set in two ways."""
    for name in sorted(SETTING_NAMES):
        holders = [(layer.origin, layer.values[name]) for layer in layers.layers if layer.values.get(name, "").strip()]
        for origin, value in holders[1:]:
            if value.strip() != holders[0][1].strip():
                yield _hides(name, holders[0], (origin, value))
    for setting in SETTINGS:
        if setting.file_name is None:
            continue
        direct, by_file = layers.find(setting.name), layers.find(setting.file_name)
        if direct is not None and by_file is not None and direct[1] != by_file[1]:
            order = [layer.origin for layer in layers.layers]
            wins = setting.name if order.index(direct[1]) < order.index(by_file[1]) else setting.file_name
            yield (
                f"{setting.name} ({_place(direct[1])}) and {setting.file_name} ({_place(by_file[1])}) are both set; "
                f"{wins} counts"
            )


def _hides(name: str, winner: tuple[str, str], loser: tuple[str, str]) -> str:
    shown = f" ({fingerprint(winner[1].strip())} against {fingerprint(loser[1].strip())})" if name == KEY else ""
    if winner[0] == ENVIRONMENT_ORIGIN:
        cure = f"'unset {name}' to use the file's"
        return f"{name} of the shell hides another value in {loser[0]}{shown}; {cure}"
    return f"{name} in {winner[0]} hides another value in {loser[0]}{shown}; remove one of the two"


def empty_settings(layers: Layers) -> Iterator[str]:
    """Settings that are set to nothing somewhere and so count as unset."""
    for layer in layers.layers:
        for name, value in layer.values.items():
            if name in SETTING_NAMES and not value.strip():
                yield f"{name} is set to nothing ({_place(layer.origin)}), which counts as unset"


def misspelt_names(layers: Layers) -> Iterator[tuple[str, str]]:
    """Names that were meant for another: the name, and a sentence. Those of the key and of RELAY_* the settings know."""
    for name, origin in sorted(layers.names().items()):
        if name in SETTING_NAMES:
            continue
        meant = _MEANT.get(name.upper())
        if meant is None and name.upper() in SETTING_NAMES and name.upper() != KEY:
            meant = name.upper()
        if meant is None and name.startswith("OPENAI_") and origin != ENVIRONMENT_ORIGIN:
            close = difflib.get_close_matches(name, [n for n in SETTING_NAMES if n.startswith("OPENAI_")], 1, 0.85)
            meant = close[0] if close else None
        if meant is not None:
            yield name, f"is not read ({_place(origin)}); did you mean {meant}?"


def _place(origin: str) -> str:
    return "the shell's environment" if origin == ENVIRONMENT_ORIGIN else origin


def secrets_of(layers: Layers) -> Iterator[str]:
    """Every secret that stands in any source, used or not: for the redaction of all that is printed."""
    named = {setting.name for setting in SETTINGS if setting.secret}
    for layer in layers.layers:
        for name, value in layer.values.items():
            if name in named:
                yield from _cores(value)
            elif "proxy" in name.lower():
                yield from _passwords(value)
            elif name.upper() == KEY or _is_misplaced_key(value):
                yield from _cores(value)


def _cores(value: str) -> Iterator[str]:
    """The secret parts of a value: without the name, quotes or scheme that came along by mistake."""
    if "://" in value:
        yield from _passwords(value)
        return
    bare = re.sub(r"^(export\s+)?\w+\s*=", "", value.strip())
    bare = re.sub(r"^bearer\s+", "", bare.strip("\"'`\ufeff\u2018\u2019\u201c\u201d \t\r\n"), flags=re.IGNORECASE)
    if bare.startswith(SIMULATOR_PREFIX):
        return  # no secret, and its tail is a word: 'quota-exhausted'. Its whole is hidden by its shape.
    yield bare
    for part in bare.split(","):
        yield part.rpartition(":")[2].strip()


def _passwords(value: str) -> Iterator[str]:
    for credentials in re.findall(r"(?://|^)([^/@\s]+)@", value):
        yield credentials.partition(":")[2]
