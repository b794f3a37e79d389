"""Valid events that cost a relay which reads them as much as they can: built once, pure.

Each stays below the limits of the relay, beyond which it refuses an event or passes it on unread.
"""

import json
from collections.abc import Iterator
from typing import Final

from bench.wire import CONTINUATION, TEXT, build_frame, frame_head

LARGE_BYTES: Final = 64_000
"""A longer message passes most sessions unread."""
READ_BYTES: Final = 1_000_000
"""Up to about this size an event is read whole where it has to be."""
_VALUES: Final = 8_000  # keys of an object: two separators each, below the 16,384 of the relay
_DEPTH: Final = 900  # below the depth at which Python's parser gives up
_DIGITS: Final = 4_000  # below the length at which Python refuses to parse an integer
_ZERO_KEY: Final = bytes(4)  # masks nothing


def costly_events(event_type: str, size: int = LARGE_BYTES) -> Iterator[bytes]:
    """Payloads of a type, of about `size` bytes: what takes long to parse, or looks like what the relay searches for."""
    kind = b'"type":"%b"' % event_type.encode()
    start = b"{" + kind + b","
    yield start + _keys(size) + b"}"
    yield b"{" + _keys(size) + b"," + kind + b"}"  # its type is the last key
    yield start + b'"a":[' + b",".join([b"{}"] * min(_VALUES, size // 4)) + b"]}"
    yield start + b'"a":[' + b",".join([b"[" * _DEPTH + b"]" * _DEPTH] * min(8, size // (2 * _DEPTH))) + b"]}"
    yield start + b'"a":"' + b"\\u0041" * (size // 6) + b'"}'
    yield start + b'"a":"' + b'\\"' * (size // 2) + b'"}'
    yield (
        b'{"\\u0074ype":"'
        + b"".join(b"\\u%04x" % ord(letter) for letter in event_type)
        + b'","a":"'
        + b"z" * size
        + b'"}'
    )
    yield start + b'"a":[' + b",".join([b"7" * _DIGITS] * (size // _DIGITS)) + b"]}"
    yield start + b'"a":[' + b",".join([b"0." + b"7" * _DIGITS + b"e-9"] * (size // _DIGITS)) + b"]}"
    near = (b'"typ":1', b'"types":1', b'"typf":"x"', b'"\\u0074yp":0', b'"a":"\\"type\\":\\"x\\""')
    yield start + b",".join(near * (size // 70)) + b"}"
    yield b"{" + b",".join([kind] * min(_VALUES, size // (len(kind) + 1))) + b"}"
    yield b"{" + b" " * (size // 2) + kind + b" " * (size // 2) + b"}"
    yield b'{"' + b"a" * 500 + b'":0,' + kind + b',"a":"' + b"z" * size + b'"}'  # the type is cut at the searched bytes
    yield start + b'"a":"' + b"sk-" * (size // 3) + b'"}'  # what looks like keys
    yield start + b'"a":"' + b"bearer " * (size // 7) + b'"}'


def _keys(size: int) -> bytes:
    return b",".join(b'"k%x":0' % number for number in range(min(_VALUES, size // 9)))


def costly_frames(event_type: str, size: int = LARGE_BYTES, *, from_client: bool) -> bytes:
    """The frames of `costly_events`, one after another."""
    key = _ZERO_KEY if from_client else b""
    return b"".join(build_frame(TEXT, payload, key) for payload in costly_events(event_type, size))


def escaped_events(event_type: str, size: int = READ_BYTES) -> Iterator[bytes]:
    """Payloads of a type full of escapes: in one text, in thousands of keys or texts, with the type first or last."""
    kind = b'"type":"%b"' % event_type.encode()
    for escape in (b"\\u0041", b'\\"', b"\\u006d\\u006fdel", b"\\\\"):
        text = escape * (size // len(escape))
        key = escape * (90 // len(escape))
        keys = b",".join(b'"%b%x":0' % (key, number) for number in range(min(_VALUES, size // (len(key) + 9))))
        texts = b",".join([b'"' + escape * max(1, size // len(escape) // _VALUES) + b'"'] * _VALUES)
        for values in (b'"a":"%b"' % text, b'"session":{%b}' % keys, b'"a":[%b]' % texts):
            yield b"{%b,%b}" % (kind, values)
            yield b"{%b,%b}" % (values, kind)


def escaped_frames(event_type: str, *, from_client: bool) -> bytes:
    """The frames of `escaped_events`, one after another."""
    key = _ZERO_KEY if from_client else b""
    return b"".join(build_frame(TEXT, payload, key) for payload in escaped_events(event_type))


def fragmented(payload: bytes, *, from_client: bool) -> bytes:
    """A message in fragments of a byte."""
    key, last = _ZERO_KEY if from_client else b"", len(payload) - 1
    return b"".join(
        frame_head(CONTINUATION if at else TEXT, 1, key, is_last=at == last) + payload[at : at + 1]
        for at in range(len(payload))
    )


def costly_items(count: int = 8) -> bytes:
    """Frames of a client that has a conversation kept: large items, their deletions, updates of the session, commits."""
    tools = [{"type": "function", "name": f"f{number}", "parameters": {"type": "object"}} for number in range(100)]
    parts = [{"type": "input_text", "text": "a" * 20} for _ in range(500)]
    update = {"type": "session.update", "session": {"type": "realtime", "tools": tools, "instructions": "b" * 10_000}}
    audio = {"type": "input_audio_buffer.append", "audio": "A" * 8_000}
    events = [
        event
        for name in (f"item_{number}" for number in range(count))
        for event in (
            {
                "type": "conversation.item.create",
                "item": {"id": name, "type": "message", "role": "user", "content": parts},
            },
            update,
            {"type": "conversation.item.delete", "item_id": name},
            audio,
            {"type": "input_audio_buffer.commit"},
            {"type": "response.create"},
        )
    ]
    return b"".join(build_frame(TEXT, json.dumps(event).encode(), _ZERO_KEY) for event in events)


def commits(count: int = 64) -> bytes:
    """Frames of a client that commits a little audio again and again."""
    append = build_frame(TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 640 + b'"}', _ZERO_KEY)
    commit = build_frame(TEXT, b'{"type":"input_audio_buffer.commit"}', _ZERO_KEY)
    return (append + commit) * count
