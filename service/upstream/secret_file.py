"""Reads a secret from a file that a `*_FILE` variable names, and explains why that fails; for the start and for rotation.

Only regular files are read, within a bound: a pipe without a writer, or a terminal, would block the start for ever.
"""

import codecs
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.realtime.key_shapes import find_shape
from service.realtime.keys import UNKNOWN, family_of
from service.realtime.redaction import redact

MAX_KEY_FILE_BYTES: Final = 65_536
MAX_FILE_BYTES: Final = 1 << 20
HIDDEN_PATH: Final = "(hidden, as it may be the secret itself)"
_PATH_SHAPES: Final = frozenset({"path", "relative_path"})
_FOLDER: Final = "folder"
_KINDS: Final = {stat.S_IFDIR: _FOLDER, stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
_UTF16_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(slots=True)
class SecretFileError(Exception):
    """A file that holds no usable secret. `cause` follows the path in a sentence; `remedy` is an instruction."""

    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.cause}. {self.remedy}"


class NotRegularFile(OSError):
    """The path leads to a pipe, socket, device or folder. `kind` is a noun for the message."""

    def __init__(self, kind: str) -> None:
        super().__init__(errno.EISDIR if kind == _FOLDER else errno.EINVAL, f"it is a {kind}")
        self.kind = kind


def read_regular_file(path: str | Path, max_bytes: int) -> bytes:
    """At most `max_bytes` + 1 bytes of a regular file; follows links, never blocks. Raises OSError, ValueError."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise NotRegularFile("socket") from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise NotRegularFile(_KINDS.get(stat.S_IFMT(mode), "device"))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data: bytes | None = file.read(max_bytes + 1)
        if data is None:  # some files of /proc are called regular, and have nothing to read yet
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return data
    finally:
        os.close(descriptor)


def problem_of_certificate_file(environ: Mapping[str, str]) -> str | None:
    """Why a process must not load SSL_CERT_FILE: to open a pipe or a device can block it for ever. None if it can be loaded.

    A file that is missing or a folder does not block; OpenSSL then trusts no certificate, which the dial reports.
    """
    path = environ.get("SSL_CERT_FILE", "")
    try:
        mode = Path(path).stat().st_mode if path else stat.S_IFREG
    except (OSError, ValueError):
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    kind = _KINDS.get(stat.S_IFMT(mode), "device")
    return (
        f"SSL_CERT_FILE names a {kind}, not a regular file; set it to a file with certificates in PEM form, or unset it"
    )


def read_secret(path: str, max_bytes: int = MAX_FILE_BYTES) -> str:
    """The text of a file without its last line feed, which is the file's own. Raises SecretFileError.

    A carriage return and other blanks remain: the lint of keys reports them.
    """
    try:
        data = read_regular_file(path, max_bytes)
    except (OSError, ValueError) as exc:
        raise _explain_error(path, exc) from None
    text = _decode(data, max_bytes).removesuffix("\n")
    if not text.strip():
        raise SecretFileError("is empty", "Write the secret to it")
    return text


def printable_path(path: str) -> str:
    """A file name for messages; hidden unless it looks like one, because it can be the secret itself."""
    shape = find_shape(path)
    is_path = path.startswith(("/", "./", "../", "~/")) or (shape is not None and shape.code in _PATH_SHAPES)
    return repr(redact(path[:200])) if is_path else HIDDEN_PATH


def _decode(data: bytes, max_bytes: int) -> str:
    if len(data) > max_bytes:
        raise SecretFileError(f"is larger than {max_bytes // 1024} KiB", "Check which file is mounted there")
    if data.startswith(_UTF16_MARKS) or b"\x00" in data:
        raise SecretFileError("is UTF-16 text or binary; PowerShell's '>' writes UTF-16", "Save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise SecretFileError("is not UTF-8 text", "Save it as UTF-8, with the secret only") from None


def _explain_error(path: str, exc: OSError | ValueError) -> SecretFileError:
    if not isinstance(exc, OSError):
        return SecretFileError("is not a path", "Set the variable to the path of a file")
    if isinstance(exc, NotRegularFile) and exc.kind != _FOLDER:
        return SecretFileError(
            f"is a {exc.kind}, not a regular file, and was not read",
            "Write the secret to a regular file and set the variable to its path",
        )
    strerror = exc.strerror or type(exc).__name__
    match exc.errno:
        case errno.EISDIR:
            return SecretFileError(
                "is a folder; docker makes one where a file is missing",
                "Create the file on the host, remove the folder there, and create the container again",
            )
        case errno.ENOENT | errno.ENOTDIR:
            return SecretFileError(f"cannot be read ({strerror}{_missing_part(path)})", "Create or mount the file")
        case errno.EACCES | errno.EPERM:
            return SecretFileError(
                f"cannot be read by user id {os.geteuid()} ({strerror}{_permissions(path)})",
                "Change its owner or mode on the host so that this user id can read it",
            )
        case _:
            return SecretFileError(f"cannot be read ({strerror})", "Check the file and its file system")


def _missing_part(path: str) -> str:
    """Which part of a path is absent: a link whose target is missing, or the first folder that does not exist."""
    if family_of(path) is not UNKNOWN:
        return "; the value has the shape of a key: set it without _FILE"
    if path.startswith("~"):
        return "; '~' is not expanded here"
    if path[:1] in "\"'" or path[-1:] in "\"'":
        return "; the quotation marks are a part of the path"
    file = Path(path)
    if file.is_symlink():
        return "; it is a link whose target is missing"
    if not file.is_absolute():
        return f"; the working directory is {printable_path(str(Path.cwd()))}"
    missing = next((parent for parent in reversed(file.parents) if not parent.is_dir()), None)
    if missing is None:
        return ""
    return (
        f"; {printable_path(str(missing))} is no folder"
        if missing.exists()
        else (f"; the folder {printable_path(str(missing))} is missing")
    )


def _permissions(path: str) -> str:
    """The mode and owner of a file, or the folder that does not let this user through."""
    try:
        status = Path(path).stat()
    except OSError:
        return "; a folder above it cannot be entered"
    return f"; its mode is {stat.S_IMODE(status.st_mode):04o}, its owner is user id {status.st_uid}"
