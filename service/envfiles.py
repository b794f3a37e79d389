"""Where settings come from: the process environment, then the `.env` files of one folder.

Rules of this file:

* First found wins for each name: environment, `.env.local`, `.env.<RELAY_ENV>`, `.env`. Files never override the
  environment, and only the given folder is looked at, never its parents.
* An empty value counts as unset.
* Nothing is written to `os.environ`; nothing is interpolated, so a `$` in a key stays a `$`.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

ENVIRONMENT_ORIGIN = "environment"


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: what it is called and what it holds."""

    origin: str
    values: Mapping[str, str]


@dataclass(slots=True)
class Layers:
    """All sources, the strongest first, and what was odd about reading them."""

    layers: list[Layer]
    remarks: list[str] = field(default_factory=list)

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
    result = Layers([Layer(ENVIRONMENT_ORIGIN, dict(environ))])
    if directory is None:
        return result
    names = [".env.local", ".env"]
    if profile := environ.get("RELAY_ENV", "").strip():
        names.insert(1, f".env.{profile}")
    for name in names:
        path = directory / name
        if path.is_file():
            _add_file(result, path, name)
    return result


def _add_file(result: Layers, path: Path, name: str) -> None:
    try:
        # utf-8-sig: editors on Windows put a byte order mark before the first name, which would then be unknown.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        result.remarks.append(f"{name} cannot be read ({exc.strerror})")
        return
    except UnicodeDecodeError:
        result.remarks.append(f"{name} is not UTF-8 text and was not read; save it as UTF-8")
        return
    parsed = dotenv_values(stream=io.StringIO(text), interpolate=False)
    result.layers.append(Layer(name, {key: value for key, value in parsed.items() if value is not None}))
