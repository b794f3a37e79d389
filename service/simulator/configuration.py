"""The session object: its defaults by model, and ``session.update``.

Source: the API reference "Realtime session"; key order and defaults as seen on the wire from 2026-07 to 2026-09. An update
is a JSON merge patch and atomic: if one key of it is invalid, the session does not change.
"""

import copy
import time

from service.simulator import schema
from service.simulator.audio import FORMATS, PCM16, AudioFormat
from service.simulator.events import JSON, ApiError, JSONObject, encode, missing_parameter
from service.simulator.ids import new_id
from service.simulator.vad import TurnDetection

_INSTRUCTIONS = (
    "You are a parrot that lives on a local machine and replaces a voice model while none is available. You know only "
    "what the user says: whatever the user says you repeat, in the user's own voice, with nothing added and nothing "
    "left out. You never tire of it. When the user writes instead of speaking, you write the same words back; when "
    "you are asked to speak although the user has not spoken, you hum one short tone. You do not claim to understand. "
    "When you are interrupted you stop immediately, as a well-mannered bird does."
)
_REQUIRED_OBJECTS = ("audio", "input", "output", "format")  # an update that sets one of these to null is ignored
_SECRETS = ("authorization", "headers")  # of an MCP server. Whether the provider shows them is not known
_SEMANTIC_SILENCE_MS: dict[JSON, int] = {"low": 1_000, "high": 200}  # by eagerness
_DEFAULT_SEMANTIC_SILENCE_MS = 500


def session_object(model: str, session_seconds: float) -> JSONObject:
    """Return the default session object of a conversation."""
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": new_id("sess"),
        "model": model,
        "output_modalities": ["audio"],
        "instructions": _INSTRUCTIONS,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": int(time.time() + session_seconds),
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": {
                    **_turn_detection(model),
                    "idle_timeout_ms": None,
                    "create_response": True,
                    "interrupt_response": True,
                },
            },
            "output": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "voice": "marin" if _is_second_generation(model) else "alloy",
                "speed": 1.0,
            },
        },
        "include": None,
    }


def transcription_object(session_seconds: float) -> JSONObject:
    """Return the default session object of a transcription."""
    return {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": new_id("sess"),
        "expires_at": int(time.time() + session_seconds),
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": None,
                "noise_reduction": None,
                "turn_detection": _turn_detection(""),
            },
        },
        "include": None,
    }


def translation_object(model: str, session_seconds: float) -> JSONObject:
    """Return the default session object of a translation."""
    return {
        "id": new_id("sess"),
        "type": "translation",
        "object": "realtime.translation_session",
        "model": model,
        "expires_at": int(time.time() + session_seconds),
        "audio": {"input": {"transcription": None, "noise_reduction": None}, "output": {"language": "en"}},
    }


def show_expiry(session: JSONObject, expires_at: str | float) -> None:
    """Change what a session object says of its expiry (`behaviour.EXPIRIES`), as other servers and broken clocks do."""
    if expires_at == "absent":
        session.pop("expires_at", None)
    elif isinstance(expires_at, str):
        shown: JSONObject = {"null": None, "past": 1, "far": 253_402_300_799, "text": "soon"}
        session["expires_at"] = shown.get(expires_at, session.get("expires_at"))
    else:
        session["expires_at"] = int(time.time() + expires_at)


