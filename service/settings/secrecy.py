"""Finds credentials that were put into a setting that is no secret, so that nothing repeats them. Pure.

A key has the shape of its family. A client token has none: it is recognised where it is also in a setting for secrets, and
where it looks random. In a value that is accepted, only what can hardly be a name counts as random, because every line of the
log hides it. In one that is rejected everything that may be random is hidden: its text is printed once, by the error.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final

from service.realtime.keys import FAMILIES, Secret
from service.realtime.redaction import KnownSecrets, redact
from service.settings.envfiles import Layers
from service.settings.setting import Setting

HIDDEN: Final = "(hidden)"
_MAX_SHOWN: Final = 80
_WORD: Final = re.compile(r"[^\s,;:/@?#&=\"()<>{}\[\]\\]+")
_FAMILY: Final = re.compile(
    # 'sk-gateway.example.com' and 'pplx-7b-online' are names
    rf"(?<![A-Za-z0-9])(?:{'|'.join(re.escape(family.prefix) for family in FAMILIES)})[^.]{{12}}",
    re.IGNORECASE,
)
_PUBLIC_ID: Final = re.compile(r"(?:org|proj)[-_][A-Za-z0-9]+")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_RANDOM_CHARACTERS: Final = 16
_RANDOM_CHANGES: Final = 5
_LONG_PART: Final = 20
_MIXED_PART: Final = 12
_MIN_KNOWN_CHARACTERS: Final = 8  # a shorter secret can be a word of a message


def _is_key(word: str) -> bool:
    return _FAMILY.search(word) is not None


def _is_random(word: str) -> bool:
    if _PUBLIC_ID.fullmatch(word):
        return False
    parts = re.split(r"[-_.~]", word)
    changes = sum(a != b for part in parts for a, b in pairwise(map(_class, part)) if (a, b) != ("upper", "lower"))
    return (
        _UUID.fullmatch(word) is not None
        or (len(word) >= _RANDOM_CHARACTERS and changes >= _RANDOM_CHANGES)
        or any(
            len(part) >= _LONG_PART and len(set(map(_class, part)) & {"lower", "upper", "digit"}) > 1 for part in parts
        )
    )


def _may_be_random(word: str) -> bool:
    return _is_random(word) or any(
        len(part) >= _MIXED_PART and {"lower", "upper", "digit"} <= set(map(_class, part))
        for part in re.split(r"[-_.~]", word)
    )


def _class(character: str) -> str:
    if character.isdigit():
        return "digit"
    return "upper" if character.isupper() else "lower" if character.islower() else "other"


def credentials_in(text: str) -> Iterator[str]:
    """The words of a value that is accepted, and no secret, that look like a credential."""
    # In a path, an identifier of an account looks as random as a key, and names it.
    named = re.sub(r"^([a-z]+://[^/?#]*)[^?#]*", r"\1", text.strip())
    for word in _WORD.findall(text):
        if _is_key(word) or (word in named and _is_random(word)):
            yield word


def printable_value(text: str, redact_text: Callable[[str], str] = redact) -> str:
    """The first 80 characters of a value that is rejected, without credentials, and without a URL's query and fragment."""
    text = re.sub(r"^([^@]*?//)?.*@", rf"\1{HIDDEN}@", text, flags=re.DOTALL)
    text = re.sub(r"([?#]).*", rf"\1{HIDDEN}", redact_text(text), flags=re.DOTALL)
    return _WORD.sub(lambda found: HIDDEN if _is_key(found[0]) or _may_be_random(found[0]) else found[0], text)[
        :_MAX_SHOWN
    ]


class Secrecy:
    """What the sources of the settings hold that no message may repeat. `settings` are all declarations."""

    def __init__(self, layers: Layers, settings: tuple[Setting, ...]) -> None:
        secret_names = {setting.name for setting in settings if setting.secret}
        values = [(name, value) for layer in layers.layers for name, value in layer.values.items()]
        known = {part for name, value in values if name in secret_names for part in _parts(value)}
        self.misplaced: dict[str, tuple[Secret, ...]] = {}
        """By variable, the credentials in settings that are no secret."""
        for setting in settings:
            texts = [value for name, value in values if name == setting.name and not setting.secret]
            words = [w for text in texts for w in (*credentials_in(text), *(p for p in sorted(known) if p in text))]
            if words:
                # A host name is compared and printed in lower case.
                self.misplaced[setting.name] = tuple(Secret(w) for w in dict.fromkeys([*words, *map(str.lower, words)]))
        hidden = [secret.reveal() for words in self.misplaced.values() for secret in words]
        self.redact = KnownSecrets([*sorted(known), *hidden]).redact


def _parts(value: str) -> Iterator[str]:
    """The secrets in the value of a setting for secrets: all of it, and each entry of a list without its name."""
    passwords = re.findall(r"//[^/@]*:([^/@]*)@", value)
    for part in (value.strip(), *passwords, *(entry.rpartition(":")[2].strip() for entry in value.split(","))):
        if len(part) >= _MIN_KNOWN_CHARACTERS:
            yield part
