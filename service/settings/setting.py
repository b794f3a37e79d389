"""The declaration of one setting: everything that its loader, its reference and its error messages need.

`setting()` is the default value of a dataclass field and carries the declaration as the field's metadata.
"""

import dataclasses
from typing import Any, Final, TypeVar, overload

from service.settings.parsers import SettingParser

_METADATA_KEY: Final = "setting"
_UNITS: Final = ("SECONDS", "BYTES")
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting. `default` is written as in the environment; None means that the setting is unset by default."""

    name: str
    parser: SettingParser[Any]
    default: str | None
    example: str
    sentence: str
    unit: str = ""
    secret: bool = False
    field: str = ""

    @property
    def accepts(self) -> str:
        """The accepted values, for people: bounds with their unit, and what 0 means."""
        accepts = f"{self.parser.accepts} {self.unit}" if self.unit else self.parser.accepts
        return f"{accepts}; 0 {self.parser.zero}" if self.parser.zero else accepts

    @property
    def file_name(self) -> str | None:
        """The variable that names a file with the value; None unless the setting is a secret."""
        return f"{self.name}_FILE" if self.secret else None


@overload
def setting(
    name: str,
    parser: SettingParser[_T],
    *,
    sentence: str,
    default: str,
    example: str | None = None,
    unit: str = "",
    secret: bool = False,
) -> _T: ...
@overload
def setting(
    name: str, parser: SettingParser[_T], *, sentence: str, example: str, unit: str = "", secret: bool = False
) -> _T | None: ...
def setting(
    name: str,
    parser: SettingParser[Any],
    *,
    sentence: str,
    default: str | None = None,
    example: str | None = None,
    unit: str = "",
    secret: bool = False,
) -> Any:
    """Declare a setting as a dataclass field. The field's default is the parsed `default`; `example` defaults to it.

    `unit` defaults to that in which the name ends.
    """
    declaration = Setting(
        name=name,
        parser=parser,
        default=default,
        example=example if example is not None else (default or ""),
        sentence=sentence,
        unit=unit or next((suffix.lower() for suffix in _UNITS if name.endswith(f"_{suffix}")), ""),
        secret=secret,
    )
    value = None if default is None else parser(default)
    return dataclasses.field(default=value, metadata={_METADATA_KEY: declaration})


def declared_by(settings_class: type[Any]) -> tuple[Setting, ...]:
    """The declarations of a dataclass, in its order, each with the name of its field."""
    return tuple(
        dataclasses.replace(field.metadata[_METADATA_KEY], field=field.name)
        for field in dataclasses.fields(settings_class)
        if _METADATA_KEY in field.metadata
    )


def written(value: object) -> str:
    """A parsed value as it is written in the environment."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    return str(value)
