"""Reads a file of settings whole, or says why not and what to do. Never blocks on a pipe or a device."""

import os
import stat
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 1 << 20


class Unreadable(Exception):
    """A file that exists, or should, was not read whole: the cause, and the remedy in the imperative."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy


def read_source(path: Path, max_bytes: int = MAX_BYTES) -> bytes | None:
    """The bytes of a file; None if there is none; raises Unreadable."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise Unreadable(
                f"is a symbolic link to {str(path.readlink())!r}, which does not exist",
                "mount the target or remove the link",
            ) from None
        return None
    except ValueError:  # a NUL byte in the path
        raise Unreadable("has a path that no file can have", "correct the path") from None
    except OSError as exc:
        raise _unreadable(exc, path) from None
    try:
        _require_regular_file(os.fstat(descriptor).st_mode)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    except OSError as exc:
        raise _unreadable(exc, path) from None
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        raise Unreadable(f"is larger than {max_bytes} bytes and was not read", "check that it is the intended file")
    return data


def _require_regular_file(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise Unreadable(
            "is a directory, which docker creates if the file to mount is missing", "replace the directory by a file"
        )
    if not stat.S_ISREG(mode):
        raise Unreadable("is a pipe, socket or device, not a file", "replace it by a file")


def _unreadable(exc: OSError, path: Path) -> Unreadable:
    if isinstance(exc, PermissionError):
        return Unreadable(
            f"is not readable for this user (uid {os.geteuid()})",
            f"change its owner or mode, or those of the directory: ls -ld {path.name!r} .",
        )
    return Unreadable(f"cannot be read ({exc.strerror or type(exc).__name__})", "repair or remove it")
