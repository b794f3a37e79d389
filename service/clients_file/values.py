"""Parsers from the values of a TOML document to those of the clients file. Pure; each raises NotAccepted."""

import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from service.access.origins import LOOPBACK, parse_origin
from service.clients_file.mistakes import NotAccepted, described, shown
from service.realtime.names import MODEL_NAME, is_loopback

_T = TypeVar("_T")
Parser = Callable[[object], _T]

UNLIMITED: Final = "unlimited"
EVERY: Final = "*"
_MICRO: Final = Decimal(1_000_000)
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_HASHES_OF_NOTHING: Final = {
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "01ba4719c80b6fe911b091a7c05124b64eeece964e09c058ef8f9805daca546b",
}
"""The SHA-256 of no byte, and of a line feed: what an empty variable gives."""
_URL: Final = re.compile(r"[!-~]{1,2048}")
_MAX_ITEMS: Final = 1000


def boolean(value: object) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise NotAccepted(f"is {described(value)}", "Write true or false, without quotation marks")
    return value


def text(max_characters: int, *, example: str, min_characters: int = 1) -> Parser[str]:
    """A string."""

    def parse(value: object) -> str:
        if not isinstance(value, str) or len(value) < min_characters:
            raise NotAccepted(f"is {described(value)}", f"Write a string, for example {example}")
        if len(value) > max_characters:
            raise NotAccepted(f"has {len(value)} characters", f"Shorten it to at most {max_characters}")
        return value

    return parse


def whole(minimum: int, maximum: int) -> Parser[int]:
    """A whole number within bounds, both included."""

    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise NotAccepted(f"is {described(value)}", f"Write a whole number from {minimum} to {maximum}")
        return value

    return parse


def limit(maximum: int) -> Parser[int | None]:
    """A whole number from 1, or "unlimited", which is None and replaces a default. 0 could mean either, and is a mistake."""

    def parse(value: object) -> int | None:
        if value == UNLIMITED:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
            refuse = "; enabled = false refuses a client" if value == 0 else ""
            raise NotAccepted(
                f"is {described(value)}", f'Write a whole number from 1 to {maximum}, or "{UNLIMITED}"{refuse}'
            )
        return value

    return parse


def usd(value: object) -> int | None:
    """An amount in USD with up to six decimals, as whole micro-USD, or "unlimited", which is None."""
    if value == UNLIMITED:
        return None
    remedy = f'Write an amount in USD from 0.000001 to 1000000 with at most six decimals, or "{UNLIMITED}"'
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise NotAccepted(f"is {described(value)}", remedy)
    amount = Decimal(value) if not isinstance(value, int) or abs(value) < 10**9 else Decimal("NaN")
    if not amount.is_finite() or not 0 < amount <= _MICRO or (amount * _MICRO) % 1:
        raise NotAccepted(f"is {described(value)}", remedy)
    return int(amount * _MICRO)


# -- lists ------------------------------------------------------------------------------------------------------------


class ItemsNotAccepted(NotAccepted):
    """Items of an array that are not accepted, each by its index."""

    def __init__(self, causes: Mapping[int, NotAccepted]) -> None:
        super().__init__("has items that are not accepted", "Correct them")
        self.causes = causes


def each(item: Parser[_T], *, example: str) -> Parser[tuple[_T, ...]]:
    """An array with at least one item, no two alike."""

    def parse(value: object) -> tuple[_T, ...]:
        if not isinstance(value, list) or not value:
            raise NotAccepted(f"is {described(value)}", f"Write an array with at least one item, for example {example}")
        if len(value) > _MAX_ITEMS:
            raise NotAccepted(f"has {len(value)} items", f"Write at most {_MAX_ITEMS}")
        items: dict[_T, int] = {}
        causes: dict[int, NotAccepted] = {}
        for index, entry in enumerate(value):
            try:
                parsed = item(entry)
            except NotAccepted as cause:
                causes[index] = cause
                continue
            if items.setdefault(parsed, index) != index:
                causes[index] = NotAccepted("repeats an earlier item", "Remove one of the two")
        if causes:
            raise ItemsNotAccepted(causes)
        return tuple(items)

    return parse


