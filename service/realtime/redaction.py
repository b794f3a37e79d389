"""Redaction: hides keys and tokens in a text. Pure.

Three kinds of secret become `[redacted]`:

* a known secret, and its first and last eight characters: the provider's error messages echo a key masked in the middle;
* the credential after `Bearer`, `Basic`, `openai-insecure-api-key.` or a credential parameter of a query;
* anything in the shape of a key: `sk-`, `ek_` and other prefixes of providers with characters after them, and JWTs.

The relay's own messages must stay readable, because an operator acts on them. Three things are not secret: a placeholder in
place of a credential (`Bearer <token>`, `sk-proj-...`), a word of a sentence in its place ("bearer or basic authentication"),
and `auto`, which is a value of the setting RELAY_UPSTREAM_PROXY.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from service.realtime.intricacy import MAX_PARSED_SEPARATORS, is_intricate
from service.realtime.keys import FAMILIES

REDACTED: Final = "[redacted]"

_SETTING_KEYWORDS: Final = frozenset({
    "auto", "off", "openai_api_key", "openai_api_key_file", "none", "null", "undefined", "true", "false", "openai",
    "relay", "realtime",
})  # fmt: skip
"""Values of secret settings that are no secrets: keywords of RELAY_UPSTREAM_PROXY, and what is set as a key by mistake."""

# A closed vocabulary: a real token in angle brackets is still redacted.
_NOUN: Final = r"(?:access|api|bearer|client|key|model|name|openai|provider|relay|secret|the|token|value|your)"
_PLACEHOLDER: Final = rf"<{_NOUN}(?:[ _-]{_NOUN}){{0,4}}>|your_(?:api_|openai_)?(?:key|token)|\.{{3}}|\u2026"
# Words that follow "bearer" or "basic" in sentences, and the parameter of a WWW-Authenticate challenge.
_WORD: Final = (
    r"and|auth|authentication|authorization|constraints|credentials?|headers?|in|is|keys?|nor|of|or|realm=|schemes?"
    r"|tokens?|`"
)
_NO_CREDENTIAL: Final = rf"(?:{_PLACEHOLDER}|{_WORD})[.:!?)\]`]*(?:[\s\\\"',;&]|$)"

_KEY_CHARACTER: Final = r"[A-Za-z0-9_*.\u2026-]"
# A prefix alone, or with an ellipsis in place of the key.
_NO_KEY: Final = rf"[.\u2026]*(?!{_KEY_CHARACTER})"
_FAMILY: Final = "(?:" + "|".join(family.prefix[3:] for family in FAMILIES if re.match("sk-.", family.prefix)) + ")?"
_RUN: Final = "[A-Za-z0-9_-]"  # of a part of a JWT
# Each text of upstream's failures and of the log is searched, so the time has to grow with its length only, whatever it
# holds: repetitions before something that may be missing are possessive, and the search for the end of a JWT is bounded.
# The first characters are listed for both cases: `re` then skips all others at once.
_SECRET_SHAPES: Final = re.compile(
    r"(?P<start>[bBoO?&sSxXeEgGhH])(?:"
    r"(?<!\w.)(?:"
    # The key may be masked in the middle, as the provider echoes it: sk-proj-****abcd
    rf"(?i:(?<=s)k-(?!{_FAMILY}{_NO_KEY})|(?<=s)ess-(?!{_NO_KEY})|(?<=x)ai-(?!{_NO_KEY})"
    rf"|(?<=e)k_(?!{_NO_KEY})|(?<=g)sk_(?!{_NO_KEY})|(?<=h)f_(?!{_NO_KEY})){_KEY_CHARACTER}{{4,}}"
    rf"|(?<=[eE])(?i:yJ){_RUN}{{8,}}(?:\.{_RUN}+)*"
    # Of a JWT whose header begins with a brace and white space.
    rf"|(?<=[eE])[wWyY]{_RUN}(?:(?<!{_RUN}...){_RUN}{{7,}}+|{_RUN}{{7,99}}+)\.{_RUN}{{8,}}+\.{_RUN}{{16,}})"
    r"|(?P<lead>(?i:(?<=b)(?<!\w.)(?:earer|asic)\s++|(?<=o)penai-insecure-api-key\."
    r"|(?<=[?&])(?:api[-_]?key|token|access_token)=))"
    rf"(?i:(?!{_NO_CREDENTIAL}))[^\s\\\"',;&]+"
    ")"
)

_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")

_PIECE_CHARACTERS: Final = 8
"""Length of the head and tail of a known secret that are hidden too: the provider's masked echo shows the first eight."""
_BLOCK: Final = 4
_MIN_SECRET_CHARACTERS: Final = 4
_MAX_SEARCHED: Final = 16
"""Up to this many secrets are searched for one by one, which is faster for a few."""
_LONG_WORD: Final = re.compile(r"\S{8,}")
_PLAIN_WORD: Final = re.compile(r"[a-z_.-]*|[A-Z_.-]*")
_PUBLIC_HEADS: Final = frozenset(
    family.prefix[:_PIECE_CHARACTERS] for family in FAMILIES if len(family.prefix) >= _PIECE_CHARACTERS
)
"""Heads of keys that are the public prefix of a family."""


