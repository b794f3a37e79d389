"""What is odd about the environment without being a mistake: misspelt names, service links, risky values."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.envfiles import Layers

# Kubernetes puts RELAY_PORT=tcp://10.0.0.1:80, RELAY_SERVICE_HOST and the like into every pod next to a Service 'relay'.
_LINK_NAME: Final = re.compile(r"RELAY_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")
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


def is_service_link(name: str, value: str) -> bool:
    """Whether a setting's value was put there by Kubernetes and not by a person."""
    return name == "RELAY_PORT" and bool(_LINK_VALUE.match(value.strip()))


def find_warnings(layers: Layers, known: frozenset[str], *, has_key: bool) -> Iterable[SettingWarning]:
    """All warnings, in the order of the names."""
    for remark in layers.remarks:
        yield SettingWarning(".env", remark)
    for name, origin in sorted(layers.names().items()):
        found = layers.find(name)
        value = found[0] if found else ""
        if is_service_link(name, value) or _LINK_NAME.fullmatch(name):
            yield SettingWarning(
                name,
                "was set by Kubernetes for a Service named 'relay' and is ignored; set enableServiceLinks: false in the pod",
            )
        elif name.startswith("RELAY_") and name not in known:
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
