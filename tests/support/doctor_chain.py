"""Runs the doctor's chains in this process against misbehaving servers."""

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
from service.doctor.relay import RelayChain
from service.doctor.relay_request import RelayOptions
from service.doctor.steps import StepResult, StepRunner
from service.realtime.keys import Secret
from service.realtime.live import DEFAULT_MODEL
from service.settings import Settings
from tests.support.tcp_server import Serve, listening

KEY_CANARY: Final = "sk-proj-CANARY0key" + "abcdefghijkl" * 10
TOKEN_CANARY: Final = "CANARY1token-abcdefghijklmnop"
PASSWORD_CANARY: Final = "CANARY2proxy-password"
NO_RUNNING_RELAY: Final = {"RELAY_INTERNAL_PORT": "0"}
"""The doctor queries no relay, since one may run on the machine of the tests."""


@dataclass
class ChainReport:
    """The results of one run of a chain, and its JSON document."""

    results: list[StepResult]
    document: str

    def __getitem__(self, name: str) -> StepResult:
        return next(result for result in self.results if result.name == name)

    @property
    def failed_step(self) -> str | None:
        """The name of the failed step."""
        return next((result.name for result in self.results if result.status == "fail"), None)

    def text(self, name: str) -> str:
        """Finding, notes and remedy of a step, one a line."""
        result = self[name]
        return "\n".join((result.finding, *result.notes, result.remedy or ""))


async def run_provider_chain(
    environ: Mapping[str, str],
    directory: Path,
    *,
    turn: bool = False,
    live: bool = False,
    model: str | None = None,
) -> ChainReport:
    """Run the chain to the provider, with the settings of an environment and a working directory."""
    local = LocalConfiguration(NO_RUNNING_RELAY | dict(environ), directory)
    chain = ProviderChain(local, model=model, with_turn=turn, with_live=live)
    runner = StepRunner(NullReporter())
    await chain.run(runner)
    return ChainReport(runner.results, json_document(runner.results, chain.describe(), Redaction(local.secrets)))


async def run_relay_chain(
    url: str,
    *,
    token: str | None = None,
    origin: str | None = None,
    timeout_seconds: float = 3.0,
    turn: bool = False,
    live: bool = False,
) -> ChainReport:
    """Run the chain from a client to a relay."""
    secret = Secret(token) if token is not None else None
    model = DEFAULT_MODEL if live else Settings().model
    chain = RelayChain(RelayOptions(URL(url), model, secret, origin, timeout_seconds, turn, live), {})
    runner = StepRunner(NullReporter())
    await chain.run(runner)
    redaction = Redaction(lambda: [token] if token else [])
    return ChainReport(runner.results, json_document(runner.results, chain.describe(), redaction))


# -- servers ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def tcp_server(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server on loopback that runs `serve` for each connection and ignores its errors; yields the port."""

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                await serve(reader, writer)
            finally:
                writer.close()

    # Some tests refuse the TLS handshake, which asyncio would print.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    async with listening(run, tls=context) as port:
        yield port


def http_response(status: str, body: str = "", **headers: str) -> Serve:
    """Answer one request with this response. In the names of `headers`, `_` is replaced by `-`."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\n{body}".encode())
        await writer.drain()

    return serve


def forward_to(port: int, change: Callable[[bytes], bytes] = bytes) -> Serve:
    """Forward bytes to a port on loopback and back; `change` is applied to the client's first bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            first = await reader.read(65_536)
            upstream_writer.write(change(first))
            await asyncio.wait(
                [
                    asyncio.ensure_future(_forward(reader, upstream_writer)),
                    asyncio.ensure_future(_forward(upstream_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            upstream_writer.close()

    return serve


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
