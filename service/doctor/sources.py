"""Compares the sources of the settings: the environment and the `.env` files. Pure.

No sentence holds a value; of a key it holds the fingerprint.
"""

import re
from collections.abc import Iterator
from typing import Final

from service.doctor.env_text import KEY, is_misplaced_key
from service.realtime.keys import fingerprint
from service.settings import SETTING_NAMES, SETTINGS
from service.settings.envfiles import ENVIRONMENT_ORIGIN, Layers

SIMULATOR_PREFIX: Final = "sk-sim-"


def conflicting_values(layers: Layers) -> Iterator[str]:
    """Settings that two sources set to different values, and secrets that are set both directly and by file."""
    for name in sorted(SETTING_NAMES):
        holders = [(layer.origin, layer.values[name]) for layer in layers.layers if layer.values.get(name, "").strip()]
        for origin, value in holders[1:]:
            if value.strip() != holders[0][1].strip():
                yield _conflict(name, holders[0], (origin, value))
    for setting in SETTINGS:
        if setting.file_name is None:
            continue
        direct, by_file = layers.find(setting.name), layers.find(setting.file_name)
        if direct is not None and by_file is not None and direct[1] != by_file[1]:
            order = [layer.origin for layer in layers.layers]
            used = setting.name if order.index(direct[1]) < order.index(by_file[1]) else setting.file_name
            yield (
                f"{setting.name} ({_place(direct[1])}) and {setting.file_name} ({_place(by_file[1])}) are both set; "
                f"{used} is used; unset the other"
            )


def _conflict(name: str, used: tuple[str, str], overridden: tuple[str, str]) -> str:
    values = (used[1].strip(), overridden[1].strip())
    fingerprints = f" ({fingerprint(values[0])}, not {fingerprint(values[1])})" if name == KEY else ""
    remedy = f"run 'unset {name}' to use the file's value" if used[0] == ENVIRONMENT_ORIGIN else "remove one of the two"
    return f"{name} from {_place(used[0])} overrides a different value in {overridden[0]}{fingerprints}; {remedy}"


def empty_settings(layers: Layers, *, in_environment: bool) -> Iterator[str]:
    """Settings that a source sets to an empty value, which counts as unset.

    Compose sets each variable that it passes on, `${NAME:-}`, to nothing. In the environment that is of interest only if the
    setting is missing.
    """
    for layer in layers.layers:
        for name, value in layer.values.items():
            is_of_interest = in_environment or layer.origin != ENVIRONMENT_ORIGIN
            if name in SETTING_NAMES and not value.strip() and is_of_interest:
                yield f"{name} is empty ({_place(layer.origin)}), which counts as unset"


def _place(origin: str) -> str:
    return "the environment" if origin == ENVIRONMENT_ORIGIN else origin


# -- secrets ----------------------------------------------------------------------------------------------------------


def secrets_of(layers: Layers) -> Iterator[str]:
    """Every secret in any source, used or not: the redaction of the output needs them."""
    secret_names = {setting.name for setting in SETTINGS if setting.secret}
    for layer in layers.layers:
        for name, value in layer.values.items():
            if name in secret_names:
                yield from _secret_parts(value)
            elif "proxy" in name.lower():
                yield from _url_passwords(value)
            elif name.upper() == KEY or is_misplaced_key(value):
                yield from _secret_parts(value)


def _secret_parts(value: str) -> Iterator[str]:
    """The secrets in a value, without a name, quotes or an authentication scheme that was copied with them."""
    if "://" in value:
        yield from _url_passwords(value)
        return
    bare = re.sub(r"^(export\s+)?\w+\s*=", "", value.strip())
    bare = re.sub(r"^bearer\s+", "", bare.strip("\"'`\ufeff\u2018\u2019\u201c\u201d \t\r\n"), flags=re.IGNORECASE)
    if bare.startswith(SIMULATOR_PREFIX):
        # Not a secret, and redaction also hides the tail of a secret: here a word such as 'quota-exhausted'.
        return
    yield bare
    for part in bare.split(","):
        yield part.rpartition(":")[2].strip()


def _url_passwords(value: str) -> Iterator[str]:
    for credentials in re.findall(r"(?://|^)([^/@\s]+)@", value):
        yield credentials.partition(":")[2]
