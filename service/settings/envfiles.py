"""Where settings come from: the process environment, then the `.env` files of one folder.

Rules of this file:

* First found wins for each name: environment, `.env.local`, `.env.<RELAY_ENV>`, `.env`. Files never override the
  environment, and only the given folder is looked at, never its parents.
* An empty value counts as unset, and so does what Kubernetes sets for a Service whose name begins with 'relay': it would
  hide what a person wrote.
* `RELAY_ENV` names one of the files, so that only the environment can set it.
* Nothing is written to `os.environ`; nothing is interpolated, so a `$` in a key stays a `$`.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

ENVIRONMENT_ORIGIN: Final = "environment"
PROFILE_VARIABLE: Final = "RELAY_ENV"
PROFILE: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
"""What may stand in a file's name."""

# Kubernetes puts RELAY_PORT=tcp://10.0.0.1:80, RELAY_SERVICE_HOST and the like into every pod next to a Service 'relay',
# and RELAY_INTERNAL_PORT=tcp://... next to a Service 'relay-internal'.
_LINK_NAME: Final = re.compile(
    r"RELAY(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: what it is called and what it holds."""

    origin: str
    values: Mapping[str, str]


@dataclass(slots=True)
class Layers:
    """All sources, the strongest first, and what was odd about reading them."""

    layers: list[Layer]
    remarks: list[tuple[str, str]] = field(default_factory=list)  # what it is about, and a sentence
    service_links: list[str] = field(default_factory=list)

    def find(self, name: str) -> tuple[str, str] | None:
        """The value of a name and where it came from, or None if it is set nowhere or only to nothing."""
        for layer in self.layers:
            value = layer.values.get(name)
            if value is not None and value.strip():
                return value, layer.origin
        return None

    def names(self) -> dict[str, str]:
        """Every name that is set to something, with its origin."""
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
    if PROFILE.fullmatch(profile):  # whoever parses the setting says what is wrong with another
        names.insert(1, f".env.{profile}")
    for name in names:
        _add_file(result, directory / name, name)
    return result


def is_service_link(name: str, value: str) -> bool:
    """Whether a variable was put there by Kubernetes and not by a person."""
    if _LINK_NAME.fullmatch(name):
        return True
    return name.startswith("RELAY_") and name.endswith("PORT") and bool(_LINK_VALUE.match(value.strip()))


def _add_file(result: Layers, path: Path, name: str) -> None:
    try:
        # utf-8-sig: editors on Windows put a byte order mark before the first name, which would then be unknown.
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as exc:
        result.remarks.append((name, f"cannot be read ({exc.strerror})"))
        return
    except UnicodeDecodeError:
        result.remarks.append((name, "is not UTF-8 text and was not read; save it as UTF-8"))
        return
    parsed = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values = {key: value for key, value in parsed.items() if value is not None}
    if values.pop(PROFILE_VARIABLE, "").strip():
        result.remarks.append((PROFILE_VARIABLE, f"is not read from {name}, only from the environment"))
    result.layers.append(Layer(name, values))
