"""One tree of `bench.scanner`: passes frames through its pipe, and answers with the CPU time per message.

It runs as a script with PYTHONPATH set to the tree, so that it must not import `bench`; the argument `policy` lets it measure
a session with a locked policy. Input: a line with the name of a shape and the number of repetitions. Output: the
microseconds per message, up and down.
"""

import itertools
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from service.realtime.events import CLIENT_EVENT_TYPES, PARSED_EVENT_TYPES, SERVER_EVENT_TYPES, Direction
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.relay.latency import LatencyTimer
from service.relay.pipe import Pipe
from service.telemetry.traffic import Traffic

MESSAGES: Final = 40
SEGMENT_BYTES: Final = 1448
"""The payload of a TCP segment on Ethernet, with timestamps."""
_RECORD_BYTES: Final = (1400, 16_384)
_MASK: Final = b"\x5a\xc3\x17\x5a"
_UP: Final = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 2644 + b'"}'
_DOWN: Final = (
    b'{"type":"response.output_audio.delta","event_id":"event_CaYr3k1TqvN0f8Zs5JmWb","response_id":"resp_CaYr2xQ7dLh9Ue4",'
    b'"item_id":"item_CaYr2bV6wGn1Rt8MyEzSj","output_index":0,"content_index":0,"delta":"' + b"A" * 6280 + b'"}'
)
_FRAMES: Final = {True: build_frame(Opcode.TEXT, _UP, _MASK), False: build_frame(Opcode.TEXT, _DOWN)}


class _Leg:
    """The sink: counts what a real one would send."""

    def __init__(self) -> None:
        self.sent = 0
        self.on_full: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self.receive_read: Callable[[bytes], None] | None = None

    def write_frames(self, raw: bytes) -> None:
        self.sent += len(raw)

    def note_life(self) -> None:
        pass

    def write(self, raw: bytes, *, mid_frame: bool = False) -> None:  # noqa: ARG002 - the interface of a leg
        self.sent += len(raw)


def _cut(data: bytes, sizes: Iterator[int]) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = next(sizes)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def _apart(frame: bytes, header_bytes: int) -> list[bytes]:
    return [frame[:header_bytes], frame[header_bytes:]]


def _reads(shape: str, *, masked: bool) -> list[bytes]:
    """The reads that carry `MESSAGES` messages."""
    frame = _FRAMES[masked]
    stream = frame * MESSAGES
    records = random.Random(11)  # noqa: S311 - sizes of reads, no secret
    match shape:
        case "cut":
            return _cut(frame, itertools.repeat(SEGMENT_BYTES)) * MESSAGES
        case "stream":
            return _cut(stream, itertools.repeat(SEGMENT_BYTES))
        case "records":
            return _cut(stream, iter(lambda: records.randint(*_RECORD_BYTES), 0))
        case "three":
            return _cut(stream, itertools.repeat(3 * len(frame)))
        case "header":
            return _apart(frame, 8 if masked else 4) * MESSAGES
        case "burst":
            return _cut(stream, itertools.repeat(65_536))
        case "bytes":
            return _cut(frame, itertools.repeat(1))
        case _:
            return [frame] * MESSAGES


def _pipe(sink: _Leg, *, masked: bool) -> Pipe:
    types = CLIENT_EVENT_TYPES if masked else SERVER_EVENT_TYPES
    has_policy = sys.argv[1:] == ["policy"]
    parsed = frozenset[str]() if masked else PARSED_EVENT_TYPES
    scanner = Scanner(masked=masked, max_message_bytes=1 << 24, parsed_types=parsed)
    if has_policy:
        from service.realtime.policy import SESSION_EVENT_TYPES  # noqa: PLC0415 - the other tree may be older
        from service.realtime.policy_scanner import ReviewedScanner  # noqa: PLC0415

        scanner = (
            ReviewedScanner(max_message_bytes=1 << 24)
            if masked
            else Scanner(masked=False, max_message_bytes=1 << 24, parsed_types=parsed | SESSION_EVENT_TYPES)
        )
    idle: Any = _Leg()
    receiving: Any = sink
    owner: Any = None  # nothing that these frames hold is reported
    pipe = Pipe(
        idle,
        receiving,
        scanner,
        traffic=Traffic(Direction.CLIENT_TO_UPSTREAM if masked else Direction.UPSTREAM_TO_CLIENT, types),
        latency=LatencyTimer(time.perf_counter, float, float),
        owner=owner,
    )
    idle.receive_read = pipe.receive
    return pipe


def _measure(shape: str, repetitions: int, *, masked: bool) -> float:
    reads, sink = _reads(shape, masked=masked), _Leg()
    pipe = _pipe(sink, masked=masked)
    receive = getattr(pipe, "read", pipe.receive)  # the other tree may be older
    started = time.process_time_ns()
    for _ in range(repetitions):
        for data in reads:
            receive(data)
    took = time.process_time_ns() - started
    expected = sum(map(len, reads)) * repetitions
    messages = expected // len(_FRAMES[masked])
    if (sink.sent, pipe.messages) != (expected, messages):
        sys.exit(f"{shape}: {sink.sent} bytes and {pipe.messages} messages instead of {expected} and {messages}")
    return took / messages / 1000


def main() -> None:
    """Measure what the lines of the input name."""
    for line in sys.stdin:
        shape, repetitions = line.split()
        figures = [_measure(shape, int(repetitions), masked=masked) for masked in (True, False)]
        sys.stdout.write(" ".join(map(str, figures)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
