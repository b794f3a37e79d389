"""The content of a response: the assistant repeats the user, as a parrot does.

The assistant's audio is the user's newest audio, byte for byte, with a placeholder transcript; the user's text is returned
as text. Without user audio, the assistant's audio is a tone. It is a tone too if input and output format differ, because
audio is never converted. A function is called only if ``tool_choice`` requires it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from service.realtime.usage import Tokens, assistant_audio_tokens
from service.simulator.audio import AudioFormat, tone
from service.simulator.events import JSON, JSONObject, encode
from service.simulator.items import Item, text_tokens

_NO_INPUT = "Nothing was said."
_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True)
class Reply:
    """The content of one response: audio with its transcript, text, or a function call."""

    text: str
    audio: bytes | None = None  # None for a response without audio
    function: str | None = None  # the function's name; `text` is then its arguments
    mcp_server: str | None = None  # whose function it is
    needs_approval: bool = False  # the client has to approve the call
    truncated: bool = False  # at max_output_tokens

    @property
    def pieces(self) -> list[str]:
        """The text, split into the deltas in which it is sent."""
        return _PIECE.findall(self.text)


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """The options of one response: those of ``response.create``, then those of the session."""

    with_audio: bool
    audio_format: AudioFormat
    voice: JSON
    tools: JSON
    tool_choice: JSON
    max_output_tokens: JSON
    metadata: JSON
    in_conversation: bool


def compose_reply(items: Sequence[Item], options: ResponseOptions, input_format: AudioFormat) -> Reply:
    """Return the reply to the newest user message or function output."""
    prompt = next((item for item in reversed(items) if item.role == "user" or "output" in item.body), None)
    function = _required_function(options)
    if function is not None:
        server = options.tool_choice.get("server_label") if isinstance(options.tool_choice, dict) else None
        arguments = encode({"heard": prompt.text if prompt else ""})
        needs_approval = _needs_approval(options, server)
        return Reply(
            arguments, function=function, mcp_server=str(server) if server else None, needs_approval=needs_approval
        )
    text = _reply_text(prompt)
    if not options.with_audio:
        return _truncated_reply(text, options.max_output_tokens)
    audio = next((item.audio for item in reversed(items) if item.role == "user" and item.audio), None)
    return Reply(text, audio if audio and input_format is options.audio_format else tone(options.audio_format))


def output_tokens(text: str, audio: bytes | None, audio_format: AudioFormat) -> Tokens:
    """Return the tokens of a reply, or of the part that has been sent."""
    milliseconds = audio_format.duration_ms(len(audio or b""))
    return Tokens(text_tokens(text), assistant_audio_tokens(milliseconds))


def transcript(item: Item) -> str:
    """Return what the user said; a placeholder if its words are not known."""
    return item.words or f"You said something for {item.audio_ms / 1000:.1f} seconds."


def merge_response_options(
    params: JSONObject, session: JSONObject, audio_format: AudioFormat, voice: JSON
) -> ResponseOptions:
    """Merge the ``response`` object of a request over the session object; both are validated."""

    def option(name: str) -> JSON:
        value = params.get(name)
        return session.get(name) if value is None else value

    modalities = option("output_modalities")
    return ResponseOptions(
        with_audio=not isinstance(modalities, list) or "audio" in modalities,
        audio_format=audio_format,
        voice=voice,
        tools=option("tools"),
        tool_choice=option("tool_choice"),
        max_output_tokens=option("max_output_tokens"),
        metadata=params.get("metadata"),
        in_conversation=params.get("conversation") != "none",
    )


def _reply_text(prompt: Item | None) -> str:
    if prompt is None:
        return _NO_INPUT
    if prompt.text:
        return prompt.text
    return transcript(prompt) if prompt.audio_ms else _NO_INPUT


def _truncated_reply(text: str, limit: JSON) -> Reply:
    if not isinstance(limit, int) or text_tokens(text) <= limit:
        return Reply(text)
    kept = ""
    for piece in _PIECE.findall(text):
        if text_tokens(kept + piece) > limit:
            break
        kept += piece
    return Reply(kept, truncated=True)


def _required_function(options: ResponseOptions) -> str | None:
    tools = options.tools if isinstance(options.tools, list) else []
    names = [tool["name"] for tool in tools if isinstance(tool, dict) and tool.get("type") == "function"]
    choice: JSON = options.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "mcp":
        return str(choice.get("name"))
    if isinstance(choice, dict):
        return str(choice["name"]) if choice.get("type") == "function" and choice.get("name") in names else None
    return str(names[0]) if choice == "required" and names else None


def _needs_approval(options: ResponseOptions, server: JSON) -> bool:
    tools = options.tools if isinstance(options.tools, list) else []
    mine = [tool for tool in tools if isinstance(tool, dict) and server and tool.get("server_label") == server]
    return any(tool.get("require_approval") == "always" for tool in mine)
