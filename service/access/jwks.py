"""The public keys of an OpenID provider (RFC 7517), and the check of a signature. Needs the extra `jwt`; no I/O.

Only what is named here is read of a key: what else a key set holds, such as certificates and their URLs, has no effect.
"""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from service.access.jwt import ParsedToken

MAX_KEYS: Final = 64
MAX_TRIED: Final = 4
"""Keys that are tried for one token: a set can have several with one `kid`, or a token none."""
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
_MIN_EXPONENT: Final = 3
_MAX_EXPONENT: Final = 1 << 32
_MAX_PART: Final = 2048  # characters; the modulus of 8192 bits has 1366
_PUBLIC_PARTS: Final = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}
_PRIVATE_PARTS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_CURVES: Final = frozenset({"P-256", "P-384", "P-521", "Ed25519", "Ed448"})
_OPTIONS: Final = ("kid", "alg", "use", "key_ops")


class InvalidKeySet(Exception):
    """A document that is no usable key set. The message is a clause of the relay's own."""


@dataclass(frozen=True, slots=True, repr=False)
class VerificationKey:
    """A public key. `key_id` is None for one without `kid`."""

    key_id: str | None
    key: Key

    def verifies(self, token: ParsedToken) -> bool:
        """Whether the signature of a token is by this key, with the algorithm of its header, which the caller has checked."""
        algorithm = JWSRegistry.algorithms[token.algorithm]
        try:
            algorithm.check_key(self.key)
            return algorithm.verify(token.signed, token.signature, self.key)
        except (
            JoseError,
            ValueError,
            TypeError,
        ):  # the key is for another algorithm, or the signature has another form
            return False


class KeySet(NamedTuple):
    """The usable keys of a provider, and why others are ignored: a clause for each."""

    keys: tuple[VerificationKey, ...]
    ignored: tuple[str, ...]

    def with_id(self, key_id: str | None) -> tuple[VerificationKey, ...]:
        """The keys that a token names; all of a small set for a token that names none."""
        found = tuple(key for key in self.keys if key_id is None or key.key_id == key_id)
        return found if len(found) <= MAX_TRIED else ()


def parse_key_set(body: bytes) -> KeySet:
    """The keys in the body of a JWKS; raises InvalidKeySet."""
    try:
        document = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidKeySet("is not JSON") from None
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise InvalidKeySet("has no array keys")
    if len(entries) > MAX_KEYS:
        raise InvalidKeySet(f"has more than {MAX_KEYS} keys")
    keys: list[VerificationKey] = []
    ignored: list[str] = []
    for number, entry in enumerate(entries, 1):
        try:
            keys.append(_parse_key(entry))
        except InvalidKeySet as problem:
            ignored.append(f"key {number} {problem}")
    if not keys:
        raise InvalidKeySet(f"has no usable key: {', '.join(ignored)}" if ignored else "has no key")
    return KeySet(tuple(keys), tuple(ignored))


def _parse_key(entry: object) -> VerificationKey:
    if not isinstance(entry, dict):
        raise InvalidKeySet("is no object")
    kind, use = entry.get("kty"), entry.get("use", "sig")
    if kind == "oct":
        raise InvalidKeySet("is symmetric: every reader of the set could sign with it")
    if not isinstance(kind, str) or kind not in _PUBLIC_PARTS:
        raise InvalidKeySet("is of another type than RSA, EC and OKP")
    if _PRIVATE_PARTS & entry.keys():
        raise InvalidKeySet("is published with its private part: every reader of the set can sign with it")
    if use != "sig":
        raise InvalidKeySet("is not for signatures")
    parts = {name: entry[name] for name in ("kty", *_PUBLIC_PARTS[kind], *_OPTIONS) if name in entry}
    if not all(isinstance(parts.get(name), str) and len(parts[name]) <= _MAX_PART for name in _PUBLIC_PARTS[kind]):
        raise InvalidKeySet("is not complete")
    if kind != "RSA" and parts["crv"] not in _CURVES:
        raise InvalidKeySet("is on a curve that the relay does not use")
    return _import_key(kind, parts)


def _import_key(kind: str, parts: dict[str, Any]) -> VerificationKey:
    try:
        key = _IMPORTS[kind](parts)
    except (JoseError, ValueError, TypeError, KeyError, OverflowError):
        raise InvalidKeySet("is malformed") from None
    return VerificationKey(key.kid, key)


def _import_rsa(parts: dict[str, Any]) -> RSAKey:
    modulus, exponent = (_number(parts[name]) for name in ("n", "e"))
    if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
        bits = f"{modulus.bit_length()} bits: less than {MIN_RSA_BITS}, or more than {MAX_RSA_BITS}"
        raise InvalidKeySet(f"is RSA of {bits}")
    if not _MIN_EXPONENT <= exponent < _MAX_EXPONENT or not exponent & 1:  # a large one would make each check slow
        raise InvalidKeySet("is RSA with an exponent that is even, too small or too large")
    return RSAKey.import_key(parts)


def _number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


_IMPORTS: Final[Mapping[str, Callable[[dict[str, Any]], Key]]] = {
    "RSA": _import_rsa,
    "EC": ECKey.import_key,
    "OKP": OKPKey.import_key,
}
