"""What connections without a token cost: memory, parsing after an error, answers that the peer does not read."""

import asyncio
import contextlib
import gc
import itertools
import re
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import pytest
from aiohttp import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from service.web import head_limiter, protocol
from service.web.head_limiter import HeadLimiter
from service.web.protocol import PublicProtocol
from tests.support.harness import eventually, simulated_relay, within
from tests.support.relay_process import serving
from tests.web.test_invalid_requests import upgrade

MIB: Final = 1 << 20
MAX_GROWTH_BYTES: Final = 20_000_000
MAX_UNREAD_BYTES: Final = protocol.MAX_UNSENT_BYTES + 1024  # and one answer
PIECE: Final = 65_536
GET: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED: Final = b"POST /livez HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SECRET: Final = b"POST /v1/realtime/client_secrets HTTP/1.1\r\nHost: localhost\r\n"
FRAME: Final = b"\x82\x85abcdabcde"
# Of each: what is sent first, and what is repeated behind it.
RUBBISH: Final = {
    "letters": (b"", b"A"),
    "frames": (b"", FRAME),
    "TLS records": (b"\x16\x03\x01\x02\x00", b"\x00"),
    "empty lines": (b"", b"\r\n"),
    "headers": (GET, b"a: b\r\n"),
    "one long header": (GET + b"Cookie: ", b","),
    "a header name": (GET, b"a"),
    "frames behind an upgrade that is refused": (upgrade(), FRAME),
    "letters behind a request": (GET + b"\r\n", b"A"),
    "requests behind a request": (b"", GET + b"\r\n"),
    "upgrades behind an upgrade": (b"", upgrade()),
    "a body": (GET + b"Content-Length: 1000000000\r\n\r\n", b"A"),
    "a body for a client secret": (SECRET + b"Content-Length: 40000\r\n\r\n", b"A"),
    "a chunked body for a client secret": (SECRET + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk size": (CHUNKED, b"F"),
    "a chunk extension": (CHUNKED + b"1;", b"x"),
    "chunks of a byte": (CHUNKED, b"1\r\nx\r\n"),
}


async def send_rubbish(port: int, first: bytes, repeated: bytes) -> None:
    """Send 2 MiB, and read nothing, until the relay ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        writer.write(first)
        for _ in range(2 * MIB // PIECE):
            writer.write(repeated * (PIECE // len(repeated)))
            await writer.drain()
        await reader.read()
    writer.close()


def peak_bytes(pid: int) -> int:
    """The largest resident size of a process so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]  # Linux has the line


async def test_hundred_connections_without_token_cost_under_20_mb() -> None:
    """Whatever they send. Before, fifteen of them could use 200 MB until the garbage collector ran."""
    settings = {"RELAY_UPSTREAM": "simulator", "RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "a:" + "t" * 32}
    async with serving(**settings) as (process, port, _):
        await send_rubbish(port, b"", b"A")  # what the first of them allocates for all
        before = peak_bytes(process.process.pid)
        kinds = itertools.islice(itertools.cycle(RUBBISH.values()), 100)
        await within(asyncio.gather(*(send_rubbish(port, first, repeated) for first, repeated in kinds)), 60)

        assert peak_bytes(process.process.pid) - before < MAX_GROWTH_BYTES


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Disable automatic garbage collection."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("kind", RUBBISH)
async def test_malformed_request_is_not_kept(kind: str) -> None:
    """No error, whose frames hold what was received, waits for the garbage collector."""
    earlier = kept_objects()  # by other tests in this process
    async with simulated_relay() as relay:
        await within(send_rubbish(relay.app.public_port, *RUBBISH[kind]), 30)
        await eventually(lambda: not any(isinstance(found, PublicProtocol) for found in kept_objects(earlier)))

        assert [] == [found for found in kept_objects(earlier) if isinstance(found, HttpProcessingError)]


def kept_objects(except_for: Sequence[object] = ()) -> list[object]:
    """The connections and errors that have not been freed, except for some."""
    known = {id(found) for found in except_for}
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, PublicProtocol | HttpProcessingError) and id(found) not in known
    ]


class CountingParser:
    """Takes the place of aiohttp's parser: counts the bytes, and fails at the first `!`."""

    def __init__(self) -> None:
        self.parsed = 0

    def feed_data(self, data: bytes) -> tuple[list[object], bool, bytes]:
        """Count the bytes."""
        self.parsed += len(data)
        if b"!" in data:
            raise ValueError
        return (
            (
                [(SimpleNamespace(version=HttpVersion11, exc=None, method="GET", path="/", chunked=False), None)]
                if b"." in data
                else []
            ),
            False,
            b"",
        )