def one_of(choices: Iterable[str]) -> Parser[Any]:
    """One of some words."""
    words = tuple(choices)

    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            what = f'is "{shown(value)}"' if isinstance(value, str) and value else f"is {described(value)}"
            raise NotAccepted(what, f"Write {_listed(words)}")
        return value

    return parse


def _listed(words: tuple[str, ...]) -> str:
    quoted = [f'"{word}"' for word in words]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def token_hash(value: object) -> str:
    """A SHA-256 in hex. The message does not repeat the value, which may be a token by mistake."""
    make = "'python -m service token' makes a token and prints its hash"
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        length = f" of {len(value)} characters" if isinstance(value, str) else ""
        raise NotAccepted(f"is {described(value)}{length}, not a SHA-256", f"Write 64 hex digits; {make}")
    if value.lower() in _HASHES_OF_NOTHING:
        raise NotAccepted("is the SHA-256 of an empty text", f"Write the hash of a token; {make}")
    return value.lower()


def model(value: object) -> str:
    """A model name, or `*` for every model."""
    if not isinstance(value, str) or (value != EVERY and not MODEL_NAME.fullmatch(value)):
        what = f'is "{shown(value)}", which is no model name' if isinstance(value, str) else f"is {described(value)}"
        raise NotAccepted(what, 'Write the name of a model, for example "gpt-realtime", or "*" for every model')
    return value


def origin(value: object) -> str:
    """An origin as browsers send it; `*` for every origin, `loopback` for pages served from loopback."""
    parsed = None
    if isinstance(value, str):
        parsed = value if value in {EVERY, LOOPBACK} else parse_origin(value)
    if parsed is None:
        what = f'is "{shown(value)}", which is no origin' if isinstance(value, str) else f"is {described(value)}"
        raise NotAccepted(
            what, f'Write scheme://host[:port] without a path, "{LOOPBACK}" for pages served from loopback, or "*"'
        )
    return parsed


def reference(value: object) -> str:
    """The name of another table."""
    if not isinstance(value, str) or not value:
        raise NotAccepted(f"is {described(value)}", "Write the name of a table as a string")
    return value


# -- URLs -------------------------------------------------------------------------------------------------------------


def issuer_url(value: object) -> str:
    """The `iss` of tokens, which is compared as it is."""
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise NotAccepted(
            f"is {described(value)}", 'Write the iss of the tokens exactly, for example "https://login.example.com/"'
        )
    return value


def jwks_url(value: object) -> str:
    """An https URL; http to loopback only."""
    remedy = 'Write an https:// URL without credentials, for example "https://login.example.com/jwks.json"'
    if not isinstance(value, str) or not _URL.fullmatch(value):
        raise NotAccepted(f"is {described(value)}", remedy)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise NotAccepted("is no URL", remedy) from None
    if not host or "@" in parts.netloc or parts.fragment or parts.scheme not in {"http", "https"}:
        raise NotAccepted("is no such URL", remedy)
    if parts.scheme == "http" and not is_loopback(host):
        raise NotAccepted("begins with http://, over which keys can be replaced on the way", remedy)
    return value


_ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip


def algorithm(value: object) -> str:
    """An asymmetric signature algorithm. `none` proves nothing; neither does an HMAC whose secret is a public key."""
    if isinstance(value, str) and (value.lower() == "none" or value.upper().startswith("HS")):
        why = "accepts tokens without a signature" if value.lower() == "none" else "needs a secret that both sides know"
        raise NotAccepted(f'is "{shown(value)}", which {why}', f"Write {_listed(_ALGORITHMS)}")
    parsed: str = one_of(_ALGORITHMS)(value)
    return parsed
