"""strands-agents: a BidiAgent on its OpenAI Realtime model, which has no setting for the URL: its constant is replaced."""

import asyncio
import base64
import os

from common import TOKEN, microphone, note, play, problem, websocket_url
from strands.bidi import BidiAgent
from strands.bidi.models.openai import realtime
from strands.bidi.types.media import AudioDelta

realtime.OPENAI_REALTIME_URL = websocket_url().partition("?")[0]


class CallOver(Exception):
    """The microphone has ended."""


async def main():
    chunks = microphone()
    others = {}
    if seconds := os.environ.get("CALL_RENEW_SECONDS"):
        others["connection"] = {"restart_after_s": int(seconds)}
    model = realtime.OpenAIRealtimeModel(
        model_id="gpt-realtime", transcription_model_id="gpt-4o-mini-transcribe", api_key=TOKEN, **others
    )

    async def listen():
        try:
            return AudioDelta(format="pcm", source={"bytes": await anext(chunks)})
        except StopAsyncIteration:
            raise CallOver from None

    async def speak(event):
        if event["type"] == "bidi_audio_delta":
            play(base64.b64decode(event["audio"]))
        elif event["type"] in ("bidi_connection_restart", "bidi_connection_stop", "bidi_error"):
            note(f"{event['type']} {event}")

    agent = BidiAgent(model=model, system_prompt="Be brief.")
    try:
        await agent.run(inputs=[listen], outputs=[speak])
    except CallOver:
        pass
    except BaseException as exc:  # noqa: BLE001 - how a run ends is what is asked
        leaves = getattr(exc, "exceptions", (exc,))
        if not all(isinstance(leaf, CallOver) for leaf in leaves):
            problem(repr(exc))


asyncio.run(main())
