"""A second network namespace, joined to the tests' own by a veth link, in which tests cause network faults.

The relay is the real program in the tests' namespace. Client and upstream are in the remote one, so that the relay
observes a fault only through the link. The remote namespace lives as long as a process that holds it, and disappears with it.
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
from service.realtime.scanner_items import Chunk, ControlFrame, MessageEnd
from tests.support.harness import Answer, RawClient
from tests.support.messages import pop_payload
from tests.support.raw_http_server import Exchange, answer_health_check
from tests.support.raw_websocket_server import CREATED, ServerConnection

LOCAL_ADDRESS: Final = "10.77.0.1"
LOCAL_IPV6: Final = "fd77::1"
PROVIDER_NAME: Final = "provider.example"
REMOTE_ADDRESSES: Final = tuple(f"10.77.0.{number}" for number in range(2, 11))
REMOTE_IPV6: Final = "fd77::2"
PATH: Final = "/v1/realtime?model=scripted"
STREAM_REQUEST: Final = b'{"type":"talk"}'
"""The message on which a remote upstream sends audio without end."""

Result = TypeVar("Result")


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _enter(namespace: str) -> None:
    """Move this thread into a network namespace; os.setns exists from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(namespace).open("rb") as file:
        if libc.setns(file.fileno(), 0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")


class VethLink:
    """The link between both namespaces, and the faults that tests can cause on it and in the remote namespace."""

    def __init__(self, name: str, holder: int) -> None:
        self.name = name
        self._namespace = f"/proc/{holder}/ns/net"

    def run_remote(self, *command: str) -> str:
        """Run a program in the remote namespace; returns its output."""
        return _run("nsenter", f"--net={self._namespace}", "--", *command)

    @contextmanager
    def rules(self, *rules: str) -> Iterator[None]:
        """Rules of the remote iptables, each as `CHAIN options`; of ip6tables as `6 CHAIN options`."""
        with ExitStack() as stack:
            for rule in rules:
                table = "ip6tables" if rule.startswith("6 ") else "iptables"
                chain, *options = rule.removeprefix("6 ").split()
                self.run_remote(table, "-w", "-A", chain, *options)
                stack.callback(self.run_remote, table, "-w", "-D", chain, *options)
            yield

    def matched_packets(self, chain: str) -> int:
        """The number of packets that matched the rules of a chain in the remote namespace."""
        lines = self.run_remote("iptables", "-w", "-nvxL", chain).splitlines()[2:]
        return sum(int(line.split()[0]) for line in lines)

    def black_hole(self, address: str) -> Any:
        """Drop all packets from and to an address of the remote namespace."""
        return self.rules(f"INPUT -d {address} -j DROP", f"OUTPUT -s {address} -j DROP")

    @contextmanager
    def local_route(self, kind: str, address: str) -> Iterator[None]:
        """A local route of a kind that forwards nothing: unreachable, prohibit or blackhole."""
        _run("ip", "route", "add", kind, address)
        try:
            yield
        finally:
            _run("ip", "route", "del", kind, address)

    @contextmanager
    def down(self) -> Iterator[None]:
        """The link has no carrier, as with a pulled cable."""
        _run("ip", "link", "set", self.name, "down")
        try:
            yield
        finally:
            _run("ip", "link", "set", self.name, "up")

    async def call_remote(self, function: Callable[[], Result]) -> Result:
        """Call a blocking function in a thread of the remote namespace: a socket belongs to the namespace of its creation."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                _enter(self._namespace)
                results.append(function())
            except BaseException as exc:  # noqa: BLE001 - raised again in the caller's thread
                errors.append(exc)

        thread = threading.Thread(target=work)  # not from a pool: a thread stays in the namespace that it entered
        thread.start()
        await asyncio.to_thread(thread.join)
        if errors:
            raise errors[0]
        return results[0]

    async def connect_client(self, port: int, source: str) -> RawClient:
        """A remote client with this source address, after the relay's answer to its upgrade request."""
        sock = await self.call_remote(lambda: socket.create_connection((LOCAL_ADDRESS, port), 5, (source, 0)))
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
def veth_link() -> Iterator[VethLink]:
    """A link with addresses at both ends; link and namespace are removed however the test ends."""
    # The holder dies with the tests, the namespace with the holder, and the link with the namespace.
    holder = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--", "sleep", "300"])
    name = f"local{os.getpid()}"[:15]
    try:
        deadline = time.monotonic() + 60
        own_namespace = Path("/proc/self/ns/net").readlink()
        while (
            Path(f"/proc/{holder.pid}/ns/net").readlink() == own_namespace
            or "sleep" not in Path(f"/proc/{holder.pid}/comm").read_text()
        ):
            assert time.monotonic() < deadline, "the namespace was not created"
            time.sleep(0.01)
        link = VethLink(name, holder.pid)
        _run("ip", "link", "add", name, "type", "veth", "peer", "name", "remote", "netns", str(holder.pid))
        _run("ip", "addr", "add", f"{LOCAL_ADDRESS}/24", "dev", name)
        _run("ip", "-6", "addr", "add", f"{LOCAL_IPV6}/64", "dev", name, "nodad")
        _run("ip", "link", "set", name, "up")
        for address in REMOTE_ADDRESSES:
            link.run_remote("ip", "addr", "add", f"{address}/24", "dev", "remote")
        link.run_remote("ip", "-6", "addr", "add", f"{REMOTE_IPV6}/64", "dev", "remote", "nodad")
        link.run_remote("ip", "link", "set", "lo", "up")
        link.run_remote("ip", "link", "set", "remote", "up")
        yield link
    finally:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
        holder.kill()
        holder.wait(5)


@dataclass
class RemoteUpstream:
    """An upstream in the remote namespace: open sessions, sessions ever opened, connections ever accepted."""

    port: int
    open: int = 0
    opened: int = 0
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def abort_connections(self) -> None:
        """Abort all connections, such as those that a fault has cut off without a notice to this side."""
        for task in tuple(self.tasks):
            task.cancel()
        if self.tasks:
            await asyncio.wait(tuple(self.tasks))
        await asyncio.sleep(0)  # the event loop carries out an abort in its next iteration


@asynccontextmanager
async def remote_upstream(
    link: VethLink, address: str, tls: ssl.SSLContext, port: int = 0
) -> AsyncIterator[RemoteUpstream]:
    """An upstream with TLS that echoes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = await link.call_remote(lambda: socket.create_server((address, port), family=family, backlog=512))
    upstream = RemoteUpstream(sock.getsockname()[1])

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
                await echo(ServerConnection(reader, writer))
            finally:
                upstream.open -= 1
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # a fault may have cut off the peer: a closing handshake would not end
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
        await upstream.abort_connections()


async def echo(connection: ServerConnection) -> None:
    """Echo messages and answer pings, as a healthy provider does; after STREAM_REQUEST, send audio without end."""
    scanner = Scanner(masked=True, max_message_bytes=1 << 30)
    raw = bytearray()
    while data := await connection.reader.read(65_536):
        for item in scanner.feed(data):
            match item:
                case Chunk():
                    raw += item.raw
                case MessageEnd():
                    payload = pop_payload(raw, masked=True)
                    while payload == STREAM_REQUEST and not connection.writer.is_closing():
                        connection.send(b'{"type":"response.output_audio.delta","delta":"%s"}' % (b"A" * 3200))
                        await asyncio.sleep(0.05)  # the rate of speech
                    connection.send(payload)
                case ControlFrame(Opcode.PING, payload):
                    connection.send(payload, Opcode.PONG)
                case ControlFrame(Opcode.CLOSE, payload):
                    connection.send(payload, Opcode.CLOSE)
                    return
        await connection.writer.drain()
