"""What the assistant answers: a parrot's idea of conversation.

What the user said comes back byte for byte as the assistant's audio, with a made-up transcript; what the user wrote
comes back as text. An assistant that must speak though nobody has spoken hums a tone. Where the two formats of a
session differ it hums as well, because audio is never converted. A tool is called only when the client insists on one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.realtime.usage import Tokens, assistant_audio_tokens
from service.simulator.audio import AudioFormat, tone
from service.simulator.conversation import Item, text_tokens
from service.simulator.events import JSON, JSONObject, encode

_NOTHING = "Nothing was said."
_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: speech with its transcript, or text, or the call of a function."""

    text: str
    audio: bytes | None = None  # None when the answer is not spoken
    function: str | None = None  # then `text` is its arguments
    cut_short: bool = False  # by max_output_tokens

    @property
    def pieces(self) -> list[str]:
        """The text in the pieces in which it is sent."""
        return _PIECE.findall(self.text)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a response was asked to be: the session's settings under those of the request."""

    speaks: bool
    format: AudioFormat
    voice: JSON
    tools: JSON
    tool_choice: JSON
    max_output_tokens: JSON
    metadata: JSON
    in_conversation: bool


def compose(items: Sequence[Item], wanted: Wanted, heard_in: AudioFormat) -> Reply:
    """Think of an answer to what was said last."""
    asked = next((item for item in reversed(items) if item.role == "user" or "output" in item.body), None)
    function = _chosen_function(wanted)
    if function is not None:
        return Reply(encode({"heard": asked.text if asked else ""}), function=function)
    text = _words(asked)
    if not wanted.speaks:
        return _shortened(text, wanted.max_output_tokens)
    heard = next((item.audio for item in reversed(items) if item.role == "user" and item.audio), None)
    return Reply(text, heard if heard and heard_in is wanted.format else tone(wanted.format))


def tokens_of(text: str, audio: bytes | None, audio_format: AudioFormat) -> Tokens:
    """Count an answer, or as much of it as was given."""
    milliseconds = audio_format.milliseconds_of(len(audio or b""))
    return Tokens(text_tokens(text), assistant_audio_tokens(milliseconds))


def spoken_words(milliseconds: float) -> str:
    """Make up a transcript; a parrot does not understand."""
    return f"You said something for {milliseconds / 1000:.1f} seconds."


def _words(asked: Item | None) -> str:
    if asked is None:
        return _NOTHING
    if asked.text:
        return asked.text
    return spoken_words(asked.audio_ms) if asked.audio_ms else _NOTHING


def _shortened(text: str, limit: JSON) -> Reply:
    if not isinstance(limit, int) or text_tokens(text) <= limit:
        return Reply(text)
    kept = ""
    for piece in _PIECE.findall(text):
        if text_tokens(kept + piece) > limit:
            break
        kept += piece
    return Reply(kept, cut_short=True)


def _chosen_function(wanted: Wanted) -> str | None:
    tools = wanted.tools if isinstance(wanted.tools, list) else []
    names = [tool["name"] for tool in tools if isinstance(tool, dict) and tool.get("type") == "function"]
    choice: JSON = wanted.tool_choice
    if isinstance(choice, dict):
        return str(choice["name"]) if choice.get("type") == "function" and choice.get("name") in names else None
    return str(names[0]) if choice == "required" and names else None


def read_wanted(given: JSONObject, session: JSONObject, audio_format: AudioFormat, voice: JSON) -> Wanted:
    """Lay the request of one response over the session's settings; both were checked before."""

    def setting(name: str) -> JSON:
        value = given.get(name)
        return session.get(name) if value is None else value

    modalities = setting("output_modalities")
    return Wanted(
        speaks=not isinstance(modalities, list) or "audio" in modalities,
        format=audio_format,
        voice=voice,
        tools=setting("tools"),
        tool_choice=setting("tool_choice"),
        max_output_tokens=setting("max_output_tokens"),
        metadata=given.get("metadata"),
        in_conversation=given.get("conversation") != "none",
    )
