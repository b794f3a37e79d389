"""What a client sends before it is admitted: heads as bytes, and headers of any content. Only `Failure` may be raised."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any, Final, Literal, cast
from urllib.parse import unquote

import structlog
from aiohttp import HttpVersion11, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser, RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from fuzz.properties import require
from service.access.forwarded import address_block, client_address
from service.configuration import access_policy
from service.failures import CATALOGUE, Failure
from service.settings import load_settings
from service.telemetry.metrics import Metrics
from service.upstream.target import Endpoint
from service.web import unserved
from service.web.admission import AdmissionControl
from service.web.attempts import ConnectionAttempt
from service.web.head_limiter import MAX_BEHIND_HEAD_BYTES, HeadLimiter
from service.web.refusals import error_object
from service.web.request import parse_handshake, wants_error_event

MANY_LETTERS: Final = (b"\xf5\xf7", b"a" * 3000)  # two bytes that are replaced, so that inputs stay small
_MAX_MANY_LETTERS: Final = 24
_MAX_TEXT: Final = 4000  # of a detail or remedy
_PEER: Final = "192.0.2.1"
_TOKEN: Final = "fuzzed-7f3b9c1e5d2a4860"  # noqa: S105 - no input can contain it
_CLIENT_MAX_BYTES: Final = 1 << 20

Mode = Literal["open", "tokens"]
_KINDS: Final[tuple[tuple[Mode, Endpoint], ...]] = (("open", "realtime"), ("open", "attach"), ("tokens", "live"))


def heads(data: bytes) -> None:
    """Any bytes on the public port are requests, and at most one error, which has a reason, however they are cut.

    The first byte is the number of cuts, two bytes each. The rest is the stream.
    """
    if not data:
        return
    count = data[0] % 8
    offsets, stream = data[1 : 1 + 2 * count], data[1 + 2 * count :]
    stream = stream.replace(*MANY_LETTERS, _MAX_MANY_LETTERS)
    # The first bytes, which identify another protocol, are in one piece: it is named by as many as one read has.
    cuts = sorted(
        max(unserved.FIRST_BYTES, int.from_bytes(offsets[n : n + 2], "big") * len(stream) >> 16)
        for n in range(0, len(offsets), 2)
    )
    whole, sliced = _Stream(), _Stream()
    whole.feed([stream])
    sliced.feed([stream[a:b] for a, b in _between(cuts, len(stream))])
    if len(stream) > MAX_BEHIND_HEAD_BYTES:  # what is read behind a head depends on how much arrives with it
        return
    # The reason may differ: a head can be malformed in two ways.
    is_failing = whole.error_reason is not None
    require("slicing does not change whether a stream fails", holds=is_failing == (sliced.error_reason is not None))
    # aiohttp's parser keeps no request that precedes an error in the same piece.
    require("slicing changes no request", holds=is_failing or whole.requests == sliced.requests)


def _between(cuts: list[int], length: int) -> Iterator[tuple[int, int]]:
    yield from zip([0, *cuts], [*cuts, length], strict=True)


class _Stream:
    """The bytes of a connection, parsed as the public port does, each request judged."""

    def __init__(self) -> None:
        # The limits that aiohttp has by default.
        protocol = BaseProtocol(_loop())
        protocol.transport = cast("Any", SimpleNamespace(pause_reading=_nothing, resume_reading=_nothing))
        parser = HttpRequestParser(
            protocol, _loop(), 1 << 16, max_line_size=8190, max_headers=128, max_field_size=8190, auto_decompress=False
        )
        self._limiter = HeadLimiter(parser)
        self.requests = 0
        self.error_reason: str | None = None

    def feed(self, pieces: list[bytes]) -> None:
        """Parse until an upgrade or an error."""
        for piece in pieces:
            messages, upgraded, _ = self._limiter.feed_data(piece)
            for message, _payload in messages:
                require("nothing follows an error", holds=self.error_reason is None)
                self._take(message)
                if getattr(message, "upgrade", False):  # behind one that it does not know, the parser drops a part
                    return
            if upgraded or self.error_reason is not None:
                return

    def _take(self, message: Any) -> None:  # noqa: ANN401 - a request, or aiohttp's item for an error
        exc = getattr(message, "exc", None)
        if exc is None:
            self.requests += 1
            judge(message)
            return
        require("an error of the parser", holds=isinstance(exc, HttpProcessingError))
        require("without the received data", holds=exc.__traceback__ is None)
        failure = unserved.unparsed_request(self._limiter.first_bytes, exc)
        _check(failure)
        self.error_reason = failure.reason


def admission(data: bytes) -> None:
    """Headers of any content, also such as no parser lets pass: lines of name and value behind a line with the target."""
    target, *lines = data.replace(*MANY_LETTERS, _MAX_MANY_LETTERS).decode("utf-8", "surrogateescape").split("\n")
    headers: CIMultiDict[str] = CIMultiDict()
    for line in lines:
        name, _, value = line.partition(":")
        headers.add(name, value.removeprefix(" "))
    path, _, query = target.partition("?")
    try:
        url = URL.build(path=path, query_string=query, encoded=True)
    except ValueError:  # aiohttp refuses such a target as well
        return
    message = RawRequestMessage(
        "GET", target, HttpVersion11, CIMultiDictProxy(headers), raw_headers=(), should_close=False, compression=None,
        upgrade=True, chunked=False, url=url,
    )  # fmt: skip
    judge(message)


def judge(message: RawRequestMessage) -> None:
    """Every check of a request that has been parsed: it passes, or a `Failure` names the reason."""
    connection = SimpleNamespace(ssl_context=None, peername=(_PEER, 1), sockname=None, transport=None)
    session = unquote(message.path.partition("?")[0].rpartition("/")[2])
    for mode, endpoint in _KINDS:
        request = web.Request(
            message, EMPTY_PAYLOAD, cast("Any", connection), cast("Any", None), cast("Any", None), _loop(),
            client_max_size=_CLIENT_MAX_BYTES,
        )  # fmt: skip
        request._match_info = cast("Any", {"session": session})  # noqa: SLF001 - the router sets it
        with structlog.testing.capture_logs() as logs:
            _admit(request, mode, endpoint)
        require("log lines are printable", holds=json.dumps(logs, default=str).isprintable())
    for failure in (unserved.path_not_found(message.method, message.path), unserved.method_not_allowed(message.method)):
        _check(failure)


def _admit(request: web.Request, mode: Mode, endpoint: Endpoint) -> None:
    found = client_address(request.remote, request.headers.getall("X-Forwarded-For", []), _everything())
    require("an address is short", holds=0 < len(address_block(found.address)) <= 256)  # noqa: PLR2004 - as the hop
    require("an address is printable", holds=found.address.isprintable() and found.hop.isprintable())
    admitted = False
    with ExitStack() as slot:
        try:
            wants_error_event(request)
            parse_handshake(request)
        except Failure as failure:
            _check(failure)
        try:
            dial = _control(mode).admit(request, ConnectionAttempt("s", found.address), slot, endpoint)
            sent = URL.build(query=list(dial.query)).raw_query_string
            require("the query is encoded", holds=sent.isascii() and sent.isprintable() and " " not in sent)
            texts = f"{dial.safety_identifier}{dial.live_session}"
            require("identifiers are printable", holds=texts.isascii() and texts.isprintable())
            admitted = True
        except Failure as failure:
            _check(failure)
    require("no request without the token is admitted", holds=not admitted or mode == "open")


def _check(failure: Failure) -> None:
    require("a reason of the catalogue", holds=failure.reason in CATALOGUE)
    text = json.dumps(error_object(failure, "s"), ensure_ascii=False) + (failure.detail or "")
    require("texts are printable", holds=text.isprintable())
    require("texts are bounded", holds=len(text) <= _MAX_TEXT)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _control(mode: Mode) -> AdmissionControl:
    # Without a limit on reconnects, which would be all that is tried after a minute.
    variables = {"RELAY_ACCESS": mode, "RELAY_CLIENT_TOKENS": f"web:{_TOKEN}", "RELAY_MAX_RECONNECTS_PER_MINUTE": "0"}
    policy = access_policy(load_settings({"OPENAI_API_KEY": _TOKEN, **variables}), 10)

    async def make() -> AdmissionControl:
        return AdmissionControl(
            policy, policy.directory(), Metrics("simulator"), refusal=lambda: None, probe_client=lambda _: None
        )

    return _loop().run_until_complete(make())


@cache
def _everything() -> tuple[Any, ...]:
    """Every address is a trusted proxy, so that each hop is read."""
    return ip_network("0.0.0.0/0"), ip_network("::/0")


def _nothing() -> None:
    pass
