"""pipecat-ai: a pipeline with its Realtime service, a microphone and a loudspeaker in place of a transport."""

import asyncio
import time

from common import BYTES_PER_MS, TOKEN, URL, microphone, play, problem
from pipecat.frames.frames import (
    BotStoppedSpeakingFrame,
    EndFrame,
    ErrorFrame,
    InputAudioRawFrame,
    TTSAudioRawFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService


class Loudspeaker(FrameProcessor):
    """Plays in real time, and reports the end of an answer as a transport does."""

    def __init__(self):
        super().__init__()
        self._until, self._end = 0.0, None

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            play(frame.audio)
            self._until = max(self._until, time.monotonic()) + len(frame.audio) / BYTES_PER_MS / 1000
            self._end = self._end or asyncio.create_task(self._stop())
        elif isinstance(frame, ErrorFrame):
            problem(frame.error)
        await self.push_frame(frame, direction)

    async def _stop(self):
        while (left := self._until - time.monotonic()) > 0:  # noqa: ASYNC110 - each frame makes it later
            await asyncio.sleep(left)
        self._end = None
        await self.push_frame(BotStoppedSpeakingFrame(), FrameDirection.UPSTREAM)


class Errors(FrameProcessor):
    """Frames of errors go upstream."""

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame):
            problem(frame.error)
        await self.push_frame(frame, direction)


async def speak(task):
    async for chunk in microphone():
        await task.queue_frame(InputAudioRawFrame(audio=chunk, sample_rate=24_000, num_channels=1))
    await task.queue_frame(EndFrame())


async def main():
    llm = OpenAIRealtimeLLMService(
        api_key=TOKEN,
        base_url=URL.replace("http", "ws", 1) + "/realtime",
        settings=OpenAIRealtimeLLMService.Settings(model="gpt-realtime", system_instruction="Be brief."),
    )
    params = PipelineParams(audio_in_sample_rate=24_000, audio_out_sample_rate=24_000)
    task = PipelineTask(Pipeline([Errors(), llm, Loudspeaker()]), params=params, cancel_on_idle_timeout=False)
    speaking = asyncio.create_task(speak(task))
    await PipelineRunner(handle_sigint=False).run(task)
    speaking.cancel()


asyncio.run(main())
