"""What a request to upgrade says: its key, its model, its mode; and whether that is good enough.

A wrong key, no key, an unknown model, no model and the beta header are all upgraded and refused inside the socket (seen
on the wire 2026-09). The key is read from ``Authorization``, ``api-key`` or the subprotocol, in this order.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from multidict import CIMultiDict

from service.simulator import refusals
from service.simulator.options import TRANSCRIPTION_MODELS, TRANSLATION_MODEL, SimulatorOptions
from service.simulator.refusals import Refusal
from service.simulator.scenarios import Scenario, scenario_for, scenario_in_query

SUBPROTOCOL = "realtime"
_KEY_SUBPROTOCOL = "openai-insecure-api-key."
_BETA_SUBPROTOCOL = "openai-beta."
_TRANSLATIONS = "/translations"


@dataclass(frozen=True, slots=True)
class Approach:
    """One request, as far as it matters here."""

    key: str | None
    scenario: Scenario
    model: str | None
    call_id: str | None
    transcribes: bool
    translates: bool
    beta: bool

    @property
    def shown_model(self) -> str:
        """The model that an answer speaks of."""
        return self.model or "gpt-realtime"


def read_approach(path: str, query: Mapping[str, str], headers: CIMultiDict[str], default: Scenario) -> Approach:
    """Read a request; raises ValueError if it asks for a scenario that does not exist."""
    key = read_key(headers)
    return Approach(
        key=key,
        scenario=scenario_in_query(query) or scenario_for(key, default),
        model=query.get("model"),
        call_id=query.get("call_id"),
        transcribes=query.get("intent") == "transcription",
        translates=path.endswith(_TRANSLATIONS),
        beta=_asks_for_beta(headers),
    )


def read_key(headers: CIMultiDict[str]) -> str | None:
    """Find the key; None if there is none."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    if headers.get("api-key"):
        return headers["api-key"]
    offered = (name for name in _subprotocols(headers) if name.startswith(_KEY_SUBPROTOCOL))
    return next(offered, _KEY_SUBPROTOCOL).removeprefix(_KEY_SUBPROTOCOL) or None


def looks_wrong(key: str) -> bool:
    """Whether no key can look so: quoted, or with blanks in it, as a careless ``.env`` makes them."""
    return any(character.isspace() or character in "\"'" or not character.isascii() for character in key)


def refusal_for(approach: Approach, options: SimulatorOptions, *, expired_secret: bool) -> Refusal | None:
    """Decide what is wrong with a request; None if nothing is."""
    if approach.key is None:
        return refusals.key_missing()
    if expired_secret or looks_wrong(approach.key):
        return refusals.key_rejected(approach.key)
    by_scenario = refusals.refusal_of(approach.scenario, approach.key, approach.shown_model)
    if by_scenario is not None:
        return by_scenario
    if approach.beta:
        return refusals.beta_shape()
    if approach.transcribes or (approach.call_id is not None and not approach.translates):
        return None
    return _refusal_of_model(approach, options)


def edge_headers() -> dict[str, str]:
    """Make the headers that the provider's edge puts on every answer, the 101 included."""
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


def _refusal_of_model(approach: Approach, options: SimulatorOptions) -> Refusal | None:
    model = approach.model
    if not model:
        return refusals.model_missing()
    if model in TRANSCRIPTION_MODELS:
        return refusals.model_only_transcribes(model)
    if model not in options.models or (model == TRANSLATION_MODEL) != approach.translates:
        return refusals.model_unknown(model)
    return None


def _asks_for_beta(headers: CIMultiDict[str]) -> bool:
    wanted = headers.get("OpenAI-Beta", "")
    return "realtime" in wanted or any(name.startswith(_BETA_SUBPROTOCOL) for name in _subprotocols(headers))


def _subprotocols(headers: CIMultiDict[str]) -> list[str]:
    joined = ",".join(headers.getall("Sec-WebSocket-Protocol", []))
    return [name.strip() for name in joined.split(",") if name.strip()]
