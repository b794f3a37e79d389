"""The first inputs, generated: each kind of valid input and each kind of invalid input once."""

from collections.abc import Iterator
from typing import Final

from fuzz.targets import MANY_SPACES, SIZE_LIMITS, SOME_SPACES
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame

KEY: Final = b"\x00\x00\x00\x00"  # a masking key of zeros, so that the fuzzer can mutate the payload
ERROR: Final = b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value","message":"m"}}'
EVENT: Final = b'{"event_id":"e\\"1","n":-1.5e3,"type":"session.update"}'
DICTIONARY: Final = (
    b'"type"', b'"error"', b'"code"', b"session.update", b'":"', b"\\u0065", b'{"type":"', b"\x81\x7e\x00\x7e",
    b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", b"\x81\xfe\x00\x7e", b"\x88\x02\x03\xe8", b"\x01\x01", b"\x80\x00",
    b"\x8a\x00", b"\x09\x00", b"\xff\xff", *(spaces[0] for spaces in (MANY_SPACES, SOME_SPACES)),
)  # fmt: skip


def seeds_of(target: str) -> list[bytes]:
    """Return the seeds of a target."""
    return {"scanner": _scanner, "closing": _closing, "events": _events}[target]()


def dictionary() -> str:
    """Return the byte strings that mutations may insert, in libFuzzer's format."""
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in DICTIONARY)


def _scanner() -> list[bytes]:
    return [
        bytes((masked | limit << 1 | parsed,)) + cuts + stream
        for masked in (0, 1)
        for parsed in (0, 8)
        for stream in _streams(KEY if masked else b"")
        for limit in range(len(SIZE_LIMITS))
        for cuts in (b"\x00", b"\x02\x10\x00\x80\x00")
    ]


def _streams(key: bytes) -> Iterator[bytes]:
    text = build_frame(Opcode.TEXT, EVENT, key)
    ping = build_frame(Opcode.PING, b"p", key)
    yield from (
        b"",
        text,
        build_frame(Opcode.TEXT, b"", key),
        ping,
        text + ping + text,
        build_frame(Opcode.TEXT, ERROR, key),
        b"\x83",
        b"\xc1",
        b"\x01\x00\x01",
    )
    yield build_frame(Opcode.BINARY, EVENT, key) + build_frame(Opcode.CLOSE, close_payload(3000, "a.b"), key) + b"x"
    first = _without_fin(build_frame(Opcode.TEXT, ERROR[:20], key))
    rest = build_frame(Opcode.CONTINUATION, ERROR[20:], key)
    many = _without_fin(build_frame(Opcode.CONTINUATION, MANY_SPACES[1], key)).replace(*MANY_SPACES[::-1])
    yield first + ping + rest + text
    yield first + many + rest + text  # more than the scanner holds
    yield first + _without_fin(build_frame(Opcode.CONTINUATION, b"", key)) * 200 + rest
    for spaces, token in (
        (b" " * 60, b" " * 60),
        SOME_SPACES[::-1],
        MANY_SPACES[::-1],
    ):  # only the sum exceeds a size limit
        more = _without_fin(build_frame(Opcode.CONTINUATION, spaces, key)).replace(spaces, token)
        yield _without_fin(build_frame(Opcode.TEXT, EVENT, key)) + more * 4 + build_frame(Opcode.CONTINUATION, b"", key)
    large = build_frame(Opcode.TEXT, ERROR + MANY_SPACES[1] + SOME_SPACES[1], key)
    yield large.replace(*MANY_SPACES[::-1], 1).replace(*SOME_SPACES[::-1], 1)
    small = build_frame(Opcode.TEXT, b'{"type":"session.update"}' + SOME_SPACES[1], key)
    for count in (1, 3):  # alone and behind one another
        yield small.replace(*SOME_SPACES[::-1]) * count
    yield build_frame(Opcode.TEXT, b"x", b"" if key else KEY)  # masked or unmasked, whichever is forbidden


def _without_fin(frame: bytes) -> bytes:
    return bytes((frame[0] & 0x7F,)) + frame[1:]


def _closing() -> list[bytes]:
    codes = (0, 999, 1000, 1004, 1005, 1006, 1014, 1015, 2999, 3000, 4999, 5000, 65_535)
    reasons = (b"", b"going away", "\u00e9".encode() * 70, b"\xff", b"\xed\xa0\x80", "\U0001f600".encode() * 40)
    return [code.to_bytes(2, "big") + reason for code in codes for reason in reasons] + [b"", b"\x03"]


def _events() -> list[bytes]:
    heads = (
        b"",
        b"{",
        b"[]",
        EVENT,
        ERROR,
        b' { "type" : "error" }',
        b'{"a":{"type":"x"},"type":"error"}',
        b"\xff\xfe{\x00",
    )
    nested = b'{"error":' + b"[" * 3000
    twice = b'{"type":"a","type":"b"}'
    return [*heads, nested, twice, b'{"typ\\u0065":"a","type":"b"}', b'{"error":{"type":1,"code":null,"message":[]}}']
