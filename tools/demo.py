"""`make demo`: sends recorded speech through relay and simulator with the official SDK, and saves the audio that returns."""

import asyncio
import sys
import tempfile
import wave
from pathlib import Path

from service.app import App
from service.settings import Settings, load_settings
from service.telemetry import logs
from tools.conversation import create_client, disable_turn_detection, receive_response, send_audio, sha256
from tools.voice import BYTES_PER_SECOND, PHRASES, RATE, VoiceUnavailable, load_phrase


async def main() -> int:
    """Send each phrase in real time; returns 0 if every byte came back, else 1."""
    try:
        phrases = {name: load_phrase(name) for name in PHRASES[:3]}
    except VoiceUnavailable as exc:
        print(f"No recorded speech is available: {exc}")
        return 1
    settings = load_settings({"RELAY_PORT": "0", "RELAY_INTERNAL_PORT": "0", "RELAY_UPSTREAM": "simulator"})
    app = App(settings)
    logs.configure("console", "error", app.redactor)
    await app.start()
    try:
        received, is_equal = await converse(f"http://127.0.0.1:{app.public_port}", phrases)
    finally:
        await app.stop()
    path = Path(tempfile.gettempdir()) / "realtime-relay-demo.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(received)
    print(f"The audio that came back is in {path}")
    return 0 if is_equal else 1


async def converse(url: str, phrases: dict[str, bytes]) -> tuple[bytes, bool]:
    """Send all phrases in one session; returns the audio that came back, and whether it equals the audio sent."""
    received, is_equal = bytearray(), True
    async with create_client(url) as client, client.realtime.connect(model=Settings().model) as connection:
        await disable_turn_detection(connection)
        for name, audio in phrases.items():
            total = len(audio) / BYTES_PER_SECOND

            def show(seconds: float, *, name: str = name, total: float = total) -> None:
                if not sys.stdout.isatty():
                    return  # a progress bar is of no use in a log
                bar = "#" * round(20 * seconds / total)
                sys.stdout.write(f"\rsending {name:<14} [{bar:<20}] {seconds:4.1f} s of {total:.1f} s ")
                sys.stdout.flush()

            await send_audio(connection, audio, progress=show)
            await connection.input_audio_buffer.commit()
            await connection.response.create()
            turn = await receive_response(connection)
            same = sha256(audio) == sha256(bytes(turn.audio))
            is_equal, received = is_equal and same, received + turn.audio
            usage = turn.response.usage
            tokens = f"{usage.input_tokens} tokens in, {usage.output_tokens} out"
            verdict = "every byte came back" if same else "THE AUDIO DIFFERS"
            sys.stdout.write(f"\r{name} ({total:.1f} s): {verdict} (sha256 {sha256(audio)[:12]}), {tokens}\n")
    return bytes(received), is_equal


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
