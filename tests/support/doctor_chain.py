"""What the doctor's tests share: climbs inside this process, servers that misbehave, certificates made on the spot."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from yarl import URL

from service.doctor.local import LocalConfiguration
from service.doctor.output import NullReporter, Redaction, json_document
from service.doctor.provider import ProviderChain
from service.doctor.relay import RelayChain, RelayOptions
from service.doctor.steps import StepResult, StepRunner
from service.realtime.keys import Secret
from tests.support.tcp_server import Serve, listening

KEY_CANARY: Final = "sk-proj-CANARY0key" + "abcdefghijkl" * 10
TOKEN_CANARY: Final = "CANARY1token-abcdefghijklmnop"
PASSWORD_CANARY: Final = "CANARY2proxy-password"
QUIET: Final = {"RELAY_INTERNAL_PORT": "0"}
"""Nobody is asked for a relay that may run on the machine of the tests."""


@dataclass
class ChainReport:
    """The results of one climb, and all that would be printed of them."""

    results: list[StepResult]
    printed: str

    def __getitem__(self, name: str) -> StepResult:
        return next(rung for rung in self.results if rung.name == name)

    @property
    def failed_step(self) -> str | None:
        """The name of the broken rung."""
        return next((rung.name for rung in self.results if rung.status == "fail"), None)

    def notes(self, name: str) -> str:
        """Finding and notes of a rung, in one text."""
        rung = self[name]
        return "\n".join((rung.finding, *rung.notes, rung.remedy or ""))


async def run_provider_chain(environ: Mapping[str, str], directory: Path, *, turn: bool = False) -> ChainReport:
    """From the settings to the provider."""
    local = LocalConfiguration(QUIET | dict(environ), directory)
    chain = ProviderChain(local, with_turn=turn)
    runner = StepRunner(NullReporter())
    await chain.run(runner)
    return ChainReport(runner.results, json_document(runner.results, chain.describe(), Redaction(local.secrets)))


async def run_relay_chain(
    url: str, *, token: str | None = None, origin: str | None = None, seconds: float = 3.0, turn: bool = False
) -> ChainReport:
    """From a client to a relay."""
    secret = Secret(token) if token is not None else None
    chain = RelayChain(RelayOptions(URL(url), "gpt-realtime", secret, origin, seconds, turn), {})
    runner = StepRunner(NullReporter())
    await chain.run(runner)
    redaction = Redaction(lambda: [token] if token else [])
    return ChainReport(runner.results, json_document(runner.results, chain.describe(), redaction))


# -- servers ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def bare_server(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback that runs `serve` for each connection, whatever becomes of it: its port."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                await serve(reader, writer)
            finally:
                writer.close()

    # A refused handshake is what some tests are about; asyncio would print it.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with listening(run, tls=context) as port:
        yield port


def answering(status: str, body: str = "", **headers: str) -> Serve:
    """Answer every request in the same way."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode())
        await writer.drain()

    return serve


def passing_on(port: int, change: Callable[[bytes], bytes] = bytes) -> Serve:
    """Carry bytes to a port on loopback and back; `change` may spoil the client's first bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            first = await reader.read(65_536)
            far_writer.write(change(first))
            await asyncio.wait(
                [asyncio.ensure_future(_pump(reader, far_writer)), asyncio.ensure_future(_pump(far_reader, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            far_writer.close()

    return serve


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
