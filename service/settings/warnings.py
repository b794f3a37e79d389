"""Warnings about settings that are read but look like a mistake: misspelt names, service links, weak values."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.realtime.keys import family_of
from service.settings.envfiles import Layers

_KEY: Final = "OPENAI_API_KEY"
_MISSPELT_KEY: Final = frozenset({
    "OPENAI_KEY", "OPENAI_APIKEY", "OPEN_AI_KEY", "OPEN_AI_API_KEY", "OPENAI_API", "OPENAI_TOKEN", "OPENAI_SECRET_KEY",
    "OPENAI_API_TOKEN", "OPENAI_API_KEYS", "OPEN_API_KEY", _KEY,
})  # fmt: skip
_MIN_TOKEN_CHARACTERS: Final = 16
# Build tools for web pages replace variables with these prefixes by their values, in files that every visitor receives.
_PUBLIC_PREFIX: Final = re.compile(
    r"(?:NEXT_PUBLIC|VITE|REACT_APP|NUXT_PUBLIC|VUE_APP|GATSBY|EXPO_PUBLIC|PUBLIC|NG_APP|STORYBOOK|SNOWPACK_PUBLIC|RSPRESS|"
    r"PLASMO_PUBLIC|WXT|BUN_PUBLIC|ASTRO_PUBLIC|RAZZLE|REDWOOD_ENV|SANITY_STUDIO|TARO_APP|UMI_APP|MIX|MAIN_VITE|RENDERER_VITE)_"
)
_KEY_NAME: Final = re.compile(r"OPEN_?AI.*(?:KEY|TOKEN|SECRET)")
_KEY_FAMILIES: Final = frozenset({"project key", "service account key", "admin key", "user key"})
_MIN_KEY_CHARACTERS: Final = 20


@dataclass(frozen=True, slots=True)
class SettingWarning:
    """A variable or file, and the rest of the sentence that it begins. Neither holds the value of a secret."""

    variable: str
    sentence: str


def find_warnings(layers: Layers, known: frozenset[str], *, has_key: bool) -> Iterable[SettingWarning]:
    """All warnings: about files first, then about variables in alphabetical order. `known` holds all setting names."""
    for about, sentence in layers.remarks:
        yield SettingWarning(about, sentence)
    for name in layers.service_links:
        yield SettingWarning(
            name, "was set by Kubernetes for a Service and is ignored; set enableServiceLinks: false in the pod"
        )
    for name, origin in sorted(layers.names().items()):
        if name.upper().startswith("RELAY_") and name not in known:
            nearest = difflib.get_close_matches(name.upper(), sorted(known), 1, 0.6)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            yield SettingWarning(name, f"is not a setting of the relay ({origin}){hint}")
        elif not has_key and name not in known and name.upper().replace("-", "_") in _MISSPELT_KEY:
            yield SettingWarning(name, f"is not read ({origin}); the name of the key is {_KEY}")
        elif ships_to_browsers(name) and _holds_key(layers, name):
            yield SettingWarning(
                name,
                f"({origin}) ships to browsers: its prefix makes build tools put the value into the page. Revoke this key at "
                f"https://platform.openai.com/api-keys, and set a new one as {_KEY}",
            )
        elif name == "SSLKEYLOGFILE":
            yield SettingWarning(name, "would write the secrets of TLS connections to a file; the relay removes it")
        elif name == "RELAY_ALLOWED_ORIGINS" and _has_opaque_origin(layers):
            yield SettingWarning(
                name, "allows null, which every web page can send from a sandboxed frame; keep RELAY_ACCESS=tokens"
            )
        elif name == "RELAY_CLIENT_TOKENS" and _has_weak_token(layers):
            yield SettingWarning(
                name, f"holds a token shorter than {_MIN_TOKEN_CHARACTERS} characters, which can be guessed"
            )


def _has_opaque_origin(layers: Layers) -> bool:
    found = layers.find("RELAY_ALLOWED_ORIGINS")
    return found is not None and "null" in {entry.strip() for entry in found[0].split(",")}


def ships_to_browsers(name: str) -> bool:
    """Whether build tools put the value of a variable with this name into web pages."""
    return _PUBLIC_PREFIX.match(name) is not None


def _holds_key(layers: Layers, name: str) -> bool:
    found = layers.find(name)
    value = found[0].strip() if found is not None else ""
    is_key = family_of(value).name in _KEY_FAMILIES and len(value) > _MIN_KEY_CHARACTERS
    return is_key or (bool(_KEY_NAME.search(name)) and len(value) > _MIN_KEY_CHARACTERS)


def _has_weak_token(layers: Layers) -> bool:
    found = layers.find("RELAY_CLIENT_TOKENS")
    entries = found[0].split(",") if found is not None else []
    return any(len(entry.rpartition(":")[2].strip()) < _MIN_TOKEN_CHARACTERS for entry in entries if entry.strip())
