"""`python -m chaos.hostile`: the upstream of attacks, which gets connections on the socket that is its standard input."""

import asyncio
import importlib
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Final

from bench.endpoints import accept_key
from bench.wire import CLOSE, TEXT, build_frame, frame_head
from chaos.attacker import DISCONNECTED
from chaos.costly import LARGE_BYTES, READ_BYTES, costly_frames, escaped_frames, fragmented

LONGEST_SECONDS: Final = 60
_BLOCK: Final = 65_536
_BYTES_PER_SECOND: Final = 20_000_000  # of one connection
_SESSION: Final = b'{"id":"sess_1","object":"realtime.session","type":"realtime","audio":{"input":{},"output":{}}}'
_CREATED: Final = build_frame(TEXT, b'{"type":"session.created","event_id":"event_1","session":%b}' % _SESSION)
_LOST_AFTER_SECONDS: Final = 0.2
FRAMES: Final = {
    "pings": (b"", frame_head(0x9, 0)),
    "pongs": (b"", frame_head(0xA, 0)),
    "tiny": (b"", build_frame(TEXT, b"{}")),
    "audio": (b"", build_frame(TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 80 + b'"}')),
    "continuations": (b"\x01\x00", b"\x00\x00"),
    "large": (b"", build_frame(TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 60_000 + b'"}')),
}


def _costly(event_types: Sequence[str], size: int) -> tuple[bytes, bytes]:
    return b"", b"".join(costly_frames(event_type, size, from_client=False) for event_type in event_types)


_LATE_TYPE: Final = fragmented(b'{"k":[' + b"0," * 5_000 + b'0],"type":"error"}', from_client=False)
COSTLY: Final[dict[str, Callable[[], tuple[bytes, bytes]]]] = {
    "costly": lambda: _costly(("response.done", "rate_limits.updated", "conversation.item.added", "x"), LARGE_BYTES),
    "costly-errors": lambda: _costly(("error", ""), READ_BYTES // 4),
    "costly-fragments": lambda: (b"", _LATE_TYPE),
    "costly-sessions": lambda: _costly(("session.updated", "response.created", "error"), LARGE_BYTES),
    "escapes": lambda: (
        b"",
        b"".join(escaped_frames(event_type, from_client=False) for event_type in ("response.done", "session.updated")),
    ),
    "costly-items": lambda: _costly(
        ("session.updated", "conversation.item.added", "conversation.item.done", "response.done"), LARGE_BYTES
    ),
}
"""Made by the first connection that asks for them: they are large."""
_INTERIM: Final = b"HTTP/1.1 100 Continue\r\n"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def _refusal(status: str, code: str) -> bytes:
    body = b'{"error":{"type":"invalid_request_error","code":"%b","message":"no"}}' % code.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(code: str, close_code: int) -> bytes:
    event = b'{"type":"error","error":{"type":"invalid_request_error","code":"%b","message":"no"}}' % code.encode()
    return build_frame(TEXT, event) + build_frame(CLOSE, close_code.to_bytes(2, "big") + code.encode())


HTTP_ANSWERS: Final = {
    "forbidden": _refusal("403 Forbidden", "missing_scope"),
    "too-long": _refusal("414 URI Too Long", "uri_too_long"),
    "rejected": _refusal("401 Unauthorized", "invalid_api_key"),
    "error": _refusal("500 Internal Server Error", "server_error"),
}
FIRST_EVENTS: Final = {
    "quota": _event("insufficient_quota", 1008),
    "unknown": _event("model_not_found", 4004),
}
HEADS: Final = {
    "1xx": (b"", _INTERIM + b"\r\n"),
    "1xx-headers": (b"", _INTERIM + b"a: b\r\n" * 40 + b"\r\n"),
    "chunks": (b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "head": (b"HTTP/1.1 101 Switching Protocols\r\n", b"a: b\r\n"),
}
FIRST_MESSAGES: Final = {
    "first-event": (b"\x01\x7f" + (1 << 40).to_bytes(8, "big"), b"A"),
    "first-fragments": (b"\x01\x00", b"\x00\x00"),
}


async def _flood(stream: Stream, first: bytes, repeated: bytes) -> None:
    """Send until the peer closes, and read what it sends."""
    reader, writer = stream
    reading = asyncio.ensure_future(_discard(reader))
    block = first + repeated * max(1, _BLOCK // len(repeated))
    while not reading.done():
        writer.write(block)
        block = block[len(first) :]
        first = b""
        await writer.drain()
        await asyncio.sleep(len(block) / _BYTES_PER_SECOND)


@cache
def _made(behaviour: str) -> tuple[bytes, bytes]:
    return COSTLY[behaviour]()


async def _discard(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(_BLOCK):
            pass


async def _serve_http(stream: Stream, behaviour: str) -> bool:
    """Behave before the 101; returns whether that was all."""
    if behaviour == "slow":
        await asyncio.sleep(LONGEST_SECONDS)
    elif behaviour in HTTP_ANSWERS:
        stream[1].write(HTTP_ANSWERS[behaviour])
    elif behaviour in HEADS:
        await _flood(stream, *HEADS[behaviour])
    else:
        return False
    return True


async def _serve(stream: Stream) -> None:
    reader, writer = stream
    head = await reader.readuntil(b"\r\n\r\n")
    found = re.search(rb"model=chaos-([\w-]+)", head)
    behaviour = found[1].decode() if found else ""
    if await _serve_http(stream, behaviour):
        return
    key = re.search(rb"(?i)\r\nsec-websocket-key: *(\S+)", head)
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept_key(key[1] if key else b"")
        + b"\r\n\r\n"
    )
    if behaviour in FIRST_MESSAGES:
        await _flood(stream, *FIRST_MESSAGES[behaviour])
        return
    writer.write(FIRST_EVENTS.get(behaviour, _CREATED))
    if behaviour == "deaf":
        await asyncio.sleep(LONGEST_SECONDS)
    elif behaviour == "lost":
        await asyncio.sleep(_LOST_AFTER_SECONDS)
        writer.transport.abort()
    elif behaviour in FRAMES:
        await _flood(stream, *FRAMES[behaviour])
    elif behaviour in COSTLY:
        await _flood(stream, *_made(behaviour))
    else:
        await _discard(reader)


async def _connection(sock: socket.socket) -> None:
    writer: asyncio.StreamWriter | None = None
    with suppress(*DISCONNECTED):
        reader, writer = await asyncio.open_connection(sock=sock)
        await _serve((reader, writer))
        await writer.drain()
    if writer is not None:
        writer.close()


async def _main(descriptor: int) -> None:
    """Serve the connections that arrive on a socket, until it is closed."""
    control = socket.socket(fileno=descriptor)
    control.settimeout(0)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    serving: set[Awaitable[None]] = set()

    def receive() -> None:
        with suppress(BlockingIOError):
            data, descriptors, _, _ = socket.recv_fds(control, 16, 64)
            for number in descriptors:
                accepted = socket.socket(fileno=number)
                accepted.settimeout(0)
                task = asyncio.ensure_future(_connection(accepted))
                serving.add(task)
                task.add_done_callback(serving.discard)
            if not data:
                loop.remove_reader(control)
                ended.set()

    loop.add_reader(control, receive)
    await ended.wait()


def main() -> None:
    """Run until standard input is closed; nice, so that the measuring process goes first."""
    os.nice(19)
    importlib.import_module("uvloop").run(_main(sys.stdin.fileno()))
    os._exit(0)


if __name__ == "__main__":
    main()
