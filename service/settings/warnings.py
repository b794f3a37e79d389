"""What is odd about the environment without being a mistake: misspelt names, service links, risky values."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.settings.envfiles import Layers

_MEANT_KEY: Final = frozenset({
    "OPENAI_KEY", "OPENAI_APIKEY", "OPEN_AI_KEY", "OPEN_AI_API_KEY", "OPENAI_API", "OPENAI_TOKEN", "OPENAI_SECRET_KEY",
    "OPENAI_API_TOKEN", "OPENAI_API_KEYS", "OPEN_API_KEY",
})  # fmt: skip
_SHORT_TOKEN: Final = 16


@dataclass(frozen=True, slots=True)
class SettingWarning:
    """Something odd: the variable and a sentence, neither with a value of a secret."""

    variable: str
    sentence: str


def find_warnings(layers: Layers, known: frozenset[str], *, has_key: bool) -> Iterable[SettingWarning]:
    """All warnings, in the order of the names."""
    for about, sentence in layers.remarks:
        yield SettingWarning(about, sentence)
    for name in layers.service_links:
        yield SettingWarning(
            name, "was set by Kubernetes for a Service and is ignored; set enableServiceLinks: false in the pod"
        )
    for name, origin in sorted(layers.names().items()):
        found = layers.find(name)
        value = found[0] if found else ""
        if name.startswith("RELAY_") and name not in known:
            nearest = difflib.get_close_matches(name, sorted(known), 1, 0.6)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            yield SettingWarning(name, f"is no setting of the relay ({origin}){hint}")
        elif not has_key and name not in known and name.upper().replace("-", "_") in _MEANT_KEY | {"OPENAI_API_KEY"}:
            yield SettingWarning(name, f"is not read ({origin}); the key's name is OPENAI_API_KEY")
        elif name == "SSLKEYLOGFILE":
            yield SettingWarning(name, "would write the secrets of TLS connections to a file; the relay removes it")
        elif name == "RELAY_CLIENT_TOKENS" and any(
            len(part.rpartition(":")[2].strip()) < _SHORT_TOKEN for part in value.split(",") if part.strip()
        ):
            yield SettingWarning(name, f"holds a token shorter than {_SHORT_TOKEN} characters, which can be guessed")
