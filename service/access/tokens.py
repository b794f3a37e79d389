"""Client tokens: which client a credential belongs to."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from service.failures import Failure
from service.realtime.keys import Secret

OPEN_ACCESS_CLIENT: Final = "anybody"
"""The name of every client while access is open, where no credential identifies a client."""


@dataclass(frozen=True, slots=True)
class ClientToken:
    """A credential of a client. Logs and limits use `name`, never the secret."""

    name: str
    secret: Secret


class TokenAuthenticator:
    """Finds the client of a token. It compares with the SHA-256 digest of every known token, so timing reveals no token."""

    def __init__(self, mode: Literal["open", "tokens"], tokens: Sequence[ClientToken]) -> None:
        self._is_open = mode == "open"
        self._digests = [(token.name, _digest(token.secret.reveal())) for token in tokens]

    def authenticate(self, token: str | None) -> str:
        """Return the name of the client that the token belongs to; raises Failure with token_missing or token_invalid."""
        if self._is_open:
            return OPEN_ACCESS_CLIENT
        if not token:
            raise Failure("token_missing")
        digest = _digest(token)
        client: str | None = None
        for name, known in self._digests:  # no early exit: the time must not reveal which token matched
            if hmac.compare_digest(digest, known):
                client = name
        if client is None:
            raise Failure("token_invalid")
        return client


def _digest(token: str) -> bytes:
    # surrogatepass encodes every string, and no two alike; a header that is not UTF-8 arrives with lone surrogates.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
