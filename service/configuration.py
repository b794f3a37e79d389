"""From the settings of the process to the configuration of each package. Pure, but makes a random key where none is set.

The composition root, the commands and the doctor call these functions; no other package sees `Settings`.
"""

from collections.abc import Iterator, Sequence
from secrets import token_hex
from typing import Final, TypedDict

from service.access.clients import Client, ClientLimits, digest_of
from service.access.policy import AccessPolicy
from service.clients_file.load import ClientsFileReader, name_for_messages
from service.clients_file.parse import Surroundings
from service.failures import CATALOGUE, Blame
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.swap import SwapTimes
from service.realtime.events import Api
from service.realtime.keys import Secret, fingerprint
from service.relay.continuity.pool import ContinuityOptions
from service.relay.drain import DrainTiming
from service.relay.watchdog import SessionLimits
from service.settings import SETTINGS, Setting, Settings
from service.settings.declared import FirstEvent
from service.settings.setting import written
from service.upstream.target import Label, Target, provider_of

SIMULATED_KEY: Final = "sk-sim-good"
"""The provider key of a relay that runs on the built-in simulator and has none of its own."""

_OPERATOR_REASONS: Final = tuple(
    reason
    for reason, row in CATALOGUE.items()
    if row.blame in {Blame.OPERATOR, Blame.NETWORK} and row.for_operator is None
)
"""Reasons whose remedy, which clients receive, is for the operator to carry out."""


class DialOptions(TypedDict):
    """The options of `Dialler`."""

    timeout_seconds: float
    first_event: FirstEvent
    max_message_bytes: int


class MonitorOptions(TypedDict):
    """The options of `HealthMonitor`."""

    model: str
    turns_per_day: int
    with_live: bool


def needs_simulator(settings: Settings) -> bool:
    """Whether the upstream is the built-in simulator."""
    return settings.upstream == "simulator" or simulator_replaces_openai(settings)


def simulator_replaces_openai(settings: Settings) -> bool:
    """Whether the simulator is used only because RELAY_UPSTREAM is auto and there is no key."""
    return settings.upstream == "auto" and settings.openai_api_key is None


def upstream_label(settings: Settings) -> Label:
    """The label of the upstream in metrics and logs, known before the simulator has an address."""
    return "simulator" if needs_simulator(settings) else provider_of(settings.openai_base_url)


def target(settings: Settings, simulator_url: str | None = None) -> Target:
    """The upstream to dial. `simulator_url` is the address of the running simulator where `needs_simulator` is true."""
    if simulator_url is not None:
        return Target(simulator_url, settings.openai_api_key or Secret(SIMULATED_KEY), simulated=True)
    return Target(
        settings.openai_base_url,
        settings.openai_api_key,
        settings.openai_org_id,
        settings.openai_project_id,
        proxy=settings.proxy,
        base_url_from=settings.origins.get("OPENAI_BASE_URL"),
    )


def dial_options(settings: Settings) -> DialOptions:
    """The budget of a dial, and what counts as its success."""
    return {
        "timeout_seconds": settings.dial_timeout_seconds,
        "first_event": settings.first_event,
        "max_message_bytes": settings.max_message_bytes,
    }


def monitor_options(settings: Settings) -> MonitorOptions:
    """The model that the health checks request, and which of the optional checks run."""
    return {
        "model": settings.model,
        "turns_per_day": settings.health_turns_per_day,
        "with_live": settings.health_live,
    }


def access_policy(settings: Settings, max_sessions: int) -> AccessPolicy:
    """The rules of admission. `max_sessions` is RELAY_MAX_SESSIONS or fewer, as the limits of the machine allow."""
    return AccessPolicy(
        mode=settings.access,
        open_anywhere=settings.open_anywhere,
        client_tokens=settings.client_tokens,
        allowed_origins=settings.allowed_origins,
        allowed_models=settings.allowed_models,
        live=settings.live == "on",
        trusted_proxies=settings.trusted_proxies,
        max_sessions=max_sessions,
        max_sessions_per_client=settings.max_sessions_per_client,
        max_reconnects_per_minute=settings.max_reconnects_per_minute,
        draining_event=settings.draining_event,
        # Without a key anybody who knows a user could compute its name; a key that a file brings later is too late.
        safety_key=settings.safety_key or settings.openai_api_key or Secret(token_hex(16)),
    )


def talk_page(settings: Settings, scenarios: Sequence[str] = ()) -> dict[str, object]:
    """What the talk page asks about the relay: nothing that its caller could not learn by connecting without a token.

    `models` is empty for any model; it is None, as `upstream` and `model`, where a token is needed to learn them. `scenarios`
    are those of the built-in simulator, which a query of the page can select.
    """
    is_open, models = settings.access == "open", list(settings.allowed_models)
    return {
        "service": "realtime-relay",
        "access": settings.access,
        "apis": [api for api in Api if api is not Api.LIVE or settings.live == "on"],
        "upstream": upstream_label(settings) if is_open else None,
        "model": (models[0] if models and settings.model not in models else settings.model) if is_open else None,
        "models": models if is_open else None,
        "scenarios": list(scenarios) if is_open else [],
        "operator_reasons": _OPERATOR_REASONS,
    }


