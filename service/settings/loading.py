"""Reads the settings of this process, parses them and checks them against each other.

Rules of this file:

* All mistakes are reported together, each with variable, value (never of a secret, nor one that was put into a setting that
  is none: see `secrecy.py`), what is accepted, and an example.
* Problems of the provider's key are not mistakes: the relay starts, keeps `/readyz` closed and reports the reason.
* An unknown `RELAY_*` variable is a warning with the most similar known name; it never stops the start.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from service.settings.declared import SETTING_NAMES, SETTINGS, Settings
from service.settings.effect import without_effect
from service.settings.envfiles import Layers, read_layers
from service.settings.parsers import NotAccepted
from service.settings.problems import Problem, SettingsRejected, SourceProblem
from service.settings.rules import broken_rules, proxy_for
from service.settings.secrecy import HIDDEN, Secrecy, printable_value
from service.settings.setting import Setting
from service.settings.warnings import SettingWarning, find_warnings
from service.upstream.secret_file import (
    MAX_FILE_BYTES,
    MAX_KEY_FILE_BYTES,
    SecretFileError,
    printable_path,
    read_secret,
)

_KEY: Final = "OPENAI_API_KEY"
_MISPLACED: Final = (
    "holds what looks like a key or token, which no message repeats; move it to the setting that it belongs to"
)


def load_settings(environ: Mapping[str, str], directory: Path | None = None) -> Settings:
    """Read the settings from an environment and from the `.env` files of a folder; raises SettingsRejected."""
    layers = read_layers(environ, directory, SETTING_NAMES)
    secrecy = Secrecy(layers, SETTINGS)
    loader = _Loader(layers, secrecy)
    settings = Settings(**loader.values(), origins=loader.origins)
    problems: list[Problem | SourceProblem] = [
        *(SourceProblem(name, flaw.sentence, flaw.remedy) for name, flaw in layers.flaws),
        *loader.problems,
        *broken_rules(settings, loader.rejected),
    ]
    proxy = proxy_for(settings, environ)
    if isinstance(proxy, Problem):
        problems.append(proxy)
    warnings = (
        *find_warnings(layers, SETTING_NAMES, has_key=settings.openai_api_key is not None),
        *(SettingWarning(name, str(stray)) for name, stray in layers.strays),
        *loader.warnings,
        *without_effect(settings),
        *(SettingWarning(name, _MISPLACED) for name in secrecy.misplaced if name not in loader.rejected),
    )
    warnings = tuple(replace(warning, sentence=secrecy.redact(warning.sentence)) for warning in warnings)
    if problems or isinstance(proxy, Problem):
        raise SettingsRejected([problem.redacted(secrecy.redact) for problem in problems], warnings)
    return replace(
        settings,
        proxy=proxy,
        openai_api_key_file=loader.key_file,
        openai_api_key_problem=loader.key_problem,
        warnings=warnings,
        misplaced_secrets=tuple(word for words in secrecy.misplaced.values() for word in words),
    )


class _Loader:
    """Parses every setting; collects mistakes instead of stopping at the first."""

    def __init__(self, layers: Layers, secrecy: Secrecy) -> None:
        self._layers = layers
        self._secrecy = secrecy
        self.problems: list[Problem | SourceProblem] = []
        self.rejected: set[str] = set()  # variables whose value is unknown because it is not accepted
        self.warnings: list[SettingWarning] = []
        self.origins: dict[str, str] = {}
        self.key_problem: str | None = None
        self.key_file: Path | None = None

    def values(self) -> dict[str, Any]:
        """Field names to parsed values, for every setting that is set and accepted."""
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            found = self._find(setting)
            if found is None:
                continue
            text, origin = found
            try:
                values[setting.field] = setting.parser(text)
            except NotAccepted as exc:
                value = HIDDEN if setting.secret else repr(printable_value(text, self._secrecy.redact))
                accepts = f"{setting.accepts} ({exc})" if str(exc) else setting.accepts
                place = origin if origin.startswith("file ") else self._layers.place(setting.name)
                self._reject(setting, Problem(setting.name, value, accepts, setting.example, place))
            else:
                self.origins[setting.name] = origin
        return values

    def _find(self, setting: Setting) -> tuple[str, str] | None:
        """The text of a setting and its origin, from the variable itself or from the file that `<name>_FILE` names."""
        found = self._layers.find(setting.name)
        if setting.file_name is None:
            return found
        named_file = self._layers.find(setting.file_name)
        if named_file is None:
            return found
        if found is not None and found[1] == named_file[1]:
            both = f"{setting.name} and {setting.file_name}"
            sentence = f"are both set ({found[1]}): expected only one of the two"
            self._reject(setting, SourceProblem(both, sentence, f"unset {setting.name} to use the file"))
            return None
        if found is not None and self._has_precedence(found[1], named_file[1]):
            return found
        path, origin = named_file
        return self._read_file(setting, setting.file_name, path.strip(), origin)

    def _reject(self, setting: Setting, problem: Problem | SourceProblem) -> None:
        self.problems.append(problem)
        self.rejected.add(setting.name)

    def _has_precedence(self, origin: str, other: str) -> bool:
        order = [layer.origin for layer in self._layers.layers]
        return order.index(origin) < order.index(other)

    def _read_file(self, setting: Setting, variable: str, path: str, origin: str) -> tuple[str, str] | None:
        is_key = setting.name == _KEY
        if is_key and "\0" not in path:
            self.key_file = Path(path)
        shown = printable_path(path)
        try:
            return read_secret(path, MAX_KEY_FILE_BYTES if is_key else MAX_FILE_BYTES), f"file {path} ({origin})"
        except SecretFileError as error:
            remedy = error.remedy[:1].lower() + error.remedy[1:]
            if is_key:  # never stops the start
                self.key_problem = f"{variable}: {shown} {error}"
                self.warnings.append(SettingWarning(variable, f"{shown} {error}"))
            else:
                self._reject(setting, SourceProblem(variable, f"names the file {shown}, which {error.cause}", remedy))
        return None
