"""The official SDK, connected directly to the simulator."""

import base64
import hashlib
import random

from service.simulator import Simulator
from tests.support.sdk import openai_client


async def test_sdk_runs_text_turn_and_receives_its_own_audio(sim: Simulator) -> None:
    """The received audio has the digest of the sent audio."""
    audio = random.Random(9).randbytes(48_000 * 2)
    async with (
        openai_client("sk-sim-good", sim.url) as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["text"], "audio": {"input": {"turn_detection": None}}}
        )
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello, parrot"}]}
        )
        await connection.response.create()
        text = ""
        async for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.done":
                break
        assert text == "Hello, parrot"

        for at in range(0, len(audio), 4_800):
            await connection.input_audio_buffer.append(audio=base64.b64encode(audio[at : at + 4_800]).decode())
        await connection.input_audio_buffer.commit()
        await connection.response.create(response={"output_modalities": ["audio"]})
        digest = hashlib.sha256()
        async for event in connection:
            if event.type == "response.output_audio.delta":
                digest.update(base64.b64decode(event.delta))
            if event.type == "response.done":
                assert event.response.status == "completed"
                break
        assert digest.hexdigest() == hashlib.sha256(audio).hexdigest() == sim.connections[0].audio_out_sha256


async def test_sdk_lists_and_retrieves_models(sim: Simulator) -> None:
    """The SDK parses both REST responses."""
    async with openai_client("sk-sim-good", sim.url) as client:
        names = [model.id async for model in client.models.list()]
        one = await client.models.retrieve("gpt-realtime")
    assert "gpt-realtime" in names
    assert one.object == "model"
