"""Settings that are set, but have no effect because of another one."""

from collections.abc import Callable, Iterator
from typing import Final

from service.settings.declared import Settings, declaration_of
from service.settings.warnings import SettingWarning

_DEFAULTS: Final = Settings()


def without_effect(settings: Settings) -> Iterator[SettingWarning]:
    """The settings that have no effect; one that has its default harms nothing, and is not among them."""
    for names, applies, why in _CASES:
        for name in names:
            field = declaration_of(name).field
            is_changed = name in settings.origins and getattr(settings, field) != getattr(_DEFAULTS, field)
            if is_changed and applies(settings):
                yield SettingWarning(name, f"has no effect {why}")


_CASES: Final[tuple[tuple[tuple[str, ...], Callable[[Settings], bool], str], ...]] = (
    (
        ("RELAY_CLIENT_TOKENS",),
        lambda settings: settings.access == "open",
        "while access is open: every client is served without a token; set RELAY_ACCESS=tokens",
    ),
    (
        ("RELAY_ALLOWED_HOSTS",),
        lambda settings: bool(settings.trusted_proxies),
        "while RELAY_TRUSTED_PROXIES is set: requests to any host name are served",
    ),
    (("RELAY_LIVE_START_SECONDS",), lambda settings: settings.live == "off", "while RELAY_LIVE is off"),
    (
        (
            "RELAY_RENEW_AFTER_SECONDS",
            "RELAY_RECOVERY_SECONDS",
            "RELAY_CONTINUITY_BYTES",
            "RELAY_CONTINUITY_AUDIO_BYTES",
            "RELAY_CONTINUITY_MAX_SECONDS",
        ),
        lambda settings: settings.continuity == "off",
        "while RELAY_CONTINUITY is off",
    ),
    (
        ("RELAY_CONTINUITY_MAX_SECONDS",),
        lambda settings: settings.continuity != "off" and "RELAY_MAX_SESSION_SECONDS" in settings.origins,
        "while RELAY_MAX_SESSION_SECONDS is set, which applies to every session",
    ),
    (
        ("RELAY_STORE_FAILURE",),
        lambda settings: settings.store_url is None,
        "while RELAY_STORE_URL is memory:, a store that does not fail",
    ),
)
