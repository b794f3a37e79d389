"""`python -m chaos.attacker PORT INTERNAL_PORT ATTACK[=CONNECTIONS]...`: attacks until standard input is closed.

It prints `ready` when it begins, and at the end a JSON object with what it has done. It is nice, and sends at most a fixed
number of bytes a second, so that the relay is measured and not the kernel.
"""

import asyncio
import importlib
import itertools
import json
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from chaos.attacks import ATTACKS, MIB, Attack, client_token, upgrade

_BYTES_PER_SECOND: Final = 60_000_000  # of one attack
_RUBBISH_BYTES: Final = 2 * MIB  # of one connection
_BLOCK: Final = 65_536
_PULSE_FRAMES_PER_SECOND: Final = 4_800  # below the relay's limit of 5,000
_HELD_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.2
_FILL_BYTES: Final = 9_000_000
_LARGE_ANSWERS: Final = 500  # of 125 bytes, with 40 more for each connection: some just fill the kernel's buffers
_RESET: Final = struct.pack("ii", 1, 0)
_SEGMENT_BYTES: Final = 536
_AT_ONCE: Final = 3_000
_BATCH: Final = 50
_model_numbers: Final = itertools.count()

DISCONNECTED: Final = (OSError, EOFError, asyncio.LimitOverrunError, RuntimeError)
"""What streams raise once the peer has closed; RuntimeError is uvloop's, for a write to a closed transport."""

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(OSError):
    """The relay did not answer 101."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One of the connections of an attack. `tally` counts what all of them do."""

    attack: Attack
    number: int
    connections: int
    port: int
    tally: Counter[str]

    @property
    def address(self) -> str:
        """Its source address; the well-behaved clients have another."""
        return f"127.0.0.{2 + self.number % self.attack.addresses}"

    def request(self) -> bytes:
        """Its request for a WebSocket."""
        attack = self.attack
        token = client_token(self.number % attack.names) if attack.names else None
        model = f"{attack.model}.{next(_model_numbers)}" if attack.new_models else attack.model
        return upgrade(attack.path, f"{model}&continuity=renew" if attack.is_renewable else model, token)

    async def open(self, *, limit: int = _BLOCK) -> Stream:
        """Connect."""
        stream = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0), limit=limit)
        self.tally["connections"] += 1
        return stream

    async def open_session(self, *, limit: int = _BLOCK) -> Stream:
        """Connect, and be answered 101, unless the attack does not wait for that."""
        reader, writer = await self.open(limit=limit)
        writer.write(self.request())
        if self.attack.is_early:
            return reader, writer
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head[:16]:
            self.tally["refused"] += 1
            writer.transport.abort()
            raise Refused
        self.tally["sessions"] += 1
        return reader, writer

    async def write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send at the rate of this connection."""
        writer.write(data)
        self.tally["bytes"] += len(data)
        await writer.drain()
        await asyncio.sleep(len(data) * self.connections / _BYTES_PER_SECOND)

    def blocks(self) -> tuple[bytes, bytes]:
        """The first 64 KiB to send, and the following ones."""
        following = self.attack.repeated * max(1, _BLOCK // len(self.attack.repeated))
        return self.attack.first + following, following

    async def connect_raw(self, *, receive_bytes: int = 0) -> socket.socket:
        """Connect a socket, on request with a small receive buffer."""
        sock = socket.socket()
        sock.settimeout(0)
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)
        sock.bind((self.address, 0))
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException:
            sock.close()
            raise
        self.tally["connections"] += 1
        return sock


async def _discard(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(_BLOCK):
            pass


async def _rubbish(connection: Connection) -> None:
    """Send rubbish without a token, and read nothing, until the relay ends the connection."""
    reader, writer = await connection.open()
    try:
        block, following = connection.blocks()
        for _ in range(_RUBBISH_BYTES // _BLOCK):
            await connection.write(writer, block)
            block = following
        await _discard(reader)
    finally:
        writer.transport.abort()


async def _request(connection: Connection) -> None:
    """Send a request, in which %d is the number of the connection, and read the answer."""
    reader, writer = await connection.open()
    try:
        await connection.write(writer, connection.attack.first.replace(b"%d", b"%d" % connection.number))
        await reader.read(_BLOCK)
    finally:
        writer.transport.abort()


async def _slowloris(connection: Connection) -> None:
    """Send a header byte by byte."""
    reader, writer = await connection.open()
    try:
        reading = asyncio.ensure_future(_discard(reader))
        data = connection.attack.first
        while not reading.done():
            for byte in data:
                writer.write(bytes((byte,)))
                connection.tally["bytes"] += 1
                await asyncio.sleep(0.05)
            data = connection.attack.repeated
    finally:
        writer.transport.abort()


async def _flood(connection: Connection) -> None:
    """Send frames in an admitted session, and read."""
    reader, writer = await connection.open_session()
    try:
        await _send_flood(connection, reader, writer, *connection.blocks())
    finally:
        writer.transport.abort()


async def _send_flood(
    connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, block: bytes, following: bytes
) -> None:
    reading = asyncio.ensure_future(_discard(reader))
    while not reading.done():
        await connection.write(writer, block)
        block = following


async def _pulses(connection: Connection) -> None:
    """Send frames in bursts of 64 kB, just below the limit on their rate."""
    reader, writer = await connection.open_session()
    try:
        reading = asyncio.ensure_future(_discard(reader))
        block, following = connection.blocks()
        period = len(following) / len(connection.attack.repeated) / _PULSE_FRAMES_PER_SECOND
        await asyncio.sleep(period * connection.number / connection.connections)
        while not reading.done():
            await connection.write(writer, block)
            block = following
            await asyncio.wait([reading], timeout=period)
    finally:
        writer.transport.abort()


async def _large_then_small(connection: Connection) -> None:
    """Fill the path to a deaf upstream, then send small frames."""
    reader, writer = await connection.open_session()
    try:
        for _ in range(_FILL_BYTES // len(connection.attack.first)):
            writer.write(connection.attack.first)
            connection.tally["bytes"] += len(connection.attack.first)
            try:
                await asyncio.wait_for(writer.drain(), _RETRY_SECONDS)
            except TimeoutError:
                break
        _, following = connection.blocks()
        await _send_flood(connection, reader, writer, following, following)
    finally:
        writer.transport.abort()


async def _listen(connection: Connection) -> None:
    """Read what upstream sends."""
    reader, writer = await connection.open_session()
    try:
        while data := await reader.read(_BLOCK):
            connection.tally["bytes"] += len(data)
    finally:
        writer.transport.abort()


async def _dial(connection: Connection) -> None:
    """Connect, and read the answer."""
    reader, writer = await connection.open_session()
    try:
        await reader.read(_BLOCK)
    finally:
        writer.transport.abort()


async def _deaf(connection: Connection) -> None:
    """Read nothing of what upstream sends."""
    _, writer = await connection.open_session(limit=1024)
    try:
        await asyncio.sleep(_HELD_SECONDS)
    finally:
        writer.transport.abort()


async def _unread(connection: Connection) -> None:
    """Send what is answered, small things once the path may be full, and read nothing."""
    sock = await connection.connect_raw(receive_bytes=2048)
    send, attack = asyncio.get_running_loop().sock_sendall, connection.attack
    large = _LARGE_ANSWERS + 40 * connection.number if attack.repeated else sys.maxsize
    try:
        async with asyncio.timeout(_HELD_SECONDS):
            if attack.names:
                await send(sock, connection.request())
            for number in itertools.count():
                data = attack.first if number < large else attack.repeated
                await send(sock, data)
                connection.tally["bytes"] += len(data)
                await asyncio.sleep(0.001)
    finally:
        sock.close()


async def _silent(connection: Connection) -> None:
    """Connect, and send nothing."""
    reader, writer = await connection.open()
    try:
        await _discard(reader)
    finally:
        writer.transport.abort()


async def _reset(connection: Connection) -> None:
    """Connect, send at most a request, and reset the connection."""
    sock = await connection.connect_raw()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        sock.send(connection.attack.first)
    sock.close()


async def _reset_at_once(connection: Connection) -> None:
    """Connect thousands of times, and reset all connections at once."""
    socks: list[socket.socket] = []
    try:
        for _ in range(_AT_ONCE):
            socks.append(await connection.connect_raw())
            if len(socks) % _BATCH == 0:
                await asyncio.sleep(0.01)
    finally:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()


async def _reset_session(connection: Connection) -> None:
    """Reset an admitted session."""
    _, writer = await connection.open_session()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


_PROGRAMS: Final = (
    _rubbish, _request, _slowloris, _flood, _pulses, _large_then_small, _listen, _dial, _deaf, _unread, _silent, _reset,
    _reset_at_once, _reset_session,
)  # fmt: skip
PROGRAMS: Final[dict[str, Callable[[Connection], Awaitable[None]]]] = {
    "request_internal": _request,
    "silent_internal": _silent,
    **{program.__name__.removeprefix("_"): program for program in _PROGRAMS},
}


async def _repeat(connection: Connection) -> None:
    """Run the program again and again."""
    program = PROGRAMS[connection.attack.program]
    await asyncio.sleep(0.005 * connection.number)
    while True:
        with suppress(*DISCONNECTED, TimeoutError):
            await asyncio.wait_for(program(connection), connection.attack.session_seconds)
            await asyncio.sleep(connection.attack.pause_seconds)
            continue
        await asyncio.sleep(_RETRY_SECONDS)


async def _main(port: int, internal_port: int, words: list[str]) -> None:
    tally: Counter[str] = Counter()
    tasks = []
    for word in words:
        name, _, count = word.partition("=")
        attack = ATTACKS[name]
        connections = int(count or attack.connections)
        used = internal_port if attack.program.endswith("_internal") else port
        tasks += [
            asyncio.ensure_future(_repeat(Connection(attack, number, connections, used, tally)))
            for number in range(connections)
        ]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    failed = [task.exception() for task in tasks if task.done()]
    sys.stdout.write(json.dumps({**tally, "failed": [repr(error) for error in failed]}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # without closing thousands of connections one by one


def main() -> None:
    """Attack."""
    os.nice(19)
    importlib.import_module("uvloop").run(_main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))


if __name__ == "__main__":
    main()
