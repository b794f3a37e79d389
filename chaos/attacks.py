"""The attacks, as data. `attacker` and `hostile` hold the programs that they name."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, Literal

from bench.wire import TEXT, build_frame, frame_head
from chaos.costly import READ_BYTES, commits, costly_frames, costly_items, escaped_frames, fragmented

Family = Literal[
    "no token",
    "small frames",
    "early frames",
    "upstream frames",
    "costly events",
    "refusals",
    "reads nothing",
    "pause",
    "upstream",
    "resets",
    "other",
]
MIB: Final = 1 << 20
CLIENT_NAMES: Final = 50
CALLER_TOKEN: Final = "caller-" + "c" * 32
_LIVE: Final = "/v1/live/sessions"
_TRANSLATIONS: Final = "/v1/realtime/translations"
_ZERO_KEY: Final = bytes(4)  # masks nothing
_LIVEZ: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
_PIPELINE: Final = _LIVEZ + b"\r\n"
_CHUNKED: Final = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
_BINARY: Final = b"\x82\x85abcdabcde"
_CONTINUATION: Final = b"\x00\x80" + _ZERO_KEY
_TINY: Final = build_frame(TEXT, b"{}", _ZERO_KEY)
_AUDIO: Final = build_frame(TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 80 + b'"}', _ZERO_KEY)
_CLEAR: Final = build_frame(TEXT, b'{"type":"input_audio_buffer.clear"}', _ZERO_KEY)
_START: Final = build_frame(TEXT, b'{"type":"session.start","session":{"model":"gpt-live-1"}}', _ZERO_KEY)
_PING: Final = frame_head(0x9, 0, _ZERO_KEY)
_LARGE_PING: Final = frame_head(0x9, 125, _ZERO_KEY) + bytes(125)
_EMPTY: Final = frame_head(0x2, 0, _ZERO_KEY)
_ITEM: Final = build_frame(
    TEXT,
    b'{"type":"conversation.item.create","item":{"id":"x","type":"message","role":"user","content":[]}}',
    _ZERO_KEY,
)
_PONG: Final = frame_head(0xA, 0, _ZERO_KEY)
_LARGE: Final = build_frame(TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 60_000 + b'"}', _ZERO_KEY)


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: `connections` at once, each of which runs `program` again and again.

    `first` and `repeated` are the bytes that it sends. `model` selects what the hostile upstream does. `names` is the number
    of client tokens that it uses, 0 for none; `addresses` the number of source addresses. `settings` and `open_files` are
    those of the relay. Its clients have a locked policy and a budget if `is_reviewed`, continuity if `is_renewable`; they
    send frames behind their request if `is_early`.
    """

    name: str
    family: Family
    program: str
    connections: int
    first: bytes = b""
    repeated: bytes = b""
    path: str = "/v1/realtime"
    model: str = "chaos-sink"
    names: int = 0
    addresses: int = 4
    new_models: bool = False  # for each dial, so that none is refused from memory
    pause_seconds: float = 0.0  # between two turns of the program
    session_seconds: float | None = None  # after which it disconnects and begins again
    settings: Mapping[str, str] = field(default_factory=dict)
    open_files: int | None = None
    in_short: bool = False
    is_reviewed: bool = False
    is_renewable: bool = False
    is_early: bool = False

    @property
    def growth_mb(self) -> float:
        """The bound on the growth of the relay's peak memory: a hundred connections without a token, or sessions."""
        return 20 + (self.connections if self.names else 0)


def client_token(number: int) -> str:
    """The token of an attacker."""
    return f"attacker{number % CLIENT_NAMES:02}-" + "a" * 32


def clients_file(names: int) -> str:
    """The clients file of attackers with a locked policy and a budget."""
    clients = [
        f'[clients.attacker{number:02}]\ntoken_sha256 = ["{sha256(client_token(number).encode()).hexdigest()}"]\n'
        'policy = "locked"\ntokens_per_session = 1000000000\n'
        for number in range(names)
    ]
    return "".join([*clients, '[policies.locked]\nlocked = ["instructions", "tools", "voice"]\n'])


def upgrade(path: str, model: str, token: str | None, extra: bytes = b"") -> bytes:
    """A request for a WebSocket, with further header lines."""
    credentials = f"Authorization: Bearer {token}\r\n" if token else ""
    head = (
        f"GET {path}?model={model} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n{credentials}"
    )
    return head.encode() + extra + b"\r\n"


_REFUSED_UPGRADE: Final = upgrade("/v1/realtime", "gpt-realtime", None)


