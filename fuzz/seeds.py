"""The inputs to begin with, made by code: each way to be valid, and each way to be wrong, once."""

from collections.abc import Iterator
from typing import Final

from fuzz.targets import CAPS, MANY_BLANKS, SOME_BLANKS
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame

KEY: Final = b"\x00\x00\x00\x00"  # a mask that hides nothing, so that the fuzzer can work on what is under it
ERROR: Final = b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value","message":"m"}}'
EVENT: Final = b'{"event_id":"e\\"1","n":-1.5e3,"type":"session.update"}'
WORDS: Final = (
    b'"type"', b'"error"', b'"code"', b"session.update", b'":"', b"\\u0065", b'{"type":"', b"\x81\x7e\x00\x7e",
    b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", b"\x81\xfe\x00\x7e", b"\x88\x02\x03\xe8", b"\x01\x01", b"\x80\x00",
    b"\x8a\x00", b"\x09\x00", b"\xff\xff", *(blanks[0] for blanks in (MANY_BLANKS, SOME_BLANKS)),
)  # fmt: skip


def seeds_of(target: str) -> list[bytes]:
    """The seeds of a target."""
    return {"scanner": _scanner, "closing": _closing, "events": _events}[target]()


def dictionary() -> str:
    """Words that mutations may insert, in libFuzzer's format."""
    return "".join('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in WORDS)


def _scanner() -> list[bytes]:
    return [
        bytes((masked | cap << 1 | 8,)) + cuts + stream
        for masked in (0, 1)
        for stream in _streams(KEY if masked else b"")
        for cap in range(len(CAPS))
        for cuts in (b"\x00", b"\x02\x10\x00\x80\x00")
    ]


def _streams(key: bytes) -> Iterator[bytes]:
    text = build_frame(Opcode.TEXT, EVENT, key)
    ping = build_frame(Opcode.PING, b"p", key)
    yield from (
        b"",
        text,
        ping,
        text + ping + text,
        build_frame(Opcode.TEXT, ERROR, key),
        b"\x83",
        b"\xc1",
        b"\x01\x00\x01",
    )
    yield build_frame(Opcode.BINARY, EVENT, key) + build_frame(Opcode.CLOSE, close_payload(3000, "a.b"), key) + b"x"
    first, rest = _open(build_frame(Opcode.TEXT, ERROR[:20], key)), build_frame(Opcode.CONTINUATION, ERROR[20:], key)
    many = _open(build_frame(Opcode.CONTINUATION, MANY_BLANKS[1], key)).replace(*MANY_BLANKS[::-1])
    yield first + ping + rest + text
    yield first + many + rest + text  # more than is held back
    yield first + _open(build_frame(Opcode.CONTINUATION, b"", key)) * 200 + rest
    for blanks, short in (
        (b" " * 60, b" " * 60),
        SOME_BLANKS[::-1],
        MANY_BLANKS[::-1],
    ):  # over each cap, but only together
        more = _open(build_frame(Opcode.CONTINUATION, blanks, key)).replace(blanks, short)
        yield _open(build_frame(Opcode.TEXT, EVENT, key)) + more * 4 + build_frame(Opcode.CONTINUATION, b"", key)
    large = build_frame(Opcode.TEXT, ERROR + MANY_BLANKS[1] + SOME_BLANKS[1], key)
    yield large.replace(*MANY_BLANKS[::-1], 1).replace(*SOME_BLANKS[::-1], 1)
    small = build_frame(Opcode.TEXT, b'{"type":"session.update"}' + SOME_BLANKS[1], key)
    yield small.replace(*SOME_BLANKS[::-1])
    yield build_frame(Opcode.TEXT, b"x", b"" if key else KEY)  # masked as it must not be


def _open(frame: bytes) -> bytes:
    """The frame as one of several."""
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
