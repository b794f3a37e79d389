"""Provider keys: families, lint, fingerprint. Pure.

Rules of this file:

* The lint is no stricter than the facts, because compatible servers use keys of any shape. A problem is `fatal` if the key
  cannot be sent in an HTTP header or is obviously a mistake. Other problems are warnings.
* No function returns characters of a key, except those of its public family prefix.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

from service.realtime.key_shapes import KeyShape, Scope, find_shape, is_bearer_token

Provider = Literal["openai", "azure", "compatible", "simulator"]


class Secret:
    """A value that `repr`, `str`, formatting and pickling do not show. Comparison takes constant time."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value, for the code that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(hidden)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes(), other._bytes())

    def _bytes(self) -> bytes:
        # surrogatepass: an environment variable need not be UTF-8
        return self._value.encode("utf-8", "surrogatepass")

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of key with a public prefix. `vendor` is None for OpenAI's own."""

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
    Family("GitHub token", "github_pat_", "GitHub"),
    Family("GitLab token", "glpat-", "GitLab"),
    Family("AWS access key ID", "AKIA", "AWS"),
    Family("Stripe key", "sk_live_", "Stripe"),
    Family("Stripe key", "sk_test_", "Stripe"),
    Family("HashiCorp Vault token", "hvs.", "HashiCorp"),
    Family("Google token", "ya29.", "Google"),
    Family("Slack token", "xox", "Slack"),
    Family("Perplexity key", "pplx-", "Perplexity"),
    Family("NVIDIA key", "nvapi-", "NVIDIA"),
    Family("Replicate token", "r8_", "Replicate"),
    Family("ChatGPT login token", "eyJ"),
    Family("client secret", "ek_"),
    Family("user key", "sk-"),
)
UNKNOWN: Final = Family("key of unknown shape", "")

_MAX_KEY_CHARACTERS: Final = 2048
"""Above the length of any key (167 characters for OpenAI's longest), below the header limit of proxies."""
_PLACEHOLDER: Final = re.compile(
    r"your[-_ ]|[-_ ]here\b|<[^>]*>|\.\.\.|\u2026|x{6,}|\*{3,}|change[-_]?me|replace[-_]|placeholder"
    # The short words must be separate: one key in some thousands contains 'todo' in its random part.
    r"|(?<![a-z0-9])(?:todo|example|insert)(?![a-z0-9])",
    re.IGNORECASE,
)
_QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"


@dataclass(frozen=True, slots=True)
class KeyProblem:
    """A problem with a key. `fatal`: a connection with it cannot succeed."""

    code: str
    sentence: str
    remedy: str
    fatal: bool = True


def family_of(key: str) -> Family:
    """Return the family of a key by its prefix, or `UNKNOWN`."""
    return next((family for family in FAMILIES if key.startswith(family.prefix)), UNKNOWN)


def fingerprint(key: str) -> str:
    """Return a name for a key in logs: its family, its length and eight hex digits of its SHA-256."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{family_of(key).name}, {len(key)} characters, sha256:{digest}"


def lint(key: str | None, provider: Provider = "openai") -> list[KeyProblem]:
    """Return the problems with a key that are visible without a request to the provider, fatal ones first."""
    if key is None or not key.strip():
        return [KeyProblem("missing", "No provider key is configured.", "Set OPENAI_API_KEY or OPENAI_API_KEY_FILE.")]
    shape = find_shape(key.strip().strip(_QUOTES).strip())
    named = [*_shape_problems(key, shape, provider), *_header_problems(key, shape), *_content_problems(key)]
    problems = [*named, *_family_problems(key, provider, is_named=bool(named))]
    return sorted(problems, key=lambda problem: not problem.fatal)


def _shape_problems(key: str, shape: KeyShape | None, provider: Provider) -> Iterable[KeyProblem]:
    if shape is None or (shape.scope is Scope.OPENAI and provider != "openai"):
        return
    # A value with a blank is no bearer token: a compatible server cannot accept it either.
    is_fatal = provider == "openai" or shape.scope is Scope.EVERYWHERE or bool(re.search(r"\s", key.strip()))
    yield KeyProblem(shape.code, f"The key {shape.sentence}", shape.remedy, is_fatal)


def _header_problems(key: str, shape: KeyShape | None) -> Iterable[KeyProblem]:
    bare = key.strip()
    if key.startswith("\ufeff"):
        yield KeyProblem(
            "byte_order_mark",
            "The key begins with a byte order mark.",
            "Save the file as UTF-8 without a byte order mark.",
        )
    if "\r" in key:
        yield KeyProblem(
            "carriage_return", "The key contains a carriage return.", "Save the file with LF line endings."
        )
    elif "\n" in bare:
        yield KeyProblem("line_break", "The key contains a line break.", "Put the key on one line.")
    if bare[0] in _QUOTES or bare[-1] in _QUOTES:
        yield KeyProblem(
            "quotes",
            "The key begins or ends with a quotation mark.",
            "Remove the quotation marks: they became part of the key.",
        )
    if bare.lower().startswith("bearer"):
        yield KeyProblem("bearer", "The key begins with 'Bearer'.", "Set the key without 'Bearer': the relay adds it.")
    elif shape is None and re.search(r"[ \t]", bare):
        yield KeyProblem("inner_blank", "The key contains a space.", "Copy the whole key again, on one line.")
    if key != bare and "\r" not in key:
        yield KeyProblem("outer_blank", "The key has spaces around it.", "Remove the spaces before and after the key.")
    if not bare.isascii() or re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", bare):
        yield KeyProblem(
            "not_ascii", "The key contains characters that no key has.", "Copy the key again from the provider's page."
        )


def _content_problems(key: str) -> Iterable[KeyProblem]:
    bare = key.strip().strip(_QUOTES)
    # A simulator key names its scenario, which can look like a placeholder.
    if not bare.startswith("sk-sim-") and _PLACEHOLDER.search(bare):
        yield KeyProblem("placeholder", "The key is a placeholder.", "Replace the placeholder with your own key.")
    if len(bare) > _MAX_KEY_CHARACTERS:
        yield KeyProblem(
            "too_long", "The key is longer than any known key.", "Check whether a whole file was pasted as the key."
        )


def _family_problems(key: str, provider: Provider, *, is_named: bool) -> Iterable[KeyProblem]:
    if provider != "openai":
        return  # compatible servers use any shape, Azure 32 hex digits; the simulator accepts any key
    bare = key.strip().strip(_QUOTES)
    family = family_of(bare)
    if family.vendor is not None:
        yield KeyProblem(
            "other_vendor",
            f"The key is {_article(family.name)} {family.name}.",
            "Use an OpenAI key, or set OPENAI_BASE_URL to the vendor's server.",
        )
    elif family.name == "admin key":
        yield KeyProblem(
            "admin_key", "The key is an admin key, which cannot open sessions.", "Create a project key and use it."
        )
    elif is_named:
        return  # the shape of what is no key shows nothing more
    elif family.name in {"ChatGPT login token", "session token"}:
        yield KeyProblem(
            "login_token", f"The key looks like a {family.name}.", "Create an API key and use it.", fatal=False
        )
    elif not is_bearer_token(bare):
        yield KeyProblem(
            "no_token",
            "The key contains punctuation that no key has.",
            "Copy the key again from the provider's page, without other text.",
        )
    elif family is UNKNOWN:
        yield KeyProblem(
            "unknown_shape",
            "The key does not begin with 'sk-' or 'ek_', as OpenAI's keys do.",
            "Check that this is the OpenAI key.",
            fatal=False,
        )


def _article(name: str) -> str:
    return "an" if name[0].lower() in "aeiox" else "a"
