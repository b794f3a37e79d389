"""The session object: its defaults by model, and how an update changes it.

Source: the API reference "Realtime session"; key order and defaults as seen on the wire 2026-07 to 2026-09. An update
is a merge-patch and atomic: either every key of it holds, or nothing has changed.
"""

import copy
import time

from service.simulator import schema
from service.simulator.audio import FORMATS, PCM16, AudioFormat
from service.simulator.events import JSON, JSONObject, Mistake, encode, missing_parameter
from service.simulator.ids import new_id
from service.simulator.vad import TurnDetection

_INSTRUCTIONS = (
    "You are a parrot that lives on a local machine and stands in for a voice model while none is at hand. Your "
    "knowledge ends where the user's words end: whatever the user says you say again, in the user's own voice, with "
    "nothing added and nothing left out. You never tire of it. When the user writes instead of speaking, you write "
    "the same words back; when you are asked to speak although nobody has spoken, you hum one short tone. You do not "
    "claim to understand. When you are interrupted you stop at once, as a well-mannered bird does."
)
_KEPT = ("audio", "input", "output", "format")  # objects that every session has; null leaves them as they are
_SEMANTIC_SILENCE_MS: dict[JSON, int] = {"low": 1_000, "high": 200}  # by eagerness; anything else waits for 500


def session_object(model: str, session_seconds: float) -> JSONObject:
    """Build the session object of a conversation."""
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
    """Build the session object of a transcription."""
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
    """Build the session object of a translation."""
    return {
        "id": new_id("sess"),
        "type": "translation",
        "object": "realtime.translation_session",
        "model": model,
        "expires_at": int(time.time() + session_seconds),
        "audio": {"input": {"transcription": None, "noise_reduction": None}, "output": {"language": "en"}},
    }


class Configuration:
    """The settings of one session."""

    def __init__(self, session: JSONObject, rules: schema.Schema) -> None:
        self._session = session
        self._rules = rules
        self.assistant_spoke = False  # once it has, its voice is fixed

    @property
    def session(self) -> JSONObject:
        """The session object, as events carry it."""
        return copy.deepcopy(self._session)

    @property
    def session_id(self) -> str:
        """The session's own name."""
        return str(self._session["id"])

    @property
    def model(self) -> str:
        """The model that was asked for, or nothing in a transcription session."""
        return str(self._session.get("model", ""))

    @property
    def transcribes_only(self) -> bool:
        """Whether this session hears without answering."""
        return self._session["type"] == "transcription"

    @property
    def input_format(self) -> AudioFormat:
        """How the user's audio is encoded."""
        return read_format(self.at("audio", "input", "format"))

    @property
    def transcription_model(self) -> str | None:
        """Which model writes down what the user says, if any."""
        wanted = self.at("audio", "input", "transcription", "model")
        return wanted if isinstance(wanted, str) else None

    @property
    def turn_detection(self) -> TurnDetection | None:
        """How turns are found; None leaves them to the client's commits."""
        wanted = self.at("audio", "input", "turn_detection")
        if not isinstance(wanted, dict):
            return None
        if wanted.get("type") == "semantic_vad":
            return TurnDetection(silence_duration_ms=_SEMANTIC_SILENCE_MS.get(wanted.get("eagerness"), 500))
        default = TurnDetection()
        return TurnDetection(
            _number(wanted.get("threshold"), default.threshold),
            int(_number(wanted.get("prefix_padding_ms"), default.prefix_padding_ms)),
            int(_number(wanted.get("silence_duration_ms"), default.silence_duration_ms)),
        )

    @property
    def creates_responses(self) -> bool:
        """Whether the end of a turn asks for a response."""
        return not self.transcribes_only and self.at("audio", "input", "turn_detection", "create_response") is not False

    @property
    def interrupts_responses(self) -> bool:
        """Whether the beginning of a turn cancels the response under way."""
        return self.at("audio", "input", "turn_detection", "interrupt_response") is not False

    def at(self, *path: str) -> JSON:
        """Look a setting up; None where there is none."""
        value: JSON = self._session
        for name in path:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value

    def update(self, patch: JSONObject) -> None:
        """Merge a patch in. Raises a Mistake, and then nothing has changed."""
        if self._session["type"] != "translation" and patch.get("type") is None:
            raise missing_parameter("session.type")
        schema.check(self._rules, patch, "session")
        changed = copy.deepcopy(self._session)
        _merge(changed, patch)
        # The model is fixed when the session begins; a name that differs is not refused, and changes nothing.
        for fixed in ("type", "model"):
            if fixed in self._session:
                changed[fixed] = self._session[fixed]
            else:
                changed.pop(fixed, None)
        self._normalise(changed, patch)
        if self.assistant_spoke and _voice(changed) != _voice(self._session):
            message = "Cannot update a conversation's voice if assistant audio is present."
            raise Mistake("cannot_update_voice", message, param="session.audio.output.voice")
        self._session = changed

    def _normalise(self, changed: JSONObject, patch: JSONObject) -> None:
        if "instructions" in patch and not patch["instructions"]:
            changed["instructions"] = _INSTRUCTIONS
        tools = changed.get("tools")
        if "tools" in patch:
            changed["tools"] = [_in_order(tool) for tool in tools] if isinstance(tools, list) else []
        audio = changed["audio"]
        hears = audio.get("input") if isinstance(audio, dict) else None
        if isinstance(hears, dict) and changed["type"] != "translation":
            _normalise_input(hears, self.model, with_responses=not self.transcribes_only)
        for side in audio.values() if isinstance(audio, dict) else ():
            if isinstance(side, dict) and "format" in side:
                side["format"] = write_format(read_format(side["format"]))


def read_format(value: JSON) -> AudioFormat:
    """Read a format that was checked before."""
    name = value.get("type") if isinstance(value, dict) else None
    return FORMATS.get(name, PCM16) if isinstance(name, str) else PCM16


def write_format(audio_format: AudioFormat) -> JSONObject:
    """Write a format as events carry it: only PCM names its rate."""
    return {"type": audio_format.name, **({"rate": audio_format.rate} if audio_format is PCM16 else {})}


def _normalise_input(hears: JSONObject, model: str, *, with_responses: bool) -> None:
    transcription = hears.get("transcription")
    if isinstance(transcription, dict):
        hears["transcription"] = {"model": None, "language": None, "prompt": None, **transcription}
    detection = hears.get("turn_detection")
    if not isinstance(detection, dict):
        return
    defaults: JSONObject
    if detection.get("type") == "semantic_vad":
        defaults = {"type": "semantic_vad", "eagerness": "auto"}
    else:
        defaults = {**_turn_detection(model), **({"idle_timeout_ms": None} if with_responses else {})}
    if with_responses:
        defaults |= {"create_response": True, "interrupt_response": True}
    hears["turn_detection"] = {**defaults, **{name: detection[name] for name in defaults if name in detection}}


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
        elif not (isinstance(inner, dict) and value is None and name in _KEPT):
            target[name] = copy.deepcopy(value)


def _in_order(tool: JSON) -> JSON:
    if not isinstance(tool, dict):
        return tool
    first: JSONObject = {name: tool[name] for name in ("type", "name", "description", "parameters") if name in tool}
    return first | tool


def _voice(session: JSONObject) -> str:
    audio = session.get("audio")
    speaks = audio.get("output") if isinstance(audio, dict) else None
    return encode(speaks.get("voice") if isinstance(speaks, dict) else None)


def _number(value: JSON, default: float) -> float:
    return default if isinstance(value, bool) or not isinstance(value, int | float) else value
