"""A cable between the relay and everybody else: a network namespace at its far end, where the faults are made.

The relay is the real program, in the namespace of the tests; what happens at the far end it can only learn by what comes
or does not come over the cable. The far namespace lives as long as a process does, so that nothing is left of it.
"""

import asyncio
import ctypes
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from service.realtime.frames import Opcode
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, Completed, Control
from tests.support.harness import Answer, RawClient
from tests.support.messages import pop_payload
from tests.support.raw_http_server import Exchange, answer_health_check
from tests.support.raw_websocket_server import CREATED, Wire

NEAR: Final = "10.77.0.1"
NEAR_IPV6: Final = "fd77::1"
NAME: Final = "provider.example"
FAR: Final = tuple(f"10.77.0.{number}" for number in range(2, 11))
FAR_IPV6: Final = "fd77::2"
PATH: Final = "/v1/realtime?model=scripted"
TALK: Final = b'{"type":"talk"}'

Result = TypeVar("Result")


def _run(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


def _enter(namespace: str) -> None:
    """Take this thread into a network namespace; os.setns is new in 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(namespace).open("rb") as file:
        if libc.setns(file.fileno(), 0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")


class Cable:
    """The cable that is plugged in, and what can be done to it and to its far end."""

    def __init__(self, name: str, holder: int) -> None:
        self.name = name
        self._namespace = f"/proc/{holder}/ns/net"

    def far(self, *words: str) -> str:
        """Run a program at the far end; what it printed."""
        return _run("nsenter", f"--net={self._namespace}", "--", *words)

    @contextmanager
    def rules(self, *rules: str) -> Iterator[None]:
        """Rules of the far end's iptables, each as `CHAIN words`; of ip6tables if `6 CHAIN words`."""
        with ExitStack() as stack:
            for rule in rules:
                table = "ip6tables" if rule.startswith("6 ") else "iptables"
                chain, *words = rule.removeprefix("6 ").split()
                self.far(table, "-w", "-A", chain, *words)
                stack.callback(self.far, table, "-w", "-D", chain, *words)
            yield

    def hits(self, chain: str) -> int:
        """How many packets the rules of a chain of the far end have met."""
        lines = self.far("iptables", "-w", "-nvxL", chain).splitlines()[2:]
        return sum(int(line.split()[0]) for line in lines)

    def silence(self, address: str) -> Any:
        """An address of the far end hears nothing and says nothing."""
        return self.rules(f"INPUT -d {address} -j DROP", f"OUTPUT -s {address} -j DROP")

    @contextmanager
    def route(self, kind: str, address: str) -> Iterator[None]:
        """The relay's machine has a route to an address that leads nowhere: unreachable, prohibit or blackhole."""
        _run("ip", "route", "add", kind, address)
        try:
            yield
        finally:
            _run("ip", "route", "del", kind, address)

    @contextmanager
    def pulled(self) -> Iterator[None]:
        """The cable is out."""
        _run("ip", "link", "set", self.name, "down")
        try:
            yield
        finally:
            _run("ip", "link", "set", self.name, "up")

    async def at_far_end(self, make: Callable[[], Result]) -> Result:
        """Do something that blocks in a thread of the far namespace: a socket belongs to where it was made."""
        results: list[Result] = []
        problems: list[BaseException] = []

        def work() -> None:
            try:
                _enter(self._namespace)
                results.append(make())
            except BaseException as exc:  # noqa: BLE001 - it is raised again where it can be seen
                problems.append(exc)

        thread = threading.Thread(target=work)  # of its own: it never comes back from there
        thread.start()
        await asyncio.to_thread(thread.join)
        if problems:
            raise problems[0]
        return results[0]

    async def call(self, port: int, source: str) -> RawClient:
        """A client at the far end, with a source address of its own, after the relay's answer."""
        sock = await self.at_far_end(lambda: socket.create_connection((NEAR, port), 5, (source, 0)))
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 20)
        writer.write(
            f"GET {PATH} HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer = Answer(int(head[0].split()[1]), dict(line.split(": ", 1) for line in head[1:] if line))
        if answer.status != 101:
            answer.body = await reader.readexactly(int(answer.headers.get("Content-Length", "0")))
        return RawClient(reader, writer, answer)


@contextmanager
def plugged_in() -> Iterator[Cable]:
    """A cable with addresses at both ends; nothing of it is left afterwards, however the test ends."""
    # The death of the tests is the death of the holder, and its death that of the namespace, with the cable in it.
    holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--", "sleep", "300"])
    name = f"near{os.getpid()}"[:15]
    try:
        deadline = time.monotonic() + 5
        ours = Path("/proc/self/ns/net").readlink()
        while (
            Path(f"/proc/{holder.pid}/ns/net").readlink() == ours
            or "sleep" not in Path(f"/proc/{holder.pid}/comm").read_text()
        ):
            assert time.monotonic() < deadline, "no namespace came about"
            time.sleep(0.01)
        cable = Cable(name, holder.pid)
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", str(holder.pid))
        _run("ip", "addr", "add", f"{NEAR}/24", "dev", name)
        _run("ip", "-6", "addr", "add", f"{NEAR_IPV6}/64", "dev", name, "nodad")
        _run("ip", "link", "set", name, "up")
        for address in FAR:
            cable.far("ip", "addr", "add", f"{address}/24", "dev", "far")
        cable.far("ip", "-6", "addr", "add", f"{FAR_IPV6}/64", "dev", "far", "nodad")
        cable.far("ip", "link", "set", "lo", "up")
        cable.far("ip", "link", "set", "far", "up")
        yield cable
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
        holder.kill()
        holder.wait(5)


@dataclass
class FarUpstream:
    """An upstream at the far end."""

    port: int
    open: int = 0
    opened: int = 0
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def forget(self) -> None:
        """Drop all connections, such as those that a fault has cut off without a word."""
        for task in tuple(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(tuple(self.tasks))
        await asyncio.sleep(0)  # an abort is carried out in the loop's next turn


@asynccontextmanager
async def far_upstream(cable: Cable, address: str, tls: ssl.SSLContext, port: int = 0) -> AsyncIterator[FarUpstream]:
    """An upstream with TLS that says back what it hears."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = await cable.at_far_end(lambda: socket.create_server((address, port), family=family, backlog=512))
    upstream = FarUpstream(sock.getsockname()[1])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.connections += 1
        try:
            exchange = Exchange((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"), 0, reader, writer)
            if "model=scripted" not in exchange.head:
                await answer_health_check(exchange)
                return
            exchange.upgrade(CREATED)
            upstream.open += 1
            upstream.opened += 1
            try:
                await echo(Wire(reader, writer))
            finally:
                upstream.open -= 1
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # the other end may not be there to say goodbye to
            raise
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        upstream.tasks.add(task)
        task.add_done_callback(upstream.tasks.discard)

    server = await asyncio.start_server(accept, sock=sock, ssl=tls, ssl_shutdown_timeout=1, limit=1 << 20)
    try:
        yield upstream
    finally:
        server.close()
        await upstream.forget()


async def echo(wire: Wire) -> None:
    """Say back what was heard and answer pings, as a healthy provider does; after TALK, talk without end."""
    scanner = Scanner(masked=True, max_message_bytes=1 << 30)
    raw = bytearray()
    while data := await wire.reader.read(65_536):
        for item in scanner.feed(data):
            match item:
                case Chunk():
                    raw += item.raw
                case Completed():
                    payload = pop_payload(raw, masked=True)
                    while payload == TALK and not wire.writer.is_closing():
                        wire.send(b'{"type":"response.output_audio.delta","delta":"%s"}' % (b"A" * 3200))
                        await asyncio.sleep(0.05)  # the pace of speech
                    wire.send(payload)
                case Control(Opcode.PING, payload):
                    wire.send(payload, Opcode.PONG)
                case Control(Opcode.CLOSE, payload):
                    wire.send(payload, Opcode.CLOSE)
                    return
        await wire.writer.drain()
