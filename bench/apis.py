"""The APIs that the load generator speaks: the path of each, how its sessions begin and end, and their messages.

In GPT-Live the client speaks first, audio flows in both directions all the time, and upstream also sends transcripts and the
usage so far, each stamped as the audio is.
"""

import json
from dataclasses import dataclass
from typing import Final

from bench.messages import DOWN, MARK, UP, Template, template

GRID_MS: Final = 200  # of the transcripts
_WORDS_OF_A_TURN: Final = 15
_TURNS: Final = 5  # the user's and the assistant's, in turn; then comes a report of the usage
LIVE_VALUE_BYTES: Final = 6_400  # 100 ms of speech as base64


@dataclass(frozen=True, slots=True)
class Api:
    """Where sessions are, what they send, and how often.

    Upstream sends `first_event` when a session begins: after `start` of the client, if there is one. It answers `close` with
    `closed` and a close frame. `further` are events of upstream that are no audio, sent one after another.
    """

    path: str
    first_event: bytes
    up: Template = UP
    down: Template = DOWN
    messages_per_second: float = 25
    start: bytes = b""
    close: bytes = b""
    closed: bytes = b""
    further: tuple[Template, ...] = ()
    further_per_second: float = 0


def _encode(event: dict[str, object]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode()


def _stamped(kind: str, **fields: object) -> Template:
    """An event whose id holds the stamp."""
    before, _, after = _encode({"type": kind, "event_id": "event_@", **fields}).partition(b"@")
    return Template(before + MARK, after, 0)


def _further_events() -> tuple[Template, ...]:
    speakers = ("session.input_transcript.delta", "session.output_transcript.delta")
    words = [
        _stamped(speakers[at // _WORDS_OF_A_TURN % 2], delta=" hello", start_ms=at * GRID_MS, end_ms=(at + 1) * GRID_MS)
        for at in range(_WORDS_OF_A_TURN * _TURNS)
    ]
    seconds = len(words) * GRID_MS / 1000
    usage = {"seconds": seconds, "active_seconds": seconds, "paused_seconds": 0.0}
    return (*words, _stamped("session.usage.updated", usage=usage, context_window={"usage_ratio": 0.01}))


_AUDIO: Final = {"type": "audio/pcm", "rate": 24000}
_INSTRUCTIONS: Final = "Be brief and friendly. " * 26

REALTIME: Final = Api(
    "/v1/realtime?model=gpt-realtime",
    _encode(
        {
            "type": "session.created",
            "event_id": "event_CaYr0aBcDeFgHiJkLmNoP",
            "session": {
                "type": "realtime",
                "object": "realtime.session",
                "id": "sess_CaYr0aBcDeFgHiJkLmNoQ",
                "model": "gpt-realtime",
                "output_modalities": ["audio"],
                "instructions": _INSTRUCTIONS,
                "tools": [],
                "tool_choice": "auto",
                "max_output_tokens": "inf",
                "audio": {
                    "input": {"format": _AUDIO, "turn_detection": {"type": "server_vad"}},
                    "output": {"format": _AUDIO, "voice": "marin", "speed": 1.0},
                },
            },
        }
    ),
)
_SESSION: Final = {"model": "gpt-live-1", "instructions": _INSTRUCTIONS, "audio": {"output": {"voice": "marin"}}}
LIVE: Final = Api(
    "/v1/live/sessions",
    _encode(
        {
            "type": "session.started",
            "event_id": "event_CaYr0aBcDeFgHiJkLmNoP",
            "client_event_id": "start",
            "session": {
                "id": "live_u1_CaYr0aBcDeFgHiJkLmNoQ",
                "object": "live.session",
                "expires_at": 1_800_000_000,
                "delegation": {"type": "client"},
                **_SESSION,
            },
        }
    ),
    up=template({"type": "session.input_audio.append"}, "audio", LIVE_VALUE_BYTES),
    down=template(
        {"type": "session.output_audio.delta", "event_id": "event_CaYr3k1TqvN0f8Zs5JmWb"}, "delta", LIVE_VALUE_BYTES
    ),
    messages_per_second=10,
    start=_encode({"type": "session.start", "event_id": "start", "session": _SESSION}),
    close=b'{"type":"session.close"}',
    closed=_encode(
        {
            "type": "session.closed",
            "event_id": "event_CaYr9zYxWvUtSrQpOnMlK",
            "reason": "close_requested",
            "usage": {"seconds": 15.0, "active_seconds": 15.0, "paused_seconds": 0.0},
        }
    ),
    further=_further_events(),
    further_per_second=5,
)
APIS: Final = {"realtime": REALTIME, "live": LIVE}
