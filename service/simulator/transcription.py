"""Writing down what the user said: the events that follow a committed item at their own time.

Source: the API reference "conversation.item.input_audio_transcription.*". The models that bill by the minute report a
duration, the others tokens (seen on the wire 2026-09).
"""

from service.realtime.usage import user_audio_tokens
from service.simulator.configuration import Configuration
from service.simulator.conversation import Item, text_tokens
from service.simulator.events import JSONObject, event, text_delta
from service.simulator.peer import Peer
from service.simulator.reply import Reply, spoken_words

_KIND = "conversation.item.input_audio_transcription"
_BILLED_BY_DURATION = ("gpt-realtime-whisper", "whisper-1", "gpt-live-transcribe")


async def run_transcription(peer: Peer, item: Item, model: str) -> None:
    """Send the deltas and the completed transcript of one item."""
    said = Reply(spoken_words(item.audio_ms))
    for piece in said.pieces:
        await peer.send(text_delta(f"{_KIND}.delta", piece, item_id=item.item_id, content_index=0))
    usage = _usage(model, item.audio_ms, said.text)
    fields: JSONObject = {"item_id": item.item_id, "content_index": 0, "transcript": said.text, "usage": usage}
    await peer.send(event(f"{_KIND}.completed", **fields))


def start_transcription(peer: Peer, item: Item, configuration: Configuration) -> None:
    """Begin to write an item down, if the session wants that."""
    model = configuration.transcription_model
    if model is not None:
        peer.spawn(run_transcription(peer, item, model))


def _usage(model: str, milliseconds: float, text: str) -> JSONObject:
    if model in _BILLED_BY_DURATION:
        return {"type": "duration", "seconds": round(milliseconds / 1000, 2)}
    heard, written = user_audio_tokens(milliseconds), text_tokens(text)
    return {
        "type": "tokens",
        "total_tokens": heard + written,
        "input_tokens": heard,
        "input_token_details": {"text_tokens": 0, "audio_tokens": heard},
        "output_tokens": written,
    }
