"""Reads JSON Web Tokens (RFC 7519) and checks their claims, as RFC 8725 advises. Pure; `jwks.py` checks signatures.

Nothing of a token selects how it is checked: the algorithms, the issuer and the address of its keys come from the clients
file. Headers that name keys (`jku`, `jwk`, `x5u`, `x5c`) are not read. A key that occurs twice in an object refuses the
token, because two readers could take different values.
"""

import base64
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from service.access.clients import JwtIssuer

MAX_TOKEN_CHARACTERS: Final = 16_384
MAX_USER_CHARACTERS: Final = 255
"""OpenID Connect Core, section 2: `sub` has at most 255 characters."""
_SEGMENTS: Final = 3
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]{2,}(?:\.[A-Za-z0-9_-]*){2,4}")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
"""Values of `typ`. Others are tokens for another purpose, such as `logout+jwt`."""
_MAX_KEY_ID: Final = 256
_MAX_AUDIENCES: Final = 64
_MAX_TIME: Final = 1e11
_SHOWN: Final = re.compile(r"[!-~]{1,200}")

Cause = Literal[
    "malformed", "algorithm", "issuer", "audience", "user", "signature", "unknown_key", "no_keys", "expired", "not_yet_valid"
]  # fmt: skip


class TokenRefused(Exception):
    """Why a token is refused. `detail` is for the log; it holds no part of the token but its issuer."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause: Cause = cause
        self.detail = detail


@dataclass(frozen=True, slots=True, repr=False)
class ParsedToken:
    """A token whose signature has not been checked."""

    algorithm: str
    key_id: str | None
    claims: Mapping[str, Any]
    signed: bytes
    signature: bytes


class Accepted(NamedTuple):
    """The claims of a token that are used: its user, and the end of its validity in seconds since 1970."""

    user: str
    expires_at: float


def is_jwt(token: str) -> bool:
    """Whether a text has the shape of a signed or encrypted token."""
    return _SHAPE.fullmatch(token) is not None


def parse(token: str) -> ParsedToken:
    """The parts of a token; raises TokenRefused."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise TokenRefused("malformed", f"the JWT has more than {MAX_TOKEN_CHARACTERS} characters")
    segments = token.split(".")
    if len(segments) != _SEGMENTS:
        raise TokenRefused("malformed", "the JWT is encrypted; only signed ones are accepted")
    header = _object(segments[0], "header")
    for name in ("crit", "b64"):
        if name in header:
            raise TokenRefused("malformed", f"the header of the JWT has {name}, which the relay does not support")
    algorithm, kind, key_id = header.get("alg"), header.get("typ", "JWT"), header.get("kid")
    if not isinstance(algorithm, str):
        raise TokenRefused("malformed", "the header of the JWT has no alg")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenRefused("malformed", "typ of the JWT is neither JWT nor at+jwt: it is a token for another purpose")
    if key_id is not None and not (isinstance(key_id, str) and len(key_id) <= _MAX_KEY_ID):
        raise TokenRefused("malformed", f"kid of the JWT is no string of at most {_MAX_KEY_ID} characters")
    claims = _object(segments[1], "payload")
    signed = f"{segments[0]}.{segments[1]}".encode("ascii")
    return ParsedToken(algorithm, key_id, claims, signed, _decoded(segments[2], "signature"))


def _decoded(segment: str, name: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError:
        raise TokenRefused("malformed", f"the {name} of the JWT is not base64url") from None


def _object(segment: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(
            _decoded(segment, name).decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TokenRefused("malformed", f"the {name} of the JWT is no JSON object, or has a key twice")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_number(_name: str) -> float:
    raise ValueError  # NaN and Infinity, which are no JSON


# -- the claims -------------------------------------------------------------------------------------------------------


def choose_issuer(token: ParsedToken, issuers: Sequence[JwtIssuer]) -> JwtIssuer:
    """The table whose rules apply; raises TokenRefused. Of several with this issuer it is that of the audience."""
    claimed = token.claims.get("iss")
    found = [issuer for issuer in issuers if issuer.issuer == claimed]
    if not found:
        shown = f"is {claimed}" if isinstance(claimed, str) and _SHOWN.fullmatch(claimed) else "is missing or no URL"
        raise TokenRefused("issuer", f"iss of the JWT {shown}: no table [jwt.NAME] has this issuer")
    audiences = _audiences(token)
    chosen = next((issuer for issuer in found if audiences & {*issuer.audiences}), found[0])
    if token.algorithm not in chosen.algorithms:
        shown = token.algorithm if re.fullmatch(r"[A-Za-z0-9]{1,16}", token.algorithm) else "another"
        raise TokenRefused(
            "algorithm", f"alg of the JWT is {shown}, which algorithms of [jwt.{chosen.name}] does not list"
        )
    return chosen


def check_claims(token: ParsedToken, issuer: JwtIssuer, now: float) -> Accepted:
    """The claims of a token with a valid signature; raises TokenRefused. `now` is in seconds since 1970."""
    if not _audiences(token) & {*issuer.audiences}:
        raise TokenRefused("audience", f"aud of the JWT is missing or names no audience of [jwt.{issuer.name}]")
    skew = issuer.clock_skew_seconds
    expires_at = _time(token, "exp")
    if expires_at is None:
        raise TokenRefused("malformed", "the JWT has no exp")
    if now >= expires_at + skew:
        raise TokenRefused("expired", f"the JWT expired {now - expires_at:.0f} s ago")
    for name in ("nbf", "iat"):
        begins_at = _time(token, name)
        if begins_at is not None and now < begins_at - skew:
            raise TokenRefused("not_yet_valid", f"{name} of the JWT is {begins_at - now:.0f} s in the future")
    user = token.claims.get("sub")
    if not isinstance(user, str) or not 0 < len(user) <= MAX_USER_CHARACTERS or not user.isprintable():
        raise TokenRefused("user", f"sub of the JWT is no printable string of 1 to {MAX_USER_CHARACTERS} characters")
    return Accepted(user, expires_at)


def _audiences(token: ParsedToken) -> set[str]:
    value = token.claims.get("aud")
    values = value if isinstance(value, list) else [value]
    if len(values) > _MAX_AUDIENCES or not all(isinstance(item, str) for item in values):
        return set()
    return set(values)


def _time(token: ParsedToken, name: str) -> float | None:
    value = token.claims.get(name)
    if value is None:
        return None
    is_time = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_TIME
    if not is_time or not math.isfinite(value):
        raise TokenRefused("malformed", f"{name} of the JWT is no time in seconds")
    return float(value)