class KnownSecrets:
    """Secrets to be replaced. With many of them a text costs little more than with a few: see `_candidates`.

    Secrets shorter than four characters are not replaced.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = tuple(
            secret
            for secret in dict.fromkeys(secrets)
            if len(secret) >= _MIN_SECRET_CHARACTERS and secret.lower() not in _SETTING_KEYWORDS
        )
        is_indexed = len(known) > _MAX_SEARCHED
        indexed = [secret for secret in known if is_indexed and _LONG_WORD.fullmatch(secret)]
        self._searched = tuple(secret for secret in known if not is_indexed or not _LONG_WORD.fullmatch(secret))
        self._by_piece: dict[str, list[str]] = {}
        for secret in indexed:
            self._by_piece.setdefault(secret[-_PIECE_CHARACTERS:], []).append(secret)
        heads = {secret[:_PIECE_CHARACTERS]: secret for secret in indexed}
        for head, secret in heads.items():  # one secret of each head: only the head is to be replaced
            self._by_piece.setdefault(head, []).append(secret)
        self._pieces_of_block: dict[int, set[str]] = {}
        for piece in self._by_piece:
            for start in range(
                _BLOCK
            ):  # wherever the piece begins, the text has one of these blocks at a multiple of four
                [block] = _blocks(piece[start : start + _BLOCK])
                self._pieces_of_block.setdefault(block, set()).add(piece)

    def redact(self, text: str) -> str:
        """Return `text` with the secrets, their heads and tails, and everything in the shape of a key replaced."""
        known = sorted(self._candidates(text), key=len, reverse=True)  # one may be the start of another
        for secret in known:
            text = text.replace(secret, REDACTED)
        # Shapes before heads and tails: a masked echo is one shape, and is not recognised without its head.
        text = _SECRET_SHAPES.sub(_hidden, text)
        for piece in dict.fromkeys(piece for secret in known for piece in _pieces(secret)):
            text = text.replace(piece, REDACTED)
        return text

    def _candidates(self, text: str) -> Iterable[str]:
        """The secrets that `text` may contain a part of.

        A thousand secrets, each with head and tail, are three thousand searches of every text. So the text's own blocks of
        four characters are looked up among those of the heads and tails instead.
        """
        if not self._by_piece:
            return self._searched
        blocks = self._pieces_of_block.keys() & _blocks(text)
        pieces = {piece for block in blocks for piece in self._pieces_of_block[block] if piece in text}
        return [*self._searched, *dict.fromkeys(secret for piece in pieces for secret in self._by_piece[piece])]


def _hidden(found: re.Match[str]) -> str:
    lead: str | None = found["lead"]
    return REDACTED if lead is None else f"{found['start']}{lead}{REDACTED}"


def _blocks(text: str) -> set[int]:
    """The text in blocks of four characters, as numbers: made by `memoryview`, since a large text has many."""
    data = text.encode("latin-1", "replace")
    return set(memoryview(data + bytes(-len(data) % _BLOCK)).cast("I"))


def _pieces(secret: str) -> Iterator[str]:
    """The tail and the head of a secret that are replaced without the rest of it."""
    if len(secret) > 2 * _PIECE_CHARACTERS:
        for piece in (secret[-_PIECE_CHARACTERS:], secret[:_PIECE_CHARACTERS]):
            # A piece that is a word, such as 'realtime', reveals nothing of a token and occurs in many texts.
            if piece not in _PUBLIC_HEADS and not _PLAIN_WORD.fullmatch(piece):
                yield piece


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without the secrets and everything in the shape of a key; see `KnownSecrets`."""
    return KnownSecrets(secrets).redact(text)


def redact_json(payload: bytes, redact_text: Callable[[str], str]) -> bytes | None:
    """Return a payload with its secrets replaced by `redact_text`, or None if it holds none.

    If a secret is written with JSON escapes, the result is the JSON value written without them.
    """
    text = payload.decode("utf-8", "surrogateescape")
    redacted = redact_text(text)
    if "\\u" in redacted:
        plain = _without_escapes(redacted)
        redacted_plain = redact_text(plain)
        if redacted_plain != plain:
            return redacted_plain.encode("utf-8", "replace")
    return None if redacted == text else redacted.encode("utf-8", "surrogateescape")


def _without_escapes(text: str) -> str:
    if not is_intricate(text.encode("utf-8", "surrogateescape"), MAX_PARSED_SEPARATORS):
        with suppress(ValueError, RecursionError):
            return json.dumps(json.loads(text.removeprefix("\ufeff")), ensure_ascii=False, separators=(",", ":"))
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)
