"""What lies in the working directory and near it: the `.env` files that are read, and those that were meant to be.

Only names and the first megabyte of files whose name looks like an environment file are read; nothing is followed deeper
than one folder down, three folders up.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.doctor.sources import EnvText, read_env_text
from service.settings.envfiles import PROFILE, PROFILE_VARIABLE

_LOOKS_MEANT: Final = re.compile(r"[._]?(env|evn|dotenv)([._-].*)?|.+\.env(\.(txt|local))*|[._]?envrc", re.IGNORECASE)
_TEMPLATE: Final = re.compile(
    r"\.(template|example|sample|dist|tpl|bak|old|orig|swp)$|~$|[._-](template|example|sample)$"
)
PROJECT: Final = Path(__file__).resolve().parents[2]
"""Where the program lies; people put the file beside it and then start it from elsewhere."""
_PARENTS: Final = 3
_CHILDREN: Final = 100
_NOT_ENTERED: Final = frozenset({"node_modules", "venv", "env", "__pycache__", "site-packages", "proc", "sys", "dev"})
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class EnvFile:
    """A file that is read: its name, path and text."""

    name: str
    path: Path
    text: EnvText


@dataclass(frozen=True, slots=True)
class UnreadFile:
    """A file that is not read although it was probably meant. `elsewhere`: it lies in another folder."""

    shown: str
    why: str
    remedy: str
    holds_key: bool
    elsewhere: bool = False

    def __str__(self) -> str:
        what = "holds OPENAI_API_KEY but is not read" if self.holds_key else "is not read"
        return f"{self.shown} {what}: {self.why}. {self.remedy}."


@dataclass(frozen=True, slots=True)
class EnvFiles:
    """The working directory, as far as settings may come from it."""

    path: Path
    read: tuple[EnvFile, ...]
    unread: tuple[UnreadFile, ...]
    remarks: tuple[str, ...]


def find_env_files(directory: Path, environ: Mapping[str, str]) -> EnvFiles:
    """Look at a folder, its parents and its children."""
    names = read_names(environ)
    read = tuple(
        EnvFile(name, directory / name, read_env_text(data))
        for name in names
        if (data := _read(directory / name)) is not None
    )
    unread = (*_in(directory, names), *_above(directory), *_below(directory), *_at_project(directory))
    return EnvFiles(directory, read, tuple(dict.fromkeys(unread)), tuple(_remarks(directory, names, environ)))


def read_names(environ: Mapping[str, str]) -> list[str]:
    """The files that are read, the strongest first."""
    profile = environ.get(PROFILE_VARIABLE, "").strip()
    middle = [f".env.{profile}"] if PROFILE.fullmatch(profile) else []
    return [".env.local", *middle, ".env"]


def _in(directory: Path, names: list[str]) -> Iterator[UnreadFile]:
    """Files of this folder whose name is not quite right."""
    for entry in _listing(directory):
        if entry in names or not _LOOKS_MEANT.fullmatch(entry):
            continue
        text = _text(directory / entry)
        is_template = bool(_TEMPLATE.search(entry.lower()))
        if text is None or not (text.holds_key if is_template else text.holds_setting):
            continue
        why, remedy = _misnaming(entry, is_template=is_template)
        yield UnreadFile(entry, why, remedy, text.holds_key)


def _misnaming(name: str, *, is_template: bool) -> tuple[str, str]:
    lower = name.lower()
    if lower in {".env", ".env.local"}:
        return "its name is in the wrong case", f"Rename it: mv {name} {lower}"
    if is_template:
        return "it is a template, which may be committed", f"Copy it to .env, and take the key out of {name}"
    if lower.endswith(".txt"):
        return "an editor has added '.txt' to its name", f"Rename it: mv {name} {name[:-4]}"
    if lower.endswith("envrc"):
        return "direnv reads it, and only in a shell that has direnv", "Copy its settings to .env, without 'export'"
    if found := re.fullmatch(r"\.env\.([A-Za-z0-9_.-]+)", name):
        return (
            "it is a profile that was not chosen",
            f"Set {PROFILE_VARIABLE}={found[1]} in the shell, or rename it to .env",
        )
    return "only .env.local, .env.<RELAY_ENV> and .env are", f"Rename it: mv {name} .env"


def _above(directory: Path) -> Iterator[UnreadFile]:
    for parent in list(directory.resolve().parents)[:_PARENTS]:
        yield from _elsewhere(parent, "it lies in a folder above this one")


def _below(directory: Path) -> Iterator[UnreadFile]:
    for entry in _listing(directory)[:_CHILDREN]:
        child = directory / entry
        if not entry.startswith(".") and entry not in _NOT_ENTERED and child.is_dir() and not child.is_symlink():
            yield from _elsewhere(child, "it lies in a folder below this one")


def _at_project(directory: Path) -> Iterator[UnreadFile]:
    """Beside the program, when it was started somewhere else."""
    if directory.resolve() != PROJECT and PROJECT.name != "site-packages":
        yield from _elsewhere(PROJECT, "it lies beside the program, which was started elsewhere")


def _elsewhere(folder: Path, why: str) -> Iterator[UnreadFile]:
    for name in (".env.local", ".env"):
        text = _text(folder / name)
        if text is not None and text.holds_setting:
            yield UnreadFile(
                str(folder / name), why, f"Start in {folder}, or move the file here", text.holds_key, elsewhere=True
            )


def _remarks(directory: Path, names: list[str], environ: Mapping[str, str]) -> Iterator[str]:
    for name in names:
        path = directory / name
        if path.is_dir():
            yield f"{name} is a folder, not a file; docker makes one where a file to be mounted is missing"
        elif path.exists() and not os.access(path, os.R_OK):
            yield f"{name} may not be read by this user ({os.geteuid()}); look at its owner and mode"
    profile = environ.get(PROFILE_VARIABLE, "").strip()
    if PROFILE.fullmatch(profile) and not (directory / f".env.{profile}").exists():
        yield f"{PROFILE_VARIABLE}={profile} asks for .env.{profile}, which does not exist here"


def _listing(directory: Path) -> list[str]:
    with suppress(OSError):
        return sorted(path.name for path in directory.iterdir())
    return []


def _text(path: Path) -> EnvText | None:
    data = _read(path)
    return None if data is None else read_env_text(data)


def _read(path: Path) -> bytes | None:
    with suppress(OSError):
        if path.is_file():  # not a pipe, which would be waited for
            with path.open("rb") as file:
                return file.read(_MAX_BYTES)
    return None