def _rubbish(name: str, first: bytes, repeated: bytes, *, in_short: bool = False) -> Attack:
    return Attack(name, "no token", "rubbish", 100, first, repeated, in_short=in_short)


def _bomb(name: str, extra: bytes) -> Attack:
    request = upgrade("/v1/realtime", "gpt-realtime", None, extra)
    return Attack(name, "no token", "request", 20, request, pause_seconds=0.5, in_short=name == "ten-thousand-headers")


def _request(name: str, first: bytes, *, in_short: bool = False) -> Attack:
    return Attack(name, "no token", "request", 10, first, in_short=in_short)


def _scrape(name: str, accept: bytes) -> Attack:
    head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: " + accept + b"\r\n\r\n"
    return Attack(name, "no token", "request_internal", 100, head)


_NO_TOKEN: Final = (
    _rubbish("letters", b"", b"A", in_short=True),
    _rubbish("frames", b"", _BINARY),
    _rubbish("tls-records", b"\x16\x03\x01\x02\x00", b"\x00"),
    _rubbish("empty-lines", b"", b"\r\n"),
    _rubbish("endless-headers", _LIVEZ, b"a: b\r\n"),
    _rubbish("endless-header", _LIVEZ + b"Cookie: ", b","),
    _rubbish("behind-refused-upgrade", _REFUSED_UPGRADE, _BINARY, in_short=True),
    _rubbish("behind-answered-request", _LIVEZ + b"\r\n", b"A"),
    _rubbish("pipelined-requests", b"", _LIVEZ + b"\r\n"),
    _rubbish("endless-body", _LIVEZ + b"Content-Length: 1000000000\r\n\r\n", b"A"),
    _rubbish("chunk-size", _CHUNKED, b"F", in_short=True),
    _rubbish("chunk-extension", _CHUNKED + b"1;", b"x"),
    _rubbish("chunks-of-a-byte", _CHUNKED, b"1\r\nx\r\n"),
    _bomb("ten-thousand-headers", b"".join(b"a%d: b\r\n" % number for number in range(10_000))),
    _bomb("megabyte-of-commas", b"Connection: " + b"," * MIB + b"\r\n"),
    _bomb("long-header", b"Sec-WebSocket-Protocol: " + b"a," * 30_000 + b"\r\n"),
    _request("path-of-slashes", b"GET " + b"/" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", in_short=True),
    _request("six-thousand-parameters", upgrade("/v1/realtime", "x" + "&a=1" * 6000, None)),
    _scrape("invented-metrics-formats", b"application/openmetrics-text; version=%d.0.0"),
    _scrape("commas-in-accept", b"," * 60_000),
    Attack("slowloris", "no token", "slowloris", 100, _LIVEZ, b"a: b\r\n", in_short=True),
    Attack("anonymous-refusals", "no token", "request", 6, _REFUSED_UPGRADE, pause_seconds=0.1),
    Attack(
        "refusals-with-1051-tokens",
        "no token",
        "request",
        6,
        _REFUSED_UPGRADE,
        pause_seconds=0.1,
        settings={"RELAY_CLIENT_TOKENS": ",".join(f"more{number}:{number:06x}-{'m' * 32}" for number in range(1000))},
    ),
)


def _flood(kind: str, first: bytes, repeated: bytes) -> tuple[Attack, ...]:
    one = Attack(f"{kind}-1", "small frames", "flood", 1, first, repeated, names=1)
    fifty = Attack(
        f"{kind}-50", "small frames", "flood", 50, first, repeated, names=50, in_short=kind in {"pings", "tiny"}
    )
    pulses = Attack(f"{kind}-pulses-50", "small frames", "pulses", 50, first, repeated, names=50)
    return one, fifty, pulses


def _come_and_go(name: str, repeated: bytes, **more: Any) -> Attack:  # noqa: ANN401 - of an attack
    return Attack(f"{name}-50", "small frames", "flood", 50, b"", repeated, names=50, session_seconds=1.0, **more)


_SMALL_FRAMES: Final = (
    *_flood("pings", b"", _PING),
    *_flood("pongs", b"", _PONG),
    *_flood("tiny", b"", _TINY),
    *_flood("audio", b"", _AUDIO),
    *_flood("continuations", b"\x01\x80" + _ZERO_KEY, _CONTINUATION),
    Attack("large-then-tiny-50", "small frames", "large_then_small", 50, _LARGE, _TINY, model="chaos-deaf", names=50),
    _come_and_go("come-and-go", _EMPTY),
    _come_and_go("come-and-go-renewable", _ITEM, is_renewable=True),
    Attack("invalid-frames-50", "small frames", "flood", 50, b"\x81\xfe\xff\xff" + _ZERO_KEY, b"A", names=50),
)


_MANY_SESSIONS: Final = (
    Attack("empty-500-of-one", "small frames", "flood", 500, b"", _EMPTY, names=1),
    Attack("empty-800-of-50", "small frames", "flood", 800, b"", _EMPTY, names=50),
    Attack("tiny-800-of-50", "small frames", "flood", 800, b"", _TINY, names=50),
    Attack("audio-800-of-50", "small frames", "flood", 800, b"", _AUDIO, names=50),
    Attack("tiny-pulses-800-of-50", "small frames", "pulses", 800, b"", _TINY, names=50),
)


def _early(name: str, repeated: bytes, first: bytes = b"", **more: Any) -> Attack:  # noqa: ANN401 - of an attack
    first += repeated * (2 * MIB // len(repeated))  # at once, before the relay answers
    return Attack(f"early-{name}-20", "early frames", "flood", 20, first, repeated, names=20, is_early=True, **more)


_EARLY_FRAMES: Final = (
    _early("continuations", _CONTINUATION, b"\x01\x80" + _ZERO_KEY, in_short=True),
    _early("continuations-slow", _CONTINUATION, b"\x01\x80" + _ZERO_KEY, model="chaos-slow"),
    _early("fragments-of-a-byte", b"\x00\x81" + _ZERO_KEY + b"a", b"\x01\x81" + _ZERO_KEY + b"a"),
    _early("pings-in-a-message", _CONTINUATION + _PING, b"\x01\x81" + _ZERO_KEY + b"{"),
    _early("continuations-reviewed", _CONTINUATION, b"\x01\x80" + _ZERO_KEY, is_reviewed=True),
    _early("events-behind-a-start", _TINY, _START, path=_LIVE, in_short=True),
    _early("continuations-behind-a-start", _CONTINUATION, _START + b"\x01\x80" + _ZERO_KEY, path=_LIVE),
    _early("events-in-recoveries", _CLEAR, model="chaos-lost", is_renewable=True),
)  # fmt: skip


def _from_upstream(kind: str, connections: int, *, in_short: bool = False) -> Attack:
    name = f"upstream-{kind}-{connections}"
    return Attack(
        name, "upstream frames", "listen", connections, model=f"chaos-{kind}", names=connections, in_short=in_short
    )


_UPSTREAM_FRAMES: Final = tuple(
    _from_upstream(kind, connections, in_short=kind == "tiny" and connections > 1)
    for kind in ("pings", "pongs", "tiny", "audio", "continuations")
    for connections in (1, 20)
)
_MODELS: Final = {"RELAY_ALLOWED_MODELS": "gpt-realtime,chaos-sink"}
_COSTLY: Final = costly_frames("session.update", from_client=True)
_ESCAPES: Final = escaped_frames("session.update", from_client=True)
_LATE_TYPE: Final = fragmented(b'{"k":[' + b"0," * 1000 + b'0],"type":"x"}', from_client=True)


def _costly(name: str, connections: int, repeated: bytes = b"", **more: Any) -> Attack:  # noqa: ANN401 - of an attack
    program = "flood" if repeated else "listen"
    return Attack(name, "costly events", program, connections, b"", repeated, names=connections, **more)


_COSTLY_EVENTS: Final = (
    _costly("costly-events-50", 50, _COSTLY, in_short=True),
    _costly("costly-fragments-50", 50, _LATE_TYPE),
    _costly("costly-events-strict-50", 50, _COSTLY, settings=_MODELS),
    _costly("costly-events-reviewed-50", 50, _COSTLY, is_reviewed=True, in_short=True),
    _costly(
        "costly-large-events-reviewed-20",
        20,
        costly_frames("session.update", READ_BYTES // 4, from_client=True),
        is_reviewed=True,
    ),
    _costly("escapes-reviewed-3", 3, _ESCAPES, is_reviewed=True, in_short=True),
    _costly("escapes-strict-3", 3, _ESCAPES, settings=_MODELS),
    _costly("escapes-renewable-3", 3, _ESCAPES, is_renewable=True),
    Attack(
        "escaped-starts-3",
        "costly events",
        "flood",
        3,
        b"",
        escaped_frames("session.start", from_client=True),
        path=_LIVE,
        names=3,
        settings=_MODELS,
        is_early=True,
    ),
    _costly("upstream-escapes-3", 3, model="chaos-escapes"),
    _costly("upstream-escapes-reviewed-3", 3, model="chaos-escapes", is_reviewed=True),
    _costly("costly-items-renewable-20", 20, costly_items(), is_renewable=True),
    _costly("commits-renewable-20", 20, commits(), is_renewable=True),
    _costly("recoveries-20", 20, costly_items(), model="chaos-lost", is_renewable=True),
    _costly("upstream-costly-events-20", 20, model="chaos-costly", in_short=True),
    _costly("upstream-costly-errors-20", 20, model="chaos-costly-errors"),
    _costly("upstream-costly-fragments-20", 20, model="chaos-costly-fragments"),
    _costly("upstream-costly-events-reviewed-20", 20, model="chaos-costly-sessions", is_reviewed=True),
    _costly("upstream-costly-items-renewable-20", 20, model="chaos-costly-items", is_renewable=True),
)
_REFUSALS: Final = (
    Attack("no-quota", "refusals", "dial", 1, model="chaos-quota", names=1, pause_seconds=0.1, in_short=True),
    Attack("no-scope", "refusals", "dial", 1, path=_TRANSLATIONS, model="chaos-forbidden", names=1, pause_seconds=0.1),
    Attack("uri-too-long", "refusals", "dial", 1, model="chaos-too-long", names=1, pause_seconds=0.1),
    Attack("unknown-model", "refusals", "dial", 1, model="chaos-unknown", names=1, pause_seconds=0.1),
    Attack("rejected-key", "refusals", "dial", 1, model="chaos-rejected", names=1, pause_seconds=0.1),
    Attack("server-errors", "refusals", "dial", 1, model="chaos-error", names=1, pause_seconds=0.1),
    Attack("slow-dials", "refusals", "dial", 120, model="chaos-slow", names=1, in_short=True),
)  # fmt: skip
_READS_NOTHING: Final = (
    Attack("answers-unread", "reads nothing", "unread", 200, _PIPELINE, addresses=1, open_files=256, in_short=True),
    Attack("pongs-unread", "reads nothing", "unread", 20, _LARGE_PING, _PING, names=20, in_short=True),
    Attack("silent-connections", "reads nothing", "silent", 200, addresses=1, open_files=256),
    Attack("silent-on-internal-port", "reads nothing", "silent_internal", 400, addresses=1),
    Attack("deaf-clients", "reads nothing", "deaf", 20, model="chaos-large", names=20, in_short=True),
    Attack("deaf-upstreams", "reads nothing", "flood", 20, b"", _LARGE, model="chaos-deaf", names=20),
)  # fmt: skip


def _dial(name: str, model: str, *, in_short: bool = False) -> Attack:
    return Attack(name, "upstream", "dial", 4, model=model, names=1, new_models=True, in_short=in_short)


_UPSTREAM: Final = (
    _dial("1xx-flood", "chaos-1xx", in_short=True),
    _dial("1xx-headers", "chaos-1xx-headers"),
    _dial("endless-response-head", "chaos-head"),
    _dial("refusal-in-chunks-of-a-byte", "chaos-chunks"),
    _dial("endless-first-event", "chaos-first-event", in_short=True),
    _dial("first-event-of-empty-fragments", "chaos-first-fragments"),
)
_RESETS: Final = (
    Attack("resets", "resets", "reset", 100, pause_seconds=0.05),
    Attack("resets-of-requests", "resets", "reset", 100, _REFUSED_UPGRADE, pause_seconds=0.05, in_short=True),
    Attack("resets-at-once", "resets", "reset_at_once", 1),
    Attack("resets-of-admitted", "resets", "reset_session", 50, names=50, pause_seconds=0.05),
)
SUSPENDED: Final = Attack("suspended-24s", "pause", "", 0)
"""The relay is stopped with SIGSTOP while its calls are idle."""

ATTACKS: Final[Mapping[str, Attack]] = {
    attack.name: attack
    for attack in (
        *_NO_TOKEN,
        *_SMALL_FRAMES,
        *_MANY_SESSIONS,
        *_EARLY_FRAMES,
        *_UPSTREAM_FRAMES,
        *_COSTLY_EVENTS,
        *_REFUSALS,
        *_READS_NOTHING,
        *_UPSTREAM,
        *_RESETS,
        SUSPENDED,
    )
}
SHORT: Final = tuple(attack.name for attack in ATTACKS.values() if attack.in_short)
WITHOUT_TOKEN: Final = tuple(
    attack.name
    for attack in ATTACKS.values()
    if attack is not SUSPENDED and not attack.names and not attack.settings and not attack.open_files
)
ADMITTED: Final = tuple(
    attack.name for attack in (*_SMALL_FRAMES, *_EARLY_FRAMES, *_UPSTREAM_FRAMES, *_READS_NOTHING[3:], *_UPSTREAM)
)