@pytest.mark.parametrize(
    ("pieces", "bound"),
    [
        pytest.param([b"a" * 262_144] * 4, head_limiter.MAX_HEAD_BYTES, id="head in large reads"),
        pytest.param([b"a"] * 100_000, head_limiter.MAX_HEAD_BYTES, id="head in bytes"),
        pytest.param([b"a" * 60_000, b".", *[b"a" * 262_144] * 4], 80_000, id="behind a head"),
        pytest.param([b"." + b"a" * 262_144] * 4, 4 * head_limiter.MAX_BEHIND_HEAD_BYTES, id="with a head"),
        pytest.param([b"ab!", *[b"a" * 262_144] * 4], 3, id="after an error"),
    ],
)
def test_parsed_bytes_are_bounded(pieces: list[bytes], bound: int) -> None:
    """However the bytes arrive; the last message is the error."""
    parser = CountingParser()
    limiter = HeadLimiter(parser)
    messages = [message for piece in pieces for message in limiter.feed_data(piece)[0]]

    assert parser.parsed <= bound
    assert limiter.failed
    assert isinstance(messages[-1][0].exc, HttpProcessingError)
    assert 1 == sum(message[0].exc is not None for message in messages)


def test_answer_begins_the_count_again() -> None:
    """A connection that is kept open may send any number of requests."""
    parser = CountingParser()
    limiter = HeadLimiter(parser)
    for _ in range(10):
        limiter.feed_data(b"a" * 50_000 + b".")
        limiter.request_answered()

    assert not limiter.failed
    assert 10 * 50_001 == parser.parsed


@contextlib.asynccontextmanager
async def deaf_connection(port: int) -> AsyncIterator[tuple[socket.socket, PublicProtocol]]:
    """A connection over which few bytes pass while its client reads nothing."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        # With segments of 64 kB a small window stays closed.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        await eventually(lambda: bool(public_protocols()))
        connection = public_protocols()[0]
        assert connection.transport is not None
        connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        yield sock, connection


@pytest.mark.parametrize("reads", [False, True])
async def test_connection_whose_answers_are_not_read_is_aborted(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `UNSENT_SECONDS` in which the peer acknowledges nothing; one that reads is kept."""
    async with simulated_relay() as relay, deaf_connection(relay.app.public_port) as (sock, connection):
        monkeypatch.setattr(protocol, "UNSENT_SECONDS", 1.0)  # not before: the kernel's timeout stays 15 s
        transport = connection.transport
        assert transport is not None
        while not transport.get_write_buffer_size():
            await asyncio.get_running_loop().sock_sendall(sock, GET + b"\r\n")
            await asyncio.sleep(0)
        if reads:
            await eventually(lambda: connection._unsent_timer is not None)
            reading = asyncio.ensure_future(read_all(sock))
            await eventually(lambda: connection._unsent_timer is None, 30)
            reading.cancel()
            assert not transport.is_closing()
        else:
            await eventually(transport.is_closing, 30)
            await eventually(lambda: not public_protocols())


async def test_unread_answers_are_bounded() -> None:
    """However slowly the requests come: no further one is handled until the answers are read."""
    async with simulated_relay() as relay, deaf_connection(relay.app.public_port) as (sock, connection):
        transport = connection.transport
        assert transport is not None
        unread = 0
        with contextlib.suppress(BlockingIOError):  # the relay reads no more
            for _ in range(300):
                sock.send(GET + b"\r\n")
                await asyncio.sleep(0.001)
                unread = max(unread, transport.get_write_buffer_size())
        assert protocol.MAX_UNSENT_BYTES < unread < MAX_UNREAD_BYTES
        reading = asyncio.ensure_future(read_all(sock))
        await eventually(lambda: not transport.get_write_buffer_size() and not connection._messages, 30)
        reading.cancel()
        assert not transport.is_closing()


async def read_all(sock: socket.socket) -> None:
    """Read to the end of the stream."""
    while await asyncio.get_running_loop().sock_recv(sock, 4096):
        pass


def public_protocols() -> list[PublicProtocol]:
    """The open connections of the public listeners of this process."""
    return [found for found in gc.get_objects() if isinstance(found, PublicProtocol) and found.transport is not None]


@pytest.mark.parametrize(("stall", "status"), [(600.0, b"200"), (0.0, b"400")])
async def test_rest_of_a_head_that_waits_during_a_stall_is_read(stall: float, status: bytes) -> None:
    """The time for a head is over before the relay, whose process did not run, has read what has arrived."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(GET)
        await eventually(lambda: any(found._parser.is_incomplete for found in public_protocols()))  # type: ignore[union-attr]  # a HeadLimiter
        (connection,) = public_protocols()
        writer.write(b"Connection: close\r\n\r\n")
        connection._next_keepalive_close_time = asyncio.get_running_loop().time() - stall
        connection._process_keepalive()

        line = await reader.readline()
        writer.close()

        assert status == line.split()[1]
