"""Reads a clients file and the token files that it names. Blocks; a running relay calls it in a thread."""

import hashlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.access.clients import ClientSet
from service.clients_file.mistakes import ClientsRejected, Mistake, NotAccepted
from service.clients_file.parse import Surroundings, parse_clients
from service.realtime.keys import Secret
from service.settings.source_file import Unreadable, read_source
from service.upstream.secret_file import printable_path

MAX_FILE_BYTES: Final = 1 << 20
_MIN_TOKEN_CHARACTERS: Final = 16
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # it is also sent as a subprotocol
_ONE_A_LINE: Final = "Write one token a line; 'python -m service token' makes one"
_BYTE_ORDER_MARK: Final = "\ufeff"
CONFIRM_SECONDS: Final = 0.1
_MAX_CONFIRMATIONS: Final = 10


@dataclass(frozen=True, slots=True)
class LoadedClients:
    """The clients of a file, and what of it logs must not contain: hashes, and the tokens in token files."""

    clients: ClientSet
    secrets: tuple[Secret, ...]


class ClientsFileReader:
    """Reads one clients file. A path in it is relative to its folder. Not for use by two threads at the same time."""

    def __init__(self, path: Path, surroundings: Surroundings) -> None:
        self.path = path
        self._surroundings = surroundings
        self._token_files: tuple[str, ...] = ()  # those that the last content named
        self._seen: list[bytes] = []  # the digests of what `load` has last read

    def load(self) -> LoadedClients:
        """The clients of the file; raises ClientsRejected."""
        tokens: list[str] = []
        self._token_files, self._seen = (), []
        text = self._decode(self._read())
        clients = parse_clients(text, self._surroundings, lambda path: self._read_tokens(path, tokens))
        hashes = (digest for client in clients.clients for digest in client.credentials)
        return LoadedClients(clients, tuple(map(Secret, (*tokens, *hashes))))

    def forget(self) -> None:
        """Let `load_if_changed` take any content as new: the result of a read that took too long was not used."""
        self._seen = []

    def load_if_changed(self) -> LoadedClients | None:
        """The clients of a file whose content, or that of a token file, is new since `load`; else None.

        A file that is being written is read when two reads agree: cut at the end of a line, it would lack clients.
        """
        state = self._state()
        for _ in range(_MAX_CONFIRMATIONS):
            if state == self._seen:
                return None
            time.sleep(CONFIRM_SECONDS)
            before, state = state, self._state()
            if state == before:
                return self.load()
        return None

    def _state(self) -> list[bytes]:
        """Digests of the contents, not of their times, because Kubernetes swaps links and editors write twice."""
        return [_digest(path) for path in (self.path, *map(self._resolve, self._token_files))]

    def _read(self) -> bytes:
        """The bytes of the file, whose digest is then the first of those seen."""
        try:
            data = read_source(self.path, MAX_FILE_BYTES)
        except Unreadable as exc:
            self._seen.append(_digest_of_error(exc))
            raise self._unreadable(exc.cause, exc.remedy[:1].upper() + exc.remedy[1:]) from None
        self._seen.append(_digest_of(data))
        if data is None:
            raise self._unreadable("does not exist", "Create or mount it, or correct RELAY_CLIENTS_FILE")
        return data

    def _decode(self, data: bytes) -> str:
        try:
            return data.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
        except UnicodeDecodeError as exc:
            line = data[: exc.start].count(b"\n") + 1
            sentence = "the file is not UTF-8 text"
            raise ClientsRejected([Mistake(self._surroundings.file, line, sentence, "Save it as UTF-8")]) from None

    def _unreadable(self, cause: str, remedy: str) -> ClientsRejected:
        return ClientsRejected(
            [Mistake(self._surroundings.file, None, f"the file {cause}", remedy)], is_unreadable=True
        )

    def _resolve(self, path: str) -> Path:
        return self.path.parent / path

    def _read_tokens(self, path: str, known: list[str]) -> Sequence[str]:
        """The tokens in a token file, which are added to `known`; raises NotAccepted."""
        self._token_files = (*self._token_files, path)
        shown = printable_path(path)
        try:
            data = read_source(self._resolve(path), MAX_FILE_BYTES)
        except Unreadable as exc:
            self._seen.append(_digest_of_error(exc))
            remedy = exc.remedy[:1].upper() + exc.remedy[1:]
            raise NotAccepted(f"names the file {shown}, which {exc.cause}", remedy) from None
        self._seen.append(_digest_of(data))
        if data is None:
            raise NotAccepted(
                f"names the file {shown}, which does not exist", "Create or mount it, or correct the path"
            )
        tokens = data.decode("utf-8", "replace").split()
        known.extend(tokens)
        if not tokens:
            raise NotAccepted(f"names the file {shown}, which has no token", _ONE_A_LINE)
        for number, token in enumerate(tokens, 1):
            if not _TOKEN.fullmatch(token) or len(token) < _MIN_TOKEN_CHARACTERS:
                raise NotAccepted(
                    f"names a file whose token {number} is shorter than {_MIN_TOKEN_CHARACTERS} characters, or has others "
                    "than letters, digits and !#$%&'*+-.^_`|~",
                    _ONE_A_LINE,
                )
        return tokens


def _digest(path: Path) -> bytes:
    try:
        return _digest_of(read_source(path, MAX_FILE_BYTES))
    except Unreadable as exc:
        return _digest_of_error(exc)


def _digest_of(data: bytes | None) -> bytes:
    return hashlib.sha256(data).digest() if data is not None else b"missing"


def _digest_of_error(error: Unreadable) -> bytes:
    return f"unreadable: {error}".encode("utf-8", "surrogatepass")


def name_for_messages(path: Path) -> str:
    """The file in messages; hidden unless it looks like a path, because it can be a token by mistake."""
    return printable_path(str(path))
