"""Keys: families, lint, fingerprint, redaction. Pure.

Rules of this file:

* Never stricter than the facts. Compatible servers use any shape; only what cannot travel in an HTTP header, or what is
  plainly a mistake, is `fatal`. The rest is advice.
* Nothing here ever returns characters of a key but those of its public family prefix.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

Provider = Literal["openai", "azure", "compatible", "simulator"]


class Secret:
    """A value that is never shown: `repr`, `str`, formatting and pickling keep it hidden; comparing takes constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def _bytes(self) -> bytes:
        # surrogatepass: what the environment holds need not be UTF-8
        return self._value.encode("utf-8", "surrogatepass")

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not serialised")


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of key, told by its public prefix; `vendor` is None for OpenAI's own."""

    name: str
    prefix: str
    vendor: str | None = None


# Longest prefix first. Shapes: OpenAI's documentation and the public rules of secret scanners.
FAMILIES: Final = (
    Family("service account key", "sk-svcacct-"),
    Family("simulator key", "sk-sim-"),
    Family("project key", "sk-proj-"),
    Family("admin key", "sk-admin-"),
    Family("Anthropic key", "sk-ant-", "Anthropic"),
    Family("OpenRouter key", "sk-or-", "OpenRouter"),
    Family("session token", "sess-"),
    Family("xAI key", "xai-", "xAI"),
    Family("Groq key", "gsk_", "Groq"),
    Family("Google key", "AIza", "Google"),
    Family("Hugging Face token", "hf_", "Hugging Face"),
    Family("GitHub token", "ghp_", "GitHub"),
    Family("ChatGPT login token", "eyJ"),
    Family("client secret", "ek_"),
    Family("user key", "sk-"),
)
UNKNOWN: Final = Family("key of unknown shape", "")

_MAX_KEY_CHARACTERS: Final = 2048
"""Far above any key (167 characters for OpenAI's longest, some hundred for login tokens); below what proxies refuse."""
_PLACEHOLDER: Final = re.compile(
    r"your[-_ ]|[-_ ]here\b|<[^>]*>|\.\.\.|\u2026|x{6,}|\*{3,}|change[-_]?me|replace[-_]|placeholder|todo|example|insert[-_]",
    re.IGNORECASE,
)
_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """Something wrong with a key. `fatal`: dialling with it is pointless."""

    code: str
    sentence: str
    remedy: str
    fatal: bool = True


def family_of(key: str) -> Family:
    """The family of a key, by its prefix."""
    return next((family for family in FAMILIES if key.startswith(family.prefix)), UNKNOWN)


def fingerprint(key: str) -> str:
    """A name for a key in logs: family, length and eight hex digits of its SHA-256, none of its characters."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{family_of(key).name}, {len(key)} characters, sha256:{digest}"


def lint(key: str | None, provider: Provider = "openai") -> list[KeyProblem]:
    """What is wrong with a key before anybody is asked, the gravest first; empty if nothing is."""
    if key is None or not key.strip():
        return [KeyProblem("missing", "There is no key.", "Set OPENAI_API_KEY or OPENAI_API_KEY_FILE.")]
    problems = [*_travel_problems(key), *_sense_problems(key), *_family_problems(key, provider)]
    return sorted(problems, key=lambda problem: not problem.fatal)


def _travel_problems(key: str) -> Iterable[KeyProblem]:
    """What cannot travel in a header, or came along by mistake."""
    bare = key.strip()
    if key.startswith("\ufeff"):
        yield KeyProblem("byte_order_mark", "The key begins with a byte order mark.", "Save the file as plain UTF-8.")
    if "\r" in key:
        yield KeyProblem("carriage_return", "The key ends in a carriage return.", "Save the file with LF line ends.")
    elif "\n" in bare:
        yield KeyProblem("line_break", "The key holds a line break.", "Put the key on one line.")
    if bare[0] in _QUOTES or bare[-1] in _QUOTES:
        yield KeyProblem("quotes", "The key has quotes around it.", "Remove the quotes; they became part of the key.")
    if bare.lower().startswith("bearer"):
        yield KeyProblem("bearer", "The key begins with 'Bearer'.", "Give the key alone; the relay adds 'Bearer'.")
    elif re.search(r"[ \t]", bare):
        yield KeyProblem("inner_blank", "The key has a blank in it.", "Copy the key again, whole and on one line.")
    if key != bare and "\r" not in key:
        yield KeyProblem("outer_blank", "The key has blanks around it.", "Remove the blanks before and behind the key.")
    if not bare.isascii() or re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", bare):
        yield KeyProblem(
            "not_ascii", "The key has characters that no key has.", "Copy the key again from the provider's page."
        )


def _sense_problems(key: str) -> Iterable[KeyProblem]:
    bare = key.strip().strip(_QUOTES)
    # Simulator keys name their scenario in plain words, which may look like a placeholder's.
    if not bare.startswith("sk-sim-") and _PLACEHOLDER.search(bare):
        yield KeyProblem("placeholder", "The key is a placeholder.", "Put your own key in its place.")
    if len(bare) > _MAX_KEY_CHARACTERS:
        yield KeyProblem("too_long", "The key is far longer than any key.", "Look for a whole file pasted as the key.")
    if re.match(r"(export\s+)?OPENAI_API_KEY\s*=", bare):
        yield KeyProblem("assignment", "The key begins with its own name.", "Give the value only, without 'NAME='.")


def _family_problems(key: str, provider: Provider) -> Iterable[KeyProblem]:
    if provider != "openai":
        return  # a compatible server may use any shape, Azure uses 32 hex digits, the simulator takes all
    family = family_of(key.strip().strip(_QUOTES))
    if family.vendor is not None:
        yield KeyProblem(
            "other_vendor",
            f"This is {_article(family.name)} {family.name}.",
            "Use a key of OpenAI, or set OPENAI_BASE_URL.",
        )
    elif family.name == "admin key":
        yield KeyProblem("admin_key", "This is an admin key; it opens no sessions.", "Make a project key and use that.")
    elif family.name in {"ChatGPT login token", "session token"}:
        yield KeyProblem(
            "login_token", f"This looks like a {family.name}.", "Make an API key and use that.", fatal=False
        )
    elif family is UNKNOWN:
        yield KeyProblem(
            "unknown_shape", "OpenAI's keys begin with 'sk-' or 'ek_'.", "Check that this is the key.", fatal=False
        )


def _article(name: str) -> str:
    return "an" if name[0].lower() in "aeiox" else "a"
