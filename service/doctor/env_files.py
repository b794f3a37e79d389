"""Finds the `.env` files of the working directory, and files near it that were probably meant to be read.

Reads files of up to a megabyte whose names resemble that of an environment file: in the working directory, one level below
it and three levels above it. Follows no symbolic link to a directory.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.doctor.env_text import KEY, EnvText, parse_env_text
from service.settings.envfiles import PROFILE, PROFILE_VARIABLE
from service.settings.source_file import Unreadable, read_source

PROJECT: Final = Path(__file__).resolve().parents[2]
"""The directory of the program: a common place for the file, also when the program is started elsewhere."""
_SIMILAR_NAME: Final = re.compile(r"[._]?(env|evn|dotenv)([._-].*)?|.+\.env(\.(txt|local))*|[._]?envrc", re.IGNORECASE)
_TEMPLATE_NAME: Final = re.compile(
    r"\.(template|example|sample|dist|tpl|bak|old|orig|swp)$|~$|[._-](template|example|sample)$"
)
_MAX_PARENTS: Final = 3
_MAX_CHILDREN: Final = 100
_SKIPPED_CHILDREN: Final = frozenset({
    "node_modules", "venv", "env", "__pycache__", "site-packages", "proc", "sys", "dev",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file that is read."""

    name: str
    path: Path
    text: EnvText


@dataclass(frozen=True, slots=True)
class UnreadFile:
    """A file that is not read, why, and what to do about it. `elsewhere`: it is not in the working directory."""

    path: str
    cause: str
    remedy: str
    holds_key: bool
    elsewhere: bool = False

    def __str__(self) -> str:
        problem = f"holds {KEY} but is not read" if self.holds_key else "is not read"
        return f"{self.path} {problem}: {self.cause}. {self.remedy}."


@dataclass(frozen=True, slots=True)
class EnvFiles:
    """The `.env` files of a working directory: those that are read, the strongest first, and those that are not."""

    read: tuple[EnvFile, ...]
    unread: tuple[UnreadFile, ...]
    remarks: tuple[str, ...]


def find_env_files(directory: Path, environ: Mapping[str, str]) -> EnvFiles:
    """Search a directory and its surroundings."""
    names = _names_to_read(environ)
    read: list[EnvFile] = []
    remarks: list[str] = []
    for name in names:
        try:
            data = read_source(directory / name)
        except Unreadable as exc:
            remarks.append(f"{name} {exc.cause}; {exc.remedy}")
        else:
            if data is not None:
                read.append(EnvFile(name, directory / name, parse_env_text(data, name)))
    unread = (
        *_misnamed_files(directory, names),
        *_files_above(directory),
        *_files_below(directory),
        *_files_of_program(directory),
    )
    return EnvFiles(tuple(read), tuple(dict.fromkeys(unread)), tuple(remarks))


def _names_to_read(environ: Mapping[str, str]) -> list[str]:
    profile = environ.get(PROFILE_VARIABLE, "").strip()
    of_profile = [f".env.{profile}"] if PROFILE.fullmatch(profile) else []
    return [".env.local", *of_profile, ".env"]


def _misnamed_files(directory: Path, names: list[str]) -> Iterator[UnreadFile]:
    for name in _list(directory):
        if name in names or not _SIMILAR_NAME.fullmatch(name):
            continue
        text = _read_text(directory / name)
        is_template = bool(_TEMPLATE_NAME.search(name.lower()))
        # Every checkout has a template without a key.
        if text is None or not (text.holds_key if is_template else text.holds_setting):
            continue
        cause, remedy = _explain_name(name, is_template=is_template)
        yield UnreadFile(name, cause, remedy, text.holds_key)


def _explain_name(name: str, *, is_template: bool) -> tuple[str, str]:
    lower = name.lower()
    if lower in {".env", ".env.local"}:
        return "its name has the wrong case", f"Rename it: mv {name} {lower}"
    if is_template:
        return "it is a template, which is often committed to git", f"Copy it to .env and remove the key from {name}"
    if lower.endswith(".txt"):
        return "an editor appended '.txt' to its name", f"Rename it: mv {name} {name[:-4]}"
    if lower.endswith("envrc"):
        return "only direnv reads it", "Copy its settings to .env, without 'export'"
    if profile := re.fullmatch(r"\.env\.([A-Za-z0-9_.-]+)", name):
        return (
            "it belongs to a profile that is not selected",
            f"Set {PROFILE_VARIABLE}={profile[1]} in the environment, or rename it: mv {name} .env",
        )
    return "only .env.local, .env.<RELAY_ENV> and .env are read", f"Rename it: mv {name} .env"


def _files_above(directory: Path) -> Iterator[UnreadFile]:
    for parent in list(directory.resolve().parents)[:_MAX_PARENTS]:
        yield from _files_elsewhere(parent, "it is in a parent directory")


def _files_below(directory: Path) -> Iterator[UnreadFile]:
    for name in _list(directory)[:_MAX_CHILDREN]:
        child = directory / name
        if not name.startswith(".") and name not in _SKIPPED_CHILDREN and child.is_dir() and not child.is_symlink():
            yield from _files_elsewhere(child, "it is in a subdirectory")


def _files_of_program(directory: Path) -> Iterator[UnreadFile]:
    if directory.resolve() != PROJECT and PROJECT.name != "site-packages":
        yield from _files_elsewhere(PROJECT, "it is in the program's directory, but the program was started elsewhere")


def _files_elsewhere(directory: Path, cause: str) -> Iterator[UnreadFile]:
    for name in (".env.local", ".env"):
        text = _read_text(directory / name)
        if text is not None and text.holds_setting:
            remedy = f"Start the relay in {directory}, or move the file to the working directory"
            yield UnreadFile(str(directory / name), cause, remedy, text.holds_key, elsewhere=True)


def _list(directory: Path) -> list[str]:
    with suppress(OSError):
        return sorted(path.name for path in directory.iterdir())
    return []


def _read_text(path: Path) -> EnvText | None:
    with suppress(Unreadable):
        if (data := read_source(path)) is not None:
            return parse_env_text(data, path.name)
    return None
