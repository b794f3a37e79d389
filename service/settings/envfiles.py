"""The sources of settings: the process environment, then the `.env` files of one folder.

Rules of this file:

* Precedence for each name: environment, `.env.local`, `.env.<RELAY_ENV>`, `.env`. Files never override the environment.
  Only the given folder is searched, never its parents.
* An empty value counts as unset. So does a variable that Kubernetes sets for a Service whose name begins with 'relay': it
  would hide a value that was set on purpose.
* `RELAY_ENV` selects one of the files, so only the environment can set it.
* A file that exists and is not read whole is a flaw, with which no relay starts: the part that is lost can close access.
* Nothing is written to `os.environ`. Nothing is interpolated: a `$` in a key stays a `$`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from service.settings.env_names import printable_name, setting_names
from service.settings.envtext import Flaw, parse_env_text
from service.settings.source_file import Unreadable, read_source

ENVIRONMENT_ORIGIN: Final = "environment"
PROFILE_VARIABLE: Final = "RELAY_ENV"
PROFILE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
"""A value of RELAY_ENV; it becomes part of a file name."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Kubernetes sets RELAY_PORT=tcp://10.0.0.1:80, RELAY_SERVICE_HOST and others in every pod beside a Service 'relay', and
# RELAY_INTERNAL_PORT=tcp://... beside a Service 'relay-internal'.
_LINK_NAME: Final = re.compile(
    r"RELAY(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: its name, the values that it sets, and for a file their lines."""

    origin: str
    values: Mapping[str, str]
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Layers:
    """All sources, the one with the highest precedence first, and what was odd about reading them."""

    layers: list[Layer]
    remarks: list[tuple[str, str]] = field(default_factory=list)  # a file or variable, and the rest of the sentence
    service_links: list[str] = field(default_factory=list)
    flaws: list[tuple[str, Flaw]] = field(default_factory=list)  # a file, and why it is not read whole
    strays: list[tuple[str, Flaw]] = field(default_factory=list)  # a file, and a line of no setting that is not read

    def find(self, name: str) -> tuple[str, str] | None:
        """The value of a variable and its origin; None if it is unset or empty everywhere."""
        for layer in self.layers:
            value = layer.values.get(name)
            if value is not None and value.strip():
                return value, layer.origin
        return None

    def place(self, name: str) -> str:
        """Where the value of a variable was read, for people; empty for the environment."""
        found = self.find(name)
        layer = next((layer for layer in self.layers if found is not None and layer.origin == found[1]), None)
        if layer is None or layer.origin == ENVIRONMENT_ORIGIN:
            return ""
        return f"{layer.origin} line {layer.lines[name]}" if name in layer.lines else layer.origin

    def names(self) -> dict[str, str]:
        """Every variable that is set and not empty, with its origin."""
        found: dict[str, str] = {}
        for layer in self.layers:
            for name, value in layer.values.items():
                if value.strip():
                    found.setdefault(name, layer.origin)
        return found


def read_layers(environ: Mapping[str, str], directory: Path | None, known: frozenset[str]) -> Layers:
    """The environment and, if a folder is given, its `.env` files. `known` holds all setting names. Raises nothing."""
    links = sorted(name for name, value in environ.items() if is_service_link(name, value))
    own = {name: value for name, value in environ.items() if name not in links}
    result = Layers([Layer(ENVIRONMENT_ORIGIN, own)], service_links=links)
    result.flaws += _odd_names(own, known)
    if directory is None:
        return result
    names = [".env.local", ".env"]
    profile = environ.get(PROFILE_VARIABLE, "").strip()
    if PROFILE.fullmatch(profile):  # the parser of RELAY_ENV reports any other value
        names.insert(1, f".env.{profile}")
    for name in names:
        _add_file(result, directory / name, known)
    return result


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set a variable for a Service."""
    if _LINK_NAME.fullmatch(name):
        return True
    return name.startswith("RELAY_") and name.endswith("PORT") and bool(_LINK_VALUE.match(value.strip()))


def _odd_names(environ: Mapping[str, str], known: frozenset[str]) -> Iterator[tuple[str, Flaw]]:
    """Names that 'docker run --env-file' makes of a file with a byte order mark, quotes or 'export'."""
    for name in environ:
        if not _PLAIN_NAME.fullmatch(name) and (meant := setting_names(known).meant_by(name)) is not None:
            sentence = f"has a variable whose name resembles {meant} but is not it ('{printable_name(name)}')"
            yield ENVIRONMENT_ORIGIN, Flaw(sentence, "check the file from which it is set for invisible characters")


def _add_file(result: Layers, path: Path, known: frozenset[str]) -> None:
    name = path.name
    try:
        data = read_source(path)
    except Unreadable as exc:
        result.flaws.append((name, Flaw(exc.cause, exc.remedy)))
        return
    if data is None:
        if name not in {".env", ".env.local"}:
            sentence = f"selects {name}, which does not exist in {path.parent.resolve()}"
            result.remarks.append((PROFILE_VARIABLE, sentence))
        return
    text = parse_env_text(data, setting_names(known), name)
    result.flaws += [(name, flaw) for flaw in text.flaws]
    result.strays += [(name, stray) for stray in text.strays]
    values = text.values()
    if values.pop(PROFILE_VARIABLE, "").strip():
        result.remarks.append((PROFILE_VARIABLE, f"is not read from {name}, only from the environment"))
    result.layers.append(Layer(name, values, text.lines()))