class SessionConfiguration:
    """The session object of one session."""

    def __init__(self, session: JSONObject, rules: schema.Schema, override: JSONObject | None = None) -> None:
        self._session = session
        self._rules = rules
        self._override = override or {}  # wins against what the client asks for
        _merge(self._session, self._override)
        self.assistant_audio_sent = False  # from then on the voice cannot be changed
        self.refuses_other_model = False

    @property
    def session(self) -> JSONObject:
        """A copy of the session object."""
        return copy.deepcopy(self._session)

    @property
    def session_id(self) -> str:
        """The session's identifier."""
        return str(self._session["id"])

    @property
    def model(self) -> str:
        """The session's model; empty in a transcription session."""
        return str(self._session.get("model", ""))

    @property
    def is_transcription(self) -> bool:
        """Whether this is a transcription session, which has no responses."""
        return self._session["type"] == "transcription"

    @property
    def input_format(self) -> AudioFormat:
        """The format of the user's audio."""
        return parse_audio_format(self.get("audio", "input", "format"))

    @property
    def transcription_model(self) -> str | None:
        """The model that transcribes the user's audio; None if transcription is off."""
        model = self.get("audio", "input", "transcription", "model")
        return model if isinstance(model, str) else None

    @property
    def turn_detection(self) -> TurnDetection | None:
        """The settings of turn detection; None if it is off and the client commits."""
        options = self.get("audio", "input", "turn_detection")
        if not isinstance(options, dict):
            return None
        if options.get("type") == "semantic_vad":
            silence_ms = _SEMANTIC_SILENCE_MS.get(options.get("eagerness"), _DEFAULT_SEMANTIC_SILENCE_MS)
            return TurnDetection(silence_duration_ms=silence_ms)
        default = TurnDetection()
        return TurnDetection(
            _number(options.get("threshold"), default.threshold),
            int(_number(options.get("prefix_padding_ms"), default.prefix_padding_ms)),
            int(_number(options.get("silence_duration_ms"), default.silence_duration_ms)),
            int(_number(options.get("idle_timeout_ms"), 0)) or None,
        )

    @property
    def creates_response(self) -> bool:
        """Whether the end of the user's speech starts a response."""
        return (
            not self.is_transcription and self.get("audio", "input", "turn_detection", "create_response") is not False
        )

    @property
    def interrupts_response(self) -> bool:
        """Whether the start of the user's speech cancels the active response."""
        return self.get("audio", "input", "turn_detection", "interrupt_response") is not False

    def get(self, *path: str) -> JSON:
        """Return the value at this path of the session object; None if there is none."""
        value: JSON = self._session
        for name in path:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    def update(self, patch: JSONObject, *, is_speaking: bool = False) -> None:
        """Apply a merge patch; `is_speaking` during a response. Raises ApiError and then changes nothing."""
        if self._session["type"] != "translation" and patch.get("type") is None:
            raise missing_parameter("session.type")
        schema.validate(self._rules, patch, "session")
        changed = copy.deepcopy(self._session)
        _merge(changed, patch)
        # Type and model cannot change after the start. The API reference does not say how another model is refused.
        if self.refuses_other_model and "model" in self._session and changed.get("model") != self._session["model"]:
            raise ApiError("invalid_value", "The model of a session cannot be changed.", param="session.model")
        for fixed in ("type", "model"):
            if fixed in self._session:
                changed[fixed] = self._session[fixed]
            else:
                changed.pop(fixed, None)
        self._normalise(changed, patch)
        self._check_fixed_values(changed, is_speaking=is_speaking)
        _merge(changed, self._override)
        self._session = changed

    def _check_fixed_values(self, changed: JSONObject, *, is_speaking: bool) -> None:
        if self.assistant_audio_sent and _output(changed, "voice") != _output(self._session, "voice"):
            message = "Cannot update a conversation's voice if assistant audio is present."
            raise ApiError("cannot_update_voice", message, param="session.audio.output.voice")
        # The API reference states the next two rules without the errors; the codes are those of other invalid values.
        if self._session.get("tracing") is not None and changed["tracing"] != self._session["tracing"]:
            message = "Tracing is enabled for this session. Its configuration cannot be modified."
            raise ApiError("invalid_value", message, param="session.tracing")
        if is_speaking and _output(changed, "speed") != _output(self._session, "speed"):
            message = "The speed can only be changed in between model turns, not while a response is in progress."
            raise ApiError("invalid_value", message, param="session.audio.output.speed")

    def _normalise(self, changed: JSONObject, patch: JSONObject) -> None:
        if "instructions" in patch and not patch["instructions"]:
            changed["instructions"] = _INSTRUCTIONS
        tools = changed.get("tools")
        if "tools" in patch:
            changed["tools"] = [_ordered_tool(tool) for tool in tools] if isinstance(tools, list) else []
        audio = changed["audio"]
        audio_input = audio.get("input") if isinstance(audio, dict) else None
        if isinstance(audio_input, dict) and changed["type"] != "translation":
            _normalise_input(audio_input, self.model, with_responses=not self.is_transcription)
        for direction in audio.values() if isinstance(audio, dict) else ():
            if isinstance(direction, dict) and "format" in direction:
                direction["format"] = audio_format_object(parse_audio_format(direction["format"]))


def parse_audio_format(value: JSON) -> AudioFormat:
    """Return the audio format of a validated ``format`` object; PCM by default."""
    name = value.get("type") if isinstance(value, dict) else None
    return FORMATS.get(name, PCM16) if isinstance(name, str) else PCM16


def audio_format_object(audio_format: AudioFormat) -> JSONObject:
    """Return the ``format`` object of an audio format; only PCM has a rate."""
    return {"type": audio_format.name, **({"rate": audio_format.rate} if audio_format is PCM16 else {})}


def _normalise_input(audio_input: JSONObject, model: str, *, with_responses: bool) -> None:
    transcription = audio_input.get("transcription")
    if isinstance(transcription, dict):
        audio_input["transcription"] = {"model": None, "language": None, "prompt": None, **transcription}
    detection = audio_input.get("turn_detection")
    if not isinstance(detection, dict):
        return
    defaults: JSONObject
    if detection.get("type") == "semantic_vad":
        defaults = {"type": "semantic_vad", "eagerness": "auto"}
    else:
        defaults = {**_turn_detection(model), **({"idle_timeout_ms": None} if with_responses else {})}
    if with_responses:
        defaults |= {"create_response": True, "interrupt_response": True}
    audio_input["turn_detection"] = {**defaults, **{name: detection[name] for name in defaults if name in detection}}


def _turn_detection(model: str) -> JSONObject:
    silence_ms = 500 if _is_second_generation(model) else 200
    return {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": silence_ms}


def _is_second_generation(model: str) -> bool:
    return model.startswith("gpt-realtime-2") and not model.startswith("gpt-realtime-2025")


def _merge(target: JSONObject, patch: JSONObject) -> None:
    for name, value in patch.items():
        inner = target.get(name)
        if isinstance(inner, dict) and isinstance(value, dict) and name not in ("format", "tool_choice"):
            _merge(inner, value)
        elif not (isinstance(inner, dict) and value is None and name in _REQUIRED_OBJECTS):
            target[name] = copy.deepcopy(value)


def _ordered_tool(tool: JSON) -> JSON:
    if not isinstance(tool, dict):
        return tool
    # The provider returns these keys first, in this order.
    leading: JSONObject = {name: tool[name] for name in ("type", "name", "description", "parameters") if name in tool}
    shown: JSONObject = {name: value for name, value in tool.items() if name not in _SECRETS}
    return leading | shown


def _output(session: JSONObject, name: str) -> str:
    audio = session.get("audio")
    output = audio.get("output") if isinstance(audio, dict) else None
    return encode(output.get(name) if isinstance(output, dict) else None)


def _number(value: JSON, default: float) -> float:
    return default if isinstance(value, bool) or not isinstance(value, int | float) else value
