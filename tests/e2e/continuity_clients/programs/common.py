"""What the programs share: a microphone, a loudspeaker, and a place for problems.

The microphone is the standard input, 40 ms at a time and in real time; its end ends the call. What a program plays goes to
`answer.pcm`.
"""

import asyncio
import os
import sys
import time

URL = os.environ["CALL_URL"]  # http://host:port/v1
TOKEN = os.environ["CALL_TOKEN"]
QUERY = os.environ.get("CALL_QUERY", "")  # continuity=renew
CHUNK = 1_920  # 40 ms of PCM16 at 24 kHz
BYTES_PER_MS = 48

_answer = os.open("answer.pcm", os.O_WRONLY | os.O_CREAT)


def websocket_url():
    """The URL of a session with the default model."""
    return URL.replace("http", "ws", 1) + "/realtime?model=gpt-realtime" + (f"&{QUERY}" if QUERY else "")


async def microphone():
    """The chunks, until the end of the call."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while True:
        try:
            yield await reader.readexactly(CHUNK)
        except asyncio.IncompleteReadError:
            return


def play(audio):
    """Put audio out."""
    os.write(_answer, bytes(audio))


def problem(text):
    """Report what must not happen."""
    print("PROBLEM:", text, flush=True)


def note(text):
    """Report what may be of interest."""
    print(f"{time.monotonic():.3f}", text, flush=True)


class Playback:
    """How far the loudspeaker is: audio comes faster than it is played."""

    def __init__(self):
        self.item, self._began, self._ms = None, 0.0, 0.0

    def add(self, item, audio):
        """Queue audio of an item."""
        if item != self.item:
            self.item, self._began, self._ms = item, time.monotonic(), 0.0
        self._ms += len(audio) / BYTES_PER_MS
        play(audio)

    def interrupt(self):
        """Stop; returns the item and the milliseconds of it that were played, or None if nothing is playing."""
        played = (time.monotonic() - self._began) * 1000
        item, self.item = self.item, None
        return None if item is None or played >= self._ms else (item, int(played))
