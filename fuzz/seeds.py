"""The first inputs, generated: each kind of valid input and each kind of invalid input once."""

from collections.abc import Iterator
from typing import Final

from fuzz.requests import MANY_LETTERS
from fuzz.targets import MANY_SPACES, SIZE_LIMITS, SOME_SPACES
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame

KEY: Final = b"\x00\x00\x00\x00"  # a masking key of zeros, so that the fuzzer can mutate the payload
ERROR: Final = b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value","message":"m"}}'
EVENT: Final = b'{"event_id":"e\\"1","n":-1.5e3,"type":"session.update"}'
DICTIONARY: Final = (
    b'"type"', b'"error"', b'"code"', b"session.update", b'":"', b"\\u0065", b'{"type":"', b"\x81\x7e\x00\x7e",
    b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00", b"\x81\xfe\x00\x7e", b"\x88\x02\x03\xe8", b"\x01\x01", b"\x80\x00",
    b"\x8a\x00", b"\x09\x00", b"\xff\xff", *(spaces[0] for spaces in (MANY_SPACES, SOME_SPACES)), MANY_LETTERS[0],
    b"\r\n", b"\r\n\r\n", b"Host: ", b"Origin: ", b"Authorization: Bearer ", b"api-key: ", b"Sec-WebSocket-Protocol: ",
    b"Sec-WebSocket-Key: ", b"X-Forwarded-For: ", b"Transfer-Encoding: chunked", b"Content-Length: ", b"Expect: ",
    b"openai-insecure-api-key.", b"on_failure=event", b"draining_event=", b"&model=", b"&intent=", b"&call_id=", b"%ED%A0%80",
    b"http://[::1", b"null", b'for="[', b"_hidden", b"unknown", b"GET ", b"CONNECT ", b" HTTP/1.1", b"PROXY TCP4 ", b"PRI * ",
)  # fmt: skip


def seeds_of(target: str) -> list[bytes]:
    """Return the seeds of a target."""
    seeds = {"scanner": _scanner, "closing": _closing, "events": _events, "heads": _heads, "admission": _admission}
    return seeds[target]()


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
    yield _without_fin(build_frame(Opcode.TEXT, b'{"n":1,', key)) + many * 3  # held whole if it is to be read
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


_UPGRADE: Final = (
    b"Host: localhost", b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
_PATH: Final = b"/v1/realtime?model=gpt-realtime"


def _heads() -> list[bytes]:
    def request(line: bytes, *headers: bytes, body: bytes = b"") -> bytes:
        return b"\r\n".join((line, *headers, b"", body))

    get = b"GET " + _PATH + b" HTTP/1.1"
    upgrade = request(get, *_UPGRADE)
    plain = request(b"GET /livez HTTP/1.1", b"Host: localhost")
    streams = [
        b"",
        upgrade,
        upgrade + build_frame(Opcode.TEXT, EVENT, KEY),
        plain,
        plain * 3,
        plain + b"\x00",
        request(b"POST /v1/realtime HTTP/1.1", b"Host: localhost", b"Content-Length: 3", body=b"abc") + plain,
        request(get, b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n0\r\n\r\n") + plain,
        request(get, b"Transfer-Encoding: gzip"),
        request(get, b"Cookie: " + MANY_LETTERS[0] * 4),
        request(get, *(b"a: b" for _ in range(140))),
        request(get, b"Host: \xff\xfe", b" folded", b"no colon"),
        request(b"CONNECT example.com:443 HTTP/1.1", b"Host: example.com"),
        request(b"GET http://[::1/v1/realtime HTTP/1.1"),
        request(b"OPTIONS * HTTP/1.0"),
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + upgrade,
        b"\x16\x03\x01\x02\x00\x01",
        b"\x05\x01\x00",
        build_frame(Opcode.TEXT, EVENT, KEY),
    ]
    return [cuts + stream for stream in streams for cuts in (b"\x00", b"\x02\x10\x00\x80\x00")]


def _admission() -> list[bytes]:
    extra = (
        b"Authorization: Bearer x",
        b"api-key: \xff",
        b"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.x",
        b"Origin: https://app.example.com:443",
        b"Origin: null",
        b'X-Forwarded-For: 192.0.2.7, "[2001:db8::1%eth0]:443", for=_hidden, unknown',
        b"OpenAI-Safety-Identifier: a",
        b"Expect: 100-continue",
        b"Forwarded: for=x",
    )
    queries = (
        b"",
        b"&intent=transcription",
        b"&call_id=%00",
        b"&MODEL=x",
        b"&token=x",
        b"&on_failure=event&draining_event=1",
    )
    return [
        b"\n".join((_PATH + query, *_UPGRADE, *lines))
        for query in queries
        for lines in ((), extra[:4], extra[4:], extra)
    ]
