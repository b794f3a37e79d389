"""`make demo`: a recorded voice through relay and simulator, with the official SDK; the parrot is written to a file."""

import asyncio
import sys
import tempfile
import wave
from pathlib import Path

from service.app import App
from service.settings import Settings
from service.telemetry import logs
from tools.conversation import client_for, listen, manual_session, sha256, speak
from tools.voice import BYTES_PER_SECOND, PHRASES, RATE, NoVoice, load_phrase


async def main() -> int:
    """Speak each phrase in real time and hear it come back; 0 if every byte did."""
    try:
        phrases = {name: load_phrase(name) for name in PHRASES[:3]}
    except NoVoice as why:
        print(f"No recorded voice to speak with: {why}")
        return 1
    settings = Settings.load({"RELAY_PORT": "0", "RELAY_INTERNAL_PORT": "0", "RELAY_UPSTREAM": "simulator"})
    app = App(settings)
    logs.configure("console", "error", app.redactor)
    await app.start()
    try:
        heard, well = await converse(f"http://127.0.0.1:{app.public_port}", phrases)
    finally:
        await app.stop()
    path = Path(tempfile.gettempdir()) / "realtime-relay-parrot.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(heard)
    print(f"The parrot's voice is in {path}")
    return 0 if well else 1


async def converse(url: str, phrases: dict[str, bytes]) -> tuple[bytes, bool]:
    """All phrases in one session; what came back, and whether it was the same."""
    heard, well = bytearray(), True
    async with client_for(url) as client, client.realtime.connect(model="gpt-realtime") as connection:
        await manual_session(connection)
        for name, audio in phrases.items():
            total = len(audio) / BYTES_PER_SECOND

            def show(seconds: float, *, name: str = name, total: float = total) -> None:
                if not sys.stdout.isatty():
                    return  # a log has no use for a moving line
                bar = "#" * round(20 * seconds / total)
                sys.stdout.write(f"\rspeaking {name:<14} [{bar:<20}] {seconds:4.1f} s of {total:.1f} s ")
                sys.stdout.flush()

            await speak(connection, audio, progress=show)
            await connection.input_audio_buffer.commit()
            await connection.response.create()
            turn = await listen(connection)
            same = sha256(audio) == sha256(bytes(turn.audio))
            well, heard = well and same, heard + turn.audio
            usage = turn.response.usage
            tokens = f"{usage.input_tokens} tokens in, {usage.output_tokens} out"
            verdict = "every byte came back" if same else "THE AUDIO DIFFERS"
            sys.stdout.write(f"\r{name} ({total:.1f} s): {verdict} (sha256 {sha256(audio)[:12]}), {tokens}\n")
    return bytes(heard), well


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
