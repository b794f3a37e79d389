"""Warnings about settings that are read but look like a mistake: misspelt names, service links, weak values."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.realtime.keys import family_of
from service.realtime.names import is_loopback, reached_locally
from service.settings.env_names import printable_name
from service.settings.envfiles import Layers

_KEY: Final = "OPENAI_API_KEY"
# Names that other programs and older SDKs use for a setting of the relay, without underscores.
_OTHER_NAMES: Final = {
    other: name
    for name, others in {
        _KEY: "OPENAIKEY OPENAIAPI OPENAITOKEN OPENAISECRETKEY OPENAIAPITOKEN OPENAIAPIKEYS OPENAPIKEY",
        "OPENAI_BASE_URL": "OPENAIAPIBASE OPENAIAPIURL OPENAIURL OPENAIENDPOINT OPENAIAPIBASEURL",
        "OPENAI_ORG_ID": "OPENAIORGANIZATION OPENAIORGANIZATIONID OPENAIORG",
        "OPENAI_PROJECT_ID": "OPENAIPROJECT",
        "RELAY_MODEL": "OPENAIMODEL",
    }.items()
    for other in others.split()
}
_AZURE_NAMES: Final = {"AZUREOPENAIENDPOINT": "OPENAI_BASE_URL", "AZUREOPENAIAPIKEY": _KEY}
_SIMILARITY: Final = 0.85  # above that of two settings, and of most names of other programs
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


def find_warnings(
    layers: Layers, known: frozenset[str], *, has_key: bool, is_thorough: bool = False
) -> Iterable[SettingWarning]:
    """All warnings: about files first, then about variables in alphabetical order. `known` holds all setting names.

    `is_thorough`: also about other names of settings that are set, as the doctor reports them; a start does so only if the
    setting is missing, since the name can be meant for another program.
    """
    found = {name.removesuffix("_FILE") for name in known if layers.find(name) is not None} | (
        {_KEY} if has_key else set()
    )
    missing = {name for name in known if name.removesuffix("_FILE") not in found}
    for about, sentence in layers.remarks:
        yield SettingWarning(about, sentence)
    for name in layers.service_links:
        yield SettingWarning(
            name, "was set by Kubernetes for a Service and is ignored; set enableServiceLinks: false in the pod"
        )
    for name, origin in sorted(layers.names().items()):
        if name not in known and (hint := _hint(name, known, missing, is_thorough=is_thorough)) is not None:
            yield SettingWarning(printable_name(name), f"is not {hint[0]} ({origin}){hint[1]}")
        elif ships_to_browsers(name) and _holds_key(layers, name):
            yield SettingWarning(
                name,
                f"({origin}) ships to browsers: its prefix makes build tools put the value into the page. Revoke this key at "
                f"https://platform.openai.com/api-keys, and set a new one as {_KEY}",
            )
        elif name == "SSLKEYLOGFILE":
            yield SettingWarning(name, "would write the secrets of TLS connections to a file; the relay removes it")
        elif name in {"RELAY_HOST", "RELAY_INTERNAL_HOST"} and _is_unspecified_ipv6(layers, name):
            yield SettingWarning(name, "accepts IPv6 connections only; set 0.0.0.0 for IPv4")
        elif name == "RELAY_ALLOWED_ORIGINS" and _has_opaque_origin(layers):
            yield SettingWarning(
                name, "allows null, which every web page can send from a sandboxed frame; keep RELAY_ACCESS=tokens"
            )
        elif name == "RELAY_ALLOWED_ORIGINS" and _is_open_to_every_page(layers):
            yield SettingWarning(
                name,
                "allows every web page while access is open: any page that a browser on this machine opens can spend the "
                "provider's credit; list the origins, or set RELAY_ACCESS=tokens",
            )
        elif name == "RELAY_CONSOLE" and _is_talk_page_of_no_origin(layers):
            yield SettingWarning(
                name,
                "serves the talk page beyond loopback while RELAY_ALLOWED_ORIGINS is empty: unless opened at localhost, its "
                "calls are refused with origin_refused; add its origin, such as https://relay.example.com",
            )
        elif name == "RELAY_CLIENT_TOKENS" and _has_weak_token(layers):
            yield SettingWarning(
                name, f"holds a token shorter than {_MIN_TOKEN_CHARACTERS} characters, which can be guessed"
            )


def _hint(name: str, known: frozenset[str], missing: set[str], *, is_thorough: bool) -> tuple[str, str] | None:
    """What a name that is no setting is not, and which setting it resembles; None for the name of another program."""
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    intended = next((n for n in sorted(known) if n.replace("_", "") == plain), None) or _OTHER_NAMES.get(plain)
    if name.upper().startswith("RELAY_"):
        nearest = difflib.get_close_matches(name.upper(), sorted(known), 1, 0.6)
        intended = intended or (nearest[0] if nearest else None)
        return "a setting of the relay", f"; did you mean {intended}?" if intended else ""
    if intended is None and is_thorough:
        intended = _AZURE_NAMES.get(plain)
    if intended is None and name[:1].upper() in {"O", "R"}:
        similar = difflib.get_close_matches(name.upper(), sorted(missing), 1, _SIMILARITY)
        intended = similar[0] if similar else None
    if intended is None or not (is_thorough or intended in missing):
        return None
    return "read", f"; the name of the key is {_KEY}" if intended == _KEY else f"; did you mean {intended}?"


def _has_opaque_origin(layers: Layers) -> bool:
    return "null" in _allowed_origins(layers)


def _is_open_to_every_page(layers: Layers) -> bool:
    access, host, clients = (
        (layers.find(name) or ("", ""))[0].strip() for name in ("RELAY_ACCESS", "RELAY_HOST", "RELAY_CLIENTS_FILE")
    )
    is_open = not clients and is_loopback(host.strip("[]") or "127.0.0.1") if not access else access.lower() == "open"
    return is_open and "*" in _allowed_origins(layers)


def _allowed_origins(layers: Layers) -> set[str]:
    return {entry.strip() for entry in (layers.find("RELAY_ALLOWED_ORIGINS") or ("", ""))[0].split(",")}


def _is_talk_page_of_no_origin(layers: Layers) -> bool:
    console, host, origins, proxies = (
        (layers.find(name) or ("", ""))[0].strip()
        for name in ("RELAY_CONSOLE", "RELAY_HOST", "RELAY_ALLOWED_ORIGINS", "RELAY_TRUSTED_PROXIES")
    )
    is_local = is_loopback(host.strip("[]") or "127.0.0.1") and not proxies
    return console == "on" and not origins and not is_local


def _is_unspecified_ipv6(layers: Layers, name: str) -> bool:
    found = layers.find(name)
    host = found[0].strip(" []") if found is not None else ""
    return ":" in host and reached_locally(host) != host


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
