"""Transcription of the user's audio: the events that follow a committed item asynchronously.

Source: the API reference "conversation.item.input_audio_transcription.*". Models that are billed by the minute report a
duration, the others tokens (seen on the wire in 2026-09).
"""

import asyncio

from service.realtime.usage import user_audio_tokens
from service.simulator.configuration import SessionConfiguration
from service.simulator.connection import Connection
from service.simulator.conversation import Conversation
from service.simulator.events import JSONObject, server_event, text_delta
from service.simulator.items import Item, text_tokens
from service.simulator.reply import Reply, transcript

_EVENT_PREFIX = "conversation.item.input_audio_transcription"
_FAILED = "The audio could not be transcribed."
_BILLED_BY_DURATION = ("gpt-realtime-whisper", "whisper-1", "gpt-live-transcribe")


async def run_transcription(connection: Connection, conversation: Conversation, item: Item, model: str) -> None:
    """Send the deltas and the completed transcript of one item, and set the transcript in the conversation."""
    await asyncio.sleep(connection.behaviour.transcription_seconds)
    if connection.behaviour.transcription_fails:
        error: JSONObject = {
            "type": "transcription_error",
            "code": "audio_unintelligible",
            "message": _FAILED,
            "param": None,
        }
        await connection.send(
            server_event(f"{_EVENT_PREFIX}.failed", item_id=item.item_id, content_index=0, error=error)
        )
        return
    reply = Reply(transcript(item))
    for piece in reply.pieces:
        await connection.send(text_delta(f"{_EVENT_PREFIX}.delta", piece, item_id=item.item_id, content_index=0))
    fields: JSONObject = {
        "item_id": item.item_id,
        "content_index": 0,
        "transcript": reply.text,
        "usage": _usage(model, item.audio_ms, reply.text),
    }
    conversation.set_transcript(item.item_id, reply.text)
    await connection.send(server_event(f"{_EVENT_PREFIX}.completed", **fields))


def start_transcription(
    connection: Connection, conversation: Conversation, item: Item, configuration: SessionConfiguration
) -> None:
    """Start the transcription of an item if the session has a transcription model."""
    model = configuration.transcription_model
    if model is not None:
        connection.spawn(run_transcription(connection, conversation, item, model))


def _usage(model: str, milliseconds: float, text: str) -> JSONObject:
    if model in _BILLED_BY_DURATION:
        return {"type": "duration", "seconds": round(milliseconds / 1000, 2)}
    input_tokens, output_tokens = user_audio_tokens(milliseconds), text_tokens(text)
    return {
        "type": "tokens",
        "total_tokens": input_tokens + output_tokens,
        "input_tokens": input_tokens,
        "input_token_details": {"text_tokens": 0, "audio_tokens": input_tokens},
        "output_tokens": output_tokens,
    }
