"""openai-python: its Realtime connection."""

import asyncio
import base64

from common import QUERY, TOKEN, URL, Playback, microphone, problem
from openai import AsyncOpenAI

SESSION = {
    "type": "realtime",
    "audio": {
        "input": {"turn_detection": {"type": "server_vad"}, "transcription": {"model": "gpt-4o-mini-transcribe"}},
    },
}


async def speak(connection):
    async for chunk in microphone():
        await connection.input_audio_buffer.append(audio=base64.b64encode(chunk).decode())
    await connection.close()


async def main():
    client = AsyncOpenAI(api_key=TOKEN, base_url=URL)
    query = dict([QUERY.split("=")]) if QUERY else {}
    playback = Playback()
    async with client.realtime.connect(model="gpt-realtime", extra_query=query) as connection:
        await connection.session.update(session=SESSION)
        speaking = asyncio.create_task(speak(connection))
        async for event in connection:
            match event.type:
                case "response.output_audio.delta":
                    playback.add(event.item_id, base64.b64decode(event.delta))
                case "input_audio_buffer.speech_started":
                    if cut := playback.interrupt():
                        await connection.conversation.item.truncate(
                            item_id=cut[0], content_index=0, audio_end_ms=cut[1]
                        )
                case "error":
                    problem(event.error)
        await speaking


asyncio.run(main())
