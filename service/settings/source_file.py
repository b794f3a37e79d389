"""Reads a file of settings whole, or explains why not, with a remedy. Never blocks on a pipe or a device."""

import os
from pathlib import Path
from typing import Final

from service.upstream.secret_file import NotRegularFile, read_regular_file

MAX_BYTES: Final = 65_536
"""Of a `.env` file. The parser takes up to 15 seconds for each MiB."""


class Unreadable(Exception):
    """A file that exists, or should, was not read whole: the cause, and the remedy in the imperative."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy


def read_source(path: Path, max_bytes: int = MAX_BYTES) -> bytes | None:
    """The bytes of a file; None if there is none; raises Unreadable."""
    try:
        data = read_regular_file(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise Unreadable(
                f"is a symbolic link to {str(path.readlink())!r}, which does not exist",
                "mount the target or remove the link",
            ) from None
        return None
    except NotRegularFile as exc:
        raise _not_regular(exc) from None
    except ValueError:  # a NUL byte in the path
        raise Unreadable("has a path that no file can have", "correct the path") from None
    except OSError as exc:
        raise _unreadable(exc, path) from None
    if len(data) > max_bytes:
        raise Unreadable(
            f"is larger than {max_bytes // 1024} KiB and was not read", "check that it is the intended file"
        )
    return data


def _not_regular(exc: NotRegularFile) -> Unreadable:
    if exc.kind == "folder":
        return Unreadable(
            "is a directory, which docker creates if the file to mount is missing", "replace the directory by a file"
        )
    return Unreadable(f"is a {exc.kind}, not a regular file", "replace it by a file")


def _unreadable(exc: OSError, path: Path) -> Unreadable:
    if isinstance(exc, PermissionError):
        return Unreadable(
            f"is not readable for this user (uid {os.geteuid()})",
            f"change its owner or mode, or those of the directory: ls -ld {path.name!r} .",
        )
    return Unreadable(f"cannot be read ({exc.strerror or type(exc).__name__})", "repair or remove it")
