"""openai-agents (Python): an agent in a RealtimeSession."""

import asyncio

from agents.realtime import RealtimeAgent, RealtimeRunner
from common import TOKEN, microphone, play, problem, websocket_url


async def speak(session):
    async for chunk in microphone():
        await session.send_audio(chunk)
    await session.close()


async def main():
    runner = RealtimeRunner(RealtimeAgent(name="agent", instructions="Be brief."))
    session = await runner.run(model_config={"url": websocket_url(), "api_key": TOKEN})
    async with session:
        speaking = asyncio.create_task(speak(session))
        async for event in session:
            if event.type == "audio":
                play(event.audio.data)
            elif event.type == "error":
                problem(event.error)
            elif event.type == "raw_model_event" and event.data.type in ("error", "exception"):
                problem(event.data)
        await speaking


asyncio.run(main())
