"""The opening handshake: parse an upgrade request, and decide whether its connection is refused.

The provider upgrades requests with a wrong key, without a key, with an unknown model, without a model and with the beta
header, and refuses them with an ``error`` event afterwards (seen on the wire in 2026-09). The key is read from
``Authorization``, ``api-key`` or the subprotocols, in this order. GPT-Live differs: ``live.endpoint``.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict

from service.simulator import refusals
from service.simulator.live.endpoint import LiveEndpoint
from service.simulator.options import DEFAULT_MODEL, TRANSCRIPTION_MODELS, TRANSLATION_MODEL, SimulatorOptions
from service.simulator.refusals import Refusal
from service.simulator.scenarios import Scenario, scenario_for_key, scenario_from_query

SUBPROTOCOL = "realtime"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_BETA_SUBPROTOCOL = "openai-beta."
_TRANSLATIONS_PATH = "/translations"


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """The parts of an upgrade request that the simulator uses."""

    key: str | None
    scenario: Scenario
    model: str | None
    call_id: str | None
    is_transcription: bool
    is_translation: bool
    is_beta: bool
    live: LiveEndpoint | None

    @property
    def model_or_default(self) -> str:
        """The model for session objects and error messages."""
        return self.model or DEFAULT_MODEL


def parse_upgrade_request(
    path: str, query: Mapping[str, str], headers: CIMultiDict[str], default: Scenario
) -> UpgradeRequest:
    """Parse an upgrade request; `default` applies if neither query nor key select a scenario.

    Raises ValueError if the query names an unknown scenario.
    """
    live = LiveEndpoint.parse(path)
    key = key_from_headers(headers) if live is None else live.key(headers, query)
    return UpgradeRequest(
        key=key,
        scenario=scenario_from_query(query) or scenario_for_key(key, default),
        model=query.get("model"),
        call_id=query.get("call_id"),
        is_transcription=query.get("intent") == "transcription",
        is_translation=path.endswith(_TRANSLATIONS_PATH),
        is_beta=_requests_beta(headers),
        live=live,
    )


def key_from_headers(headers: CIMultiDict[str]) -> str | None:
    """Return the key of a request; None if there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if headers.get("api-key"):
        return headers["api-key"]
    offered = (name for name in _subprotocols(headers) if name.startswith(_KEY_SUBPROTOCOL))
    return next(offered, _KEY_SUBPROTOCOL).removeprefix(_KEY_SUBPROTOCOL) or None


def is_malformed_key(key: str) -> bool:
    """Whether a key contains quotes, whitespace or non-ASCII characters, for example from a wrong line in ``.env``."""
    return any(character.isspace() or character in "\"'" or not character.isascii() for character in key)


def refusal_for(request: UpgradeRequest, options: SimulatorOptions, *, expired_secret: bool) -> Refusal | None:
    """Return the refusal of an upgraded request; None if the session can start."""
    if request.key is None:
        return refusals.key_missing()
    if expired_secret or is_malformed_key(request.key):
        return refusals.key_rejected(request.key)
    by_scenario = refusals.refusal_for_scenario(request.scenario, request.key, request.model_or_default)
    if by_scenario is not None:
        return by_scenario
    if request.is_beta:
        return refusals.beta_shape()
    if request.is_transcription or (request.call_id is not None and not request.is_translation):
        return None
    return _refusal_for_model(request, options)


def edge_headers() -> dict[str, str]:
    """Return the headers that the provider's edge adds to every response, including the 101."""
    ray = f"{secrets.token_hex(8)}-SIM"
    return {
        "Server": "cloudflare",
        "CF-RAY": ray,
        "cf-cache-status": "DYNAMIC",
        "x-openai-proxy-wasm": "v0.1",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
        "X-Content-Type-Options": "nosniff",
        "alt-svc": 'h3=":443"; ma=86400',
        "Set-Cookie": f"__cf_bm={secrets.token_urlsafe(24)}; path=/; HttpOnly; Secure; SameSite=None",
    }


def _refusal_for_model(request: UpgradeRequest, options: SimulatorOptions) -> Refusal | None:
    model = request.model
    if not model:
        return refusals.model_missing()
    if model in TRANSCRIPTION_MODELS:
        return refusals.model_only_transcribes(model)
    if model not in options.models or (model == TRANSLATION_MODEL) != request.is_translation:
        return refusals.model_unknown(model)
    return None


def _requests_beta(headers: CIMultiDict[str]) -> bool:
    beta = headers.get("OpenAI-Beta", "")
    return "realtime" in beta or any(name.startswith(_BETA_SUBPROTOCOL) for name in _subprotocols(headers))


def _subprotocols(headers: CIMultiDict[str]) -> list[str]:
    joined = ",".join(headers.getall("Sec-WebSocket-Protocol", []))
    return [name.strip() for name in joined.split(",") if name.strip()]
