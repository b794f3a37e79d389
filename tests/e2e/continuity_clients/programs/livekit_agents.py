"""livekit-agents: an AgentSession with a RealtimeModel, a microphone and a loudspeaker in place of a room."""

import asyncio
import os
import time

from common import QUERY, TOKEN, URL, microphone, note, play, problem
from livekit import rtc
from livekit.agents import Agent, AgentSession
from livekit.agents.voice.io import AudioInput, AudioOutput, AudioOutputCapabilities
from livekit.plugins.openai.realtime import RealtimeModel


class Microphone(AudioInput):
    def __init__(self):
        super().__init__(label="microphone")
        self._chunks, self.is_over = microphone(), asyncio.Event()

    async def __anext__(self):
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self.is_over.set()
            raise
        return rtc.AudioFrame(data=chunk, sample_rate=24_000, num_channels=1, samples_per_channel=len(chunk) // 2)


class Loudspeaker(AudioOutput):
    """Plays in real time, so that an interruption knows its position."""

    def __init__(self):
        super().__init__(label="loudspeaker", capabilities=AudioOutputCapabilities(pause=False), sample_rate=24_000)
        self._began, self._seconds, self._end = 0.0, 0.0, None

    async def capture_frame(self, frame):
        await super().capture_frame(frame)
        if not self._seconds:
            self._began = time.monotonic()
        self._seconds += frame.duration
        play(frame.data)

    def flush(self):
        super().flush()
        if self._seconds and self._end is None:
            delay = max(0.0, self._began + self._seconds - time.monotonic())
            self._end = asyncio.get_running_loop().call_later(delay, self._finish, self._seconds, False)

    def clear_buffer(self):
        if self._seconds:
            self._finish(min(self._seconds, time.monotonic() - self._began), True)

    def _finish(self, position, interrupted):
        if self._end is not None:
            self._end.cancel()
        self._seconds, self._end = 0.0, None
        self.on_playback_finished(playback_position=position, interrupted=interrupted)


async def main():
    source, sink = Microphone(), Loudspeaker()
    others = {}
    if seconds := os.environ.get("CALL_RENEW_SECONDS"):
        others["max_session_duration"] = float(seconds)
    model = RealtimeModel(base_url=f"{URL}?{QUERY}" if QUERY else URL, api_key=TOKEN, **others)
    session = AgentSession(llm=model)
    session.on("error", lambda event: problem(event.error))
    session.on("close", lambda event: (note(f"closed: {event.reason}"), source.is_over.set()))
    session.input.audio, session.output.audio = source, sink
    agent = Agent(instructions="Be brief.")
    await session.start(agent=agent)
    agent.realtime_llm_session.on("session_reconnected", lambda event: note("RECONNECTED"))
    await source.is_over.wait()
    await session.aclose()
    await model.aclose()


asyncio.run(main())
