"""Who is calling: client tokens, compared in constant time."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.failures import Failure
from service.realtime.keys import Secret

ANYBODY = "anybody"


@dataclass(frozen=True, slots=True)
class ClientToken:
    """A token that admits a client; logs show the name instead."""

    name: str
    secret: Secret


@dataclass(frozen=True, slots=True)
class Admission:
    """Proof that a client may come in. `client` is the name of its token, never the token."""

    client: str


class TokenAuthenticator:
    """Knows the tokens by their hashes, so that comparing takes the same time whatever is shown."""

    def __init__(self, access: Literal["open", "tokens"], tokens: Sequence[ClientToken]) -> None:
        self._open = access == "open"
        self._digests = [(token.name, _digest(token.secret.reveal())) for token in tokens]

    def admit(self, shown: str | None) -> Admission:
        """Let the holder of a token in; raises Failure with token_missing or token_invalid."""
        if self._open:
            return Admission(ANYBODY)
        if not shown:
            raise Failure("token_missing")
        digest = _digest(shown)
        found: str | None = None
        for name, known in self._digests:  # all of them, so that the time does not tell which
            if hmac.compare_digest(digest, known):
                found = name
        if found is None:
            raise Failure("token_invalid")
        return Admission(found)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
