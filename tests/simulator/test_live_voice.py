"""The parrot's voice with recorded speech."""

import os

import pytest

from service.simulator.audio import PCM16
from service.simulator.live.voice import ParrotVoice
from tools.voice import PHRASES, VoiceUnavailable, load_phrase


@pytest.mark.parametrize("name", PHRASES)
def test_recorded_phrase_is_said_whole(name: str) -> None:
    """Its quiet beginning and its pauses, too; a test that compares audio can rely on it."""
    try:
        phrase = load_phrase(name)
    except VoiceUnavailable as why:
        if os.environ.get("TEST_REQUIRE_VOICE"):
            raise
        pytest.skip(f"NO RECORDED VOICE: {why}")
    voice, said = ParrotVoice(PCM16), b""
    for frame in voice.hear(bytes(24_000) + phrase + bytes(192_000)):
        said += frame.audio
        if frame.ended is not None:
            voice.say(frame.ended)
    assert phrase.strip(b"\0") == said.strip(b"\0")