def clients_file(settings: Settings) -> ClientsFileReader | None:
    """The clients file, and the settings that hold where it sets nothing; None if there is none."""
    if settings.clients_file is None:
        return None
    base = Client(
        name="",
        models=settings.allowed_models,
        origins=settings.allowed_origins,
        limits=ClientLimits(
            max_sessions=settings.max_sessions_per_client or None,
            max_session_seconds=settings.max_session_seconds or None,
        ),
        has_default_duration=_has_default_duration(settings),
    )
    owned = {digest_of(token.secret.reveal()): "RELAY_CLIENT_TOKENS" for token in settings.client_tokens}
    if settings.operator_token is not None:
        owned[digest_of(settings.operator_token.reveal())] = "RELAY_OPERATOR_TOKEN"
    surroundings = Surroundings(
        file=name_for_messages(settings.clients_file),
        base=base,
        names=frozenset(token.name for token in settings.client_tokens),
        owned=owned,
    )
    return ClientsFileReader(settings.clients_file, surroundings)


def allowed_hosts(settings: Settings) -> tuple[str, ...] | None:
    """The host names that listeners on loopback serve beside their own; None where none is checked, behind proxies."""
    return None if settings.trusted_proxies else settings.allowed_hosts


def session_limits(settings: Settings) -> SessionLimits:
    """The limits of each session."""
    return SessionLimits(
        max_message_bytes=settings.max_message_bytes,
        idle_timeout_seconds=settings.idle_timeout_seconds,
        max_session_seconds=settings.max_session_seconds,
        max_messages_per_second=settings.max_messages_per_second,
        max_bytes_per_second=settings.max_bytes_per_second,
        live_start_seconds=settings.live_start_seconds,
    )


def continuity_options(settings: Settings, memory_limit: int | None) -> ContinuityOptions:
    """The limits of continuity; `memory_limit` is that of the container in bytes, None without one."""
    return ContinuityOptions(
        mode=settings.continuity,
        max_bytes=min(settings.continuity_bytes, memory_limit // 4 if memory_limit is not None else 1 << 60),
        max_dials=settings.max_dials,
        limits=ContinuityLimits(audio_bytes=settings.continuity_audio_bytes),
        times=SwapTimes(
            dial=settings.dial_timeout_seconds,
            recovery=settings.recovery_seconds,
            renew_after=settings.renew_after_seconds,
        ),
        max_session_seconds=settings.continuity_max_seconds if _has_default_duration(settings) else None,
    )


def _has_default_duration(settings: Settings) -> bool:
    return "RELAY_MAX_SESSION_SECONDS" not in settings.origins


def drain_timing(settings: Settings) -> DrainTiming:
    """How long open sessions can continue after SIGTERM, and over how long the remaining ones are then closed."""
    return DrainTiming(settings.drain_seconds, settings.close_spread_seconds)


def secrets(settings: Settings) -> Iterator[Secret]:
    """Every secret that the process holds, for the redaction of its logs."""
    if settings.openai_api_key is not None:
        yield settings.openai_api_key
    if settings.proxy is not None and settings.proxy.password is not None:
        yield settings.proxy.password
    if settings.store_url is not None and settings.store_url.password is not None:
        yield settings.store_url.password
    yield from (token.secret for token in settings.client_tokens)
    if settings.operator_token is not None:
        yield settings.operator_token
    if settings.safety_key is not None:
        yield settings.safety_key
    yield from settings.misplaced_secrets


def settings_report(settings: Settings, key: Secret | None) -> list[dict[str, object]]:
    """Every setting with its value and where it was read, for the operator; secrets as fingerprints. `key` is that in use."""
    secrets_in_use = {
        "OPENAI_API_KEY": [] if key is None else [fingerprint(key.reveal())],
        "RELAY_CLIENT_TOKENS": [
            f"{token.name}: {fingerprint(token.secret.reveal())}" for token in settings.client_tokens
        ],
    }
    return [_setting_report(settings, setting, secrets_in_use) for setting in SETTINGS]


def _setting_report(settings: Settings, setting: Setting, secrets_in_use: dict[str, list[str]]) -> dict[str, object]:
    # What holds, also where the default of a setting follows from others.
    value = getattr(settings, setting.field.removeprefix("configured_"))
    fingerprints = secrets_in_use.get(setting.name, [])
    if setting.secret and setting.name not in secrets_in_use and value is not None:
        fingerprints = [fingerprint(value.reveal())]
    return {
        "name": setting.name,
        "value": None if setting.secret or value is None else written(value),
        "fingerprints": fingerprints,
        "default": setting.default,
        "source": settings.origins.get(setting.name, "default"),
        "secret": setting.secret,
        "accepts": setting.accepts,
        "description": setting.sentence,
    }
