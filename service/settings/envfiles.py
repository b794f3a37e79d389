"""The sources of settings: the process environment, then the `.env` files of one folder.

Rules of this file:

* Precedence for each name: environment, `.env.local`, `.env.<RELAY_ENV>`, `.env`. Files never override the environment.
  Only the given folder is searched, never its parents.
* An empty value counts as unset. So does a variable that Kubernetes sets for a Service whose name begins with 'relay': it
  would hide a value that was set on purpose.
* `RELAY_ENV` selects one of the files, so only the environment can set it.
* Nothing is written to `os.environ`. Nothing is interpolated: a `$` in a key stays a `$`.
"""

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dotenv.parser import Binding, parse_stream

ENVIRONMENT_ORIGIN: Final = "environment"
PROFILE_VARIABLE: Final = "RELAY_ENV"
PROFILE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
"""A value of RELAY_ENV; it becomes part of a file name."""

# Kubernetes sets RELAY_PORT=tcp://10.0.0.1:80, RELAY_SERVICE_HOST and others in every pod beside a Service 'relay', and
# RELAY_INTERNAL_PORT=tcp://... beside a Service 'relay-internal'.
_LINK_NAME: Final = re.compile(
    r"RELAY(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: its name and the values that it sets."""

    origin: str
    values: Mapping[str, str]


@dataclass(slots=True)
class Layers:
    """All sources, the one with the highest precedence first, and what was odd about reading them."""

    layers: list[Layer]
    remarks: list[tuple[str, str]] = field(default_factory=list)  # a file or variable, and the rest of the sentence
    service_links: list[str] = field(default_factory=list)
    ignored_lines: list[tuple[str, int]] = field(default_factory=list)  # a file, and the number of an unparsable line

    def find(self, name: str) -> tuple[str, str] | None:
        """The value of a variable and its origin; None if it is unset or empty everywhere."""
        for layer in self.layers:
            value = layer.values.get(name)
            if value is not None and value.strip():
                return value, layer.origin
        return None

    def names(self) -> dict[str, str]:
        """Every variable that is set and not empty, with its origin."""
        found: dict[str, str] = {}
        for layer in self.layers:
            for name, value in layer.values.items():
                if value.strip():
                    found.setdefault(name, layer.origin)
        return found


def read_layers(environ: Mapping[str, str], directory: Path | None) -> Layers:
    """The environment and, if a folder is given, its `.env` files. A file that cannot be read is a remark, not an error."""
    links = sorted(name for name, value in environ.items() if is_service_link(name, value))
    own = {name: value for name, value in environ.items() if name not in links}
    result = Layers([Layer(ENVIRONMENT_ORIGIN, own)], service_links=links)
    if directory is None:
        return result
    names = [".env.local", ".env"]
    profile = environ.get(PROFILE_VARIABLE, "").strip()
    if PROFILE.fullmatch(profile):  # the parser of RELAY_ENV reports any other value
        names.insert(1, f".env.{profile}")
    for name in names:
        _add_file(result, directory / name, name)
    return result


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set a variable for a Service."""
    if _LINK_NAME.fullmatch(name):
        return True
    return name.startswith("RELAY_") and name.endswith("PORT") and bool(_LINK_VALUE.match(value.strip()))


def _add_file(result: Layers, path: Path, name: str) -> None:
    try:
        # utf-8-sig: editors on Windows put a byte order mark before the first name, which would make that name unknown.
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as exc:
        result.remarks.append((name, f"cannot be read ({exc.strerror})"))
        return
    except UnicodeDecodeError:
        result.remarks.append((name, "is not UTF-8 text and was not read; save it as UTF-8"))
        return
    # Not dotenv_values(): it reports lines that it cannot parse to a logger of its own, in the middle of our output.
    bindings = list(parse_stream(io.StringIO(text)))
    result.ignored_lines += [(name, line) for line in _unparsable_lines(bindings)]
    last = {binding.key: binding.value for binding in bindings if binding.key is not None}
    values = {key: value for key, value in last.items() if value is not None}
    if values.pop(PROFILE_VARIABLE, "").strip():
        result.remarks.append((PROFILE_VARIABLE, f"is not read from {name}, only from the environment"))
    result.layers.append(Layer(name, values))


def _unparsable_lines(bindings: Iterable[Binding]) -> Iterable[int]:
    for binding in bindings:
        if binding.error:
            # The number that dotenv gives is that of the blank lines before a statement.
            source = binding.original.string
            yield binding.original.line + source[: len(source) - len(source.lstrip())].count("\n")
