"""What a value is that was set as the key but plainly is none: a reference that was not resolved, a document, a path. Pure.

Each row of the table recognises one mistake by its shape. The first row that matches names the value. Rules of this file:

* A row must not match a key of OpenAI, whatever its random part: those consist of letters, digits, `_` and `-`.
* Compatible servers use keys of any shape. There a row is a warning at most, and a dummy such as `none` is accepted.
* No sentence holds a part of the value: it can be the name of a vault, or a document with the key in it.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final
from urllib.parse import unquote


class Scope(Enum):
    """Where a shape is a mistake."""

    EVERYWHERE = auto()
    """No server can accept the value."""
    WARNS_ELSEWHERE = auto()
    """Fatal for OpenAI. A compatible server might accept the value, so the relay sends it there and warns."""
    OPENAI = auto()
    """Fatal for OpenAI. A compatible server may well use such a key: no warning there."""


@dataclass(frozen=True, slots=True)
class KeyShape:
    """One mistake: `sentence` completes "The key", `remedy` is an instruction. `matches` gets the value without blanks."""

    code: str
    matches: Callable[[str], object]
    sentence: str
    remedy: str
    scope: Scope = Scope.WARNS_ELSEWHERE


def find_shape(text: str) -> KeyShape | None:
    """The first shape that a value has, or None if it can be a key."""
    return next((shape for shape in SHAPES if shape.matches(text)), None)


def is_bearer_token(text: str) -> bool:
    """Whether a value is a token in the grammar of RFC 6750 section 2.1. No server can read another one after `Bearer`."""
    return re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", text) is not None


# -- matchers ---------------------------------------------------------------------------------------------------------


def _pattern(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern, re.IGNORECASE | re.DOTALL).match


def _exact(pattern: str) -> Callable[[str], object]:
    return re.compile(pattern, re.DOTALL).match


_MAX_DECODED: Final = 16_384
_MAX_LAYERS: Final = 3
_KEY_START: Final = re.compile(rb"(sk-[\w-]{2}|[{\"']|OPENAI_API_KEY|Bearer )")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2}){8,}")


def _is_encoded(text: str) -> bool:
    """Whether the value is a key in base64 (up to three times), in hexadecimal or percent-encoded."""
    if re.match(r"sk%|%73", text) and unquote(text).startswith("sk-"):
        return True
    if _HEX.fullmatch(text) and bytes.fromhex(text[:_MAX_DECODED]).startswith(b"sk-"):
        return True
    data = text.encode("ascii", "ignore")[:_MAX_DECODED]
    for _ in range(_MAX_LAYERS):
        decoded = _from_base64(data)
        if decoded is None or not decoded.strip().isascii() or not decoded.strip().decode("ascii").isprintable():
            return False
        data = decoded.strip()
        if _KEY_START.match(data):
            return True
    return False


def _from_base64(data: bytes) -> bytes | None:
    data = b"".join(data.split()).rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True) or None
    except (binascii.Error, ValueError):
        return None


def _is_json(text: str) -> bool:
    """Whether the value is a JSON object, array or string; also one that was cut off before its end."""
    if re.match(r"[{\[]\s*\"", text):
        return True
    if text[:1] not in "{[":
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


# -- the table --------------------------------------------------------------------------------------------------------

_SET_KEY: Final = "Set OPENAI_API_KEY to the key itself, or OPENAI_API_KEY_FILE to a file that holds it."
_KEY: Final = r"(?:sk|ek)[-_]"

SHAPES: Final = (
    KeyShape(
        "azure_reference",
        _pattern(r"@Microsoft\.\w+\(|SecretUri="),
        "is a reference to Azure Key Vault or App Configuration that was not resolved.",
        "App Service resolves it only if the app's managed identity can read the secret: check the reference's status in the "
        "Azure portal. Elsewhere set OPENAI_API_KEY to the key itself.",
    ),
    KeyShape(
        "onepassword_reference",
        _pattern(r"op://"),
        "is a 1Password reference that was not resolved.",
        "Start the relay through 'op run --env-file=.env -- COMMAND', or set OPENAI_API_KEY to the key itself.",
    ),
    KeyShape(
        "encrypted",
        _exact(
            r"ENC\[|ENC\(|\{cipher\}|encrypted:|\$ANSIBLE_VAULT|!vault\b|vault:v\d+:|gAAAAA|AQICAH|U2FsdGVkX1|age1[a-z0-9]{20}"
        ),
        "is encrypted.",
        "Decrypt it where it is deployed (for example 'sops -d', 'dotenvx run', 'ansible-vault view'): the relay does not "
        "decrypt values.",
    ),
    KeyShape(
        "pem",
        _pattern(r"-----BEGIN |LS0tLS1CRUdJTi|ssh-(?:rsa|ed25519) "),
        "is a certificate, a private key of another kind or an encrypted message, not an API key.",
        _SET_KEY,
    ),
    KeyShape(
        "secret_reference",
        _pattern(
            r"(?!https?://|wss?://|file:)[a-z][a-z0-9+.-]*://"
            r"|arn:[a-z-]+:|>>vault:|(?:vault|bao|secrets?|secretref|keyvaultref|kv|akv|ssm|sm|asm|awssm|gsm|gcpsm|gcp|keyring|"
            r"keychain|infisical|doppler|sops|docker-secret|secretsmanager|aws-sm|parameterstore|bws|ref)[:+](?!//)\S"
            r"|ref\+|(?:projects|secrets)/[^/\s]+/(?:secrets|versions)/|\S*\bsecretKeyRef\b|\S*\bvalueFrom\b|\S*\bsecretRef\b"
            r"|/?subscriptions/[^/\s]+/|!(?:Ref|Sub|ImportValue|GetAtt|reference|secret)\b|\$var:"
        ),
        "is a reference to a secret store that was not resolved.",
        "Let the platform resolve it before the relay starts, for example as a mounted file that OPENAI_API_KEY_FILE names: "
        "the relay reads no secret store.",
    ),
    KeyShape(
        "url",
        _pattern(r"(?:https?|wss?)://|[\w-]+(?:\.[\w-]+)*\.(?:com|net|org|io|ai|dev)(?::\d+)?(?:/|\Z)"),
        "is a URL.",
        "Set OPENAI_API_KEY to the key; the address of a server belongs in OPENAI_BASE_URL.",
    ),
    KeyShape(
        "code",
        _pattern(
            r"os\.environ/|(?:process\.env|import\.meta|os\.environ|os\.getenv|os\.Getenv|Deno\.env|System\.getenv|getenv|\$?env|secrets|vars?|"
            r"local|data|module|config)[.\[(:{]\s*\S|\$ENV\b|\[object \w+\]"
        ),
        "is an expression that was not evaluated.",
        _SET_KEY,
    ),
    KeyShape(
        "template",
        _exact(
            r".*(?:\$\{|\$\(|\$\[|\$\$?[A-Za-z_]\w*\Z|\{\{|\}\}|<%|%>|#\{|@@\w+@@)|%\w+%\Z|%\(\w+\)|\(\(.+\)\)\Z|\[\[|\$__\w+\{|\$\w+\$\Z|\{\w+:[^}]+\}\Z|\{\w+\}\Z|\[\w+\]\Z|__\w+__\Z|:\w+:\Z|#\w+#\Z"
        ),
        "contains a variable or template that was not expanded.",
        "Neither the relay nor 'docker run --env-file' expands variables in .env: set OPENAI_API_KEY to the key itself, or "
        "run the tool that renders the template first.",
    ),
    KeyShape(
        "json",
        _is_json,
        "is a JSON document.",
        "Set only the value of the field that holds the key; Amazon ECS selects it with 'valueFrom: <arn>:OPENAI_API_KEY::'.",
    ),
    KeyShape(
        "encoded",
        _is_encoded,
        "is base64 or another encoding of a key.",
        "Decode it once more ('base64 -d'). A Kubernetes Secret takes plain values under stringData and base64 under data.",
    ),
    KeyShape(
        "assignment",
        _pattern(
            r"(?:export|set|setx|let|const|var|env|-e|--env|-)?\s*(?:\$env:)?['\"]?OPENAI_API_KEY['\"]?\s*[=:]\s*\S"
        ),
        "begins with its variable's name.",
        "Set only the value, without 'OPENAI_API_KEY='.",
        Scope.EVERYWHERE,
    ),
    KeyShape(
        "assignment",
        _pattern(
            r"(?:(?:export|set|setx|let|const|var|env|-e|--env|-)\s+)?(?:\$env:)?['\"]?[a-z_][\w.-]*['\"]?\s*(?:=\s*[^=\s]|:\s+\S)"
        ),
        "is a line NAME=value or 'name: value'.",
        "Set only the value, without the name before it.",
    ),
    KeyShape(
        "comment",
        _pattern(r"\S+\s+(?:#|//|;|--|<!--)"),
        "ends with a comment.",
        "Remove the comment: 'docker run --env-file' and other readers of such files keep it as a part of the value.",
        Scope.EVERYWHERE,
    ),
    KeyShape(
        "option",
        _pattern(r"--[a-z][a-z-]*[= ]|(?:curl|docker|export|setx?|echo|cat)\s"),
        "is a part of a command line.",
        _SET_KEY,
    ),
    KeyShape(
        "several_keys",
        _exact(rf"{_KEY}[\w-]+[,;|\s]+{_KEY}|({_KEY}[\w-]{{20,}}?)\1\Z"),
        "holds more than one key.",
        "Set one key, once.",
    ),
    KeyShape(
        "trailing_punctuation",
        _exact(rf"{_KEY}[\w-]{{8,}}(?:[,;.:)\]}}>=$\\]+|\\[nr]|%0[AD])\Z"),
        "ends with punctuation that was copied with it.",
        "Remove what follows the key.",
    ),
    KeyShape(
        "path",
        _pattern(
            r"file:|(?:~|\.{1,2})?[/\\][\w.-]+(?:[/\\][\w. -]+)+\Z|(?:~|\.{1,2})[/\\]\S|[a-z]:[\\/]|\\\\\w"
            r"|[\w.-]*\.(?:txt|key|pem|env|json|ya?ml|toml|ini|secret|enc|gpg|asc|p12)\Z|\.env\b"
        ),
        "is the name of a file.",
        "Set OPENAI_API_KEY_FILE to this path instead, and unset OPENAI_API_KEY.",
    ),
    KeyShape(
        "masked",
        _pattern(
            r"(?:sk|ek)[-_](?:proj-|svcacct-)?x+\Z|.*(?:\*{2,}|[\u2022\u25cf\u2217]{2,}|(?<![a-z0-9])(?:redacted|masked|hidden)(?![a-z0-9]))"
        ),
        "is masked: it was copied from a page or a log that hides the rest.",
        "Create a key: the provider shows it only once.",
    ),
    KeyShape(
        "relative_path",
        _exact(r"[a-z][a-z0-9_.-]*(?:/[a-z0-9_.-]+)+\Z|/[\w.-]+(?:/[\w.-]+)*/?\Z|@[\w./~-]+\Z"),
        "is a path.",
        "Set OPENAI_API_KEY_FILE if it is a file; the relay reads no secret store.",
        Scope.OPENAI,
    ),
    KeyShape(
        "variable_name",
        _exact(
            r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\Z|(?:[A-Za-z]+[-_])+(?:key|token|secret|KEY|TOKEN|SECRET)\Z|(?:[a-z]+[-_.])*api[-_]?key\Z"
        ),
        "is the name of a variable or of a secret.",
        "Set its value, not its name; OPENAI_API_KEY_FILE names a file.",
        Scope.OPENAI,
    ),
    KeyShape(
        "prefix_only",
        _exact(r"(?:sk|ek|sess)[-_]?(?:(?:proj|svcacct|admin)-?)?\Z"),
        "is only the beginning of a key.",
        "Copy the whole key.",
        Scope.OPENAI,
    ),
    KeyShape(
        "identifier",
        _exact(
            r"(?:org|user|asst|thread|sess_|call|resp|conv|whsec)[-_][A-Za-z0-9]{6,}\Z|(?:proj|key)_[A-Za-z0-9]{6,}\Z"
        ),
        "is an identifier of the provider, not a key.",
        "Create an API key at https://platform.openai.com/api-keys; the IDs of an organization and a project belong in "
        "OPENAI_ORG_ID and OPENAI_PROJECT_ID.",
        Scope.OPENAI,
    ),
    KeyShape(
        "altered_prefix",
        _exact(r"(?!sk-)[sS][kK][-_](?!live_|test_)"),
        "begins with another spelling of 'sk-': it was changed when it was copied.",
        "Copy the key again: upper and lower case and each '-' count.",
        Scope.OPENAI,
    ),
    KeyShape(
        "uuid",
        _pattern(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"),
        "is a UUID, such as the ID of a secret.",
        _SET_KEY,
        Scope.OPENAI,
    ),
    KeyShape(
        "word",
        _exact(r"(?!sk-|ek_|sess-|xai-)(?:[-._~]+|[A-Za-z]{1,15}|[A-Za-z0-9]{1,12}|n/a|[a-z]+(?:-[a-z]+){1,4})\Z"),
        "is a word, and too short to be a key.",
        _SET_KEY,
        Scope.OPENAI,
    ),
)
