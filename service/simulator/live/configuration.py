"""The session object of GPT-Live: parsed from ``session.start``, changed by ``session.update``.

Only delegation and triggers can change; the type of the delegation cannot. OpenAI replaces the tools and merges the rest,
Azure replaces the whole delegation. Source: the guide "Live conversations"; key order as seen on the wire in 2026-10.
"""

import copy
import math
import time

from service.simulator.audio import ALAW, PCM16, PCM16_WIDEBAND, ULAW, AudioFormat
from service.simulator.events import JSON, ApiError, JSONObject
from service.simulator.ids import new_id
from service.simulator.live import schema
from service.simulator.live.events import forbidden

_INSTRUCTIONS = (
    "You are a parrot that lives on a local machine. You repeat what the user says, in the user's own voice."
)
_CHARACTERS_PER_TOKEN = 3.6  # 1,756 characters were within 500 tokens, 1,900 were not
_MAX_INSTRUCTIONS_TOKENS = 16_384
_FORMATS = {(known.name, known.rate): known for known in (PCM16, PCM16_WIDEBAND, ULAW, ALAW)}
_DEFAULT_RATES = {"audio/pcm": 24_000}
_G711_RATE = 8_000
# The voices of openai-python 3.57; another name is refused as `forbidden`.
_VOICES = frozenset(
    {
        "alloy",
        "ash",
        "ballad",
        "beacon",
        "bossa",
        "cedar",
        "cinder",
        "coral",
        "delta",
        "echo",
        "gleam",
        "marin",
        "meridian",
        "quartz",
        "ripple",
        "sage",
        "shida",
        "shimmer",
        "stone",
        "tempo",
        "verse",
        "vesper",
        "willow",
    }
)


def live_tokens(text: str) -> int:
    """Estimate the tokens of a text, as GPT-Live counts them."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


class LiveConfiguration:
    """The session object of one session."""

    def __init__(self, session: JSONObject, session_seconds: float, *, is_azure: bool) -> None:
        """Check the session object of ``session.start`` and fill in the defaults. Raises ApiError."""
        schema.validate_start(session)
        _check_limits(session)
        given = copy.deepcopy(session)
        audio = _object(given.get("audio"))
        self.audio_format = _parse_format(audio.get("format"))
        self._replaces_delegation = is_azure
        self._session: JSONObject = {
            "id": new_id("live_u2"),
            "expires_at": int(time.time() + session_seconds),
            "model": given["model"],
            "status": "active",
            **given,
            "instructions": given.get("instructions") or _INSTRUCTIONS,
            "audio": {
                "output": {"voice": _object(audio.get("output")).get("voice") or "marin"},
                "format": {"type": self.audio_format.name, "rate": self.audio_format.rate},
            },
            "input": given.get("input") or [],
        }

    @property
    def session(self) -> JSONObject:
        """A copy of the session object."""
        return copy.deepcopy(self._session)

    @property
    def session_id(self) -> str:
        """The session's identifier."""
        return str(self._session["id"])

    @property
    def delegation(self) -> str | None:
        """The type of the delegation that the client selected; None if it selected none, which means `client`."""
        kind = _object(self._session.get("delegation")).get("type")
        return kind if isinstance(kind, str) else None

    @property
    def backend(self) -> JSONObject:
        """The settings of Responses delegation; empty under another one."""
        return _object(_object(self._session.get("delegation")).get("responses"))

    @property
    def decisions(self) -> JSONObject:
        """The settings of decisions delegation; empty under another one."""
        return _object(_object(self._session.get("delegation")).get("decisions"))

    @property
    def triggers(self) -> list[JSONObject]:
        """The triggers that request a decision on a transcript."""
        triggers = self._session.get("triggers")
        return [trigger for trigger in triggers if isinstance(trigger, dict)] if isinstance(triggers, list) else []

    @property
    def tokens(self) -> int:
        """The tokens of instructions and history."""
        return live_tokens(str(self._session["instructions"])) + live_tokens(str(self._session["input"]))

    def update(self, patch: JSONObject) -> None:
        """Apply ``session.update``. Raises ApiError and then changes nothing."""
        schema.validate_update(patch)
        if "delegation" in patch:
            self._update_delegation(_object(patch["delegation"]))
        if "triggers" in patch:
            self._session["triggers"] = copy.deepcopy(patch["triggers"])

    def _update_delegation(self, patch: JSONObject) -> None:
        current = _object(self._session.get("delegation"))
        if patch.get("type", "client") != current.get("type", "client"):
            message = "Cannot update 'session.delegation.type' after the session has started."
            raise ApiError("immutable_field_update", message, param="session.delegation.type")
        changed = copy.deepcopy(patch)
        if not self._replaces_delegation:
            for name in ("responses", "decisions"):
                if isinstance(changed.get(name), dict):
                    changed[name] = {**_object(current.get(name)), **_object(changed[name])}
            changed = {**current, **changed}
        self._session["delegation"] = changed


def _check_limits(session: JSONObject) -> None:
    instructions = session.get("instructions")
    if isinstance(instructions, str) and live_tokens(instructions) > _MAX_INSTRUCTIONS_TOKENS:
        # The provider's code for this is not known.
        message = f"Invalid 'session.instructions': at most {_MAX_INSTRUCTIONS_TOKENS} tokens are supported."
        raise ApiError("invalid_value", message, param="session.instructions")
    voice = _object(_object(session.get("audio")).get("output")).get("voice")
    if isinstance(voice, str) and voice not in _VOICES:
        raise forbidden()


def _parse_format(value: JSON) -> AudioFormat:
    given = _object(value)
    name = str(given.get("type", PCM16.name))
    rate = given.get("rate", _DEFAULT_RATES.get(name, _G711_RATE))
    return _FORMATS[name, int(str(rate))]


def _object(value: JSON) -> JSONObject:
    return value if isinstance(value, dict) else {}
