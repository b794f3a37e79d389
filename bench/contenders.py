"""The contenders: each on one core, with a plain listener on loopback and the benchmark's upstream behind it.

Each is configured as its documentation recommends for WebSockets, without features that cost it time and that another lacks.
All add the provider's key to the request, and verify the certificate of a TLS upstream.
"""

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench import configurations
from bench.endpoints import client_context
from bench.process import Process
from tools.debian import program
from tools.ports import free_port

REPOSITORY: Final = Path(__file__).resolve().parent.parent
KEY: Final = "sk-bench-0123456789abcdefghijklmnopqrstuvwxyz"
STRICT: Final = "relay-strict"
"""The relay with an allow-list of models. It then scans every byte that the client of GPT-Live sends."""
RENEW: Final = "relay-renew"
"""The relay with continuity for every session. It is no part of the usual comparison."""
_LITELLM: Final = REPOSITORY / ".venv" / "bench-litellm" / "bin" / "litellm"


class ContenderUnavailable(Exception):
    """A contender cannot be measured; the message names the cause."""


@dataclass(frozen=True, slots=True)
class UpstreamSite:
    """The upstream of a contender: its port, and for TLS the authority to trust. `folder` is for the contender's files."""

    folder: Path
    upstream_port: int
    bundle: Path | None

    @property
    def is_tls(self) -> bool:
        """Whether upstream uses TLS."""
        return self.bundle is not None


@dataclass(frozen=True, slots=True)
class ClientTarget:
    """Address, headers and TLS context for clients."""

    port: int
    host: str = "127.0.0.1"
    headers: dict[str, str] = field(default_factory=dict)
    context: ssl.SSLContext | None = None


@dataclass(slots=True)
class Contender:
    """A running contender. `process` is None for the direct connection; `scrape_port` serves metrics."""

    name: str
    target: ClientTarget
    process: Process | None = None
    scrape_port: int | None = None
    forwards_verbatim: bool = True  # False: only the audio of a message can be compared


def _direct(site: UpstreamSite) -> Contender:
    context = client_context(str(site.bundle)) if site.bundle else None
    return Contender(
        "direct", ClientTarget(site.upstream_port, headers={"Authorization": f"Bearer {KEY}"}, context=context)
    )


def _relay(site: UpstreamSite, *, name: str = "relay", tree: Path = REPOSITORY, **settings: str) -> Contender:
    port, internal = free_port(), free_port()
    scheme, host = ("https", "localhost") if site.is_tls else ("http", "127.0.0.1")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tree),
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": f"{scheme}://{host}:{site.upstream_port}/v1",
        "RELAY_ACCESS": "open",
        "RELAY_PORT": str(port),
        "RELAY_INTERNAL_PORT": str(internal),
        "RELAY_MAX_SESSIONS": "20000",
        "RELAY_MAX_RECONNECTS_PER_MINUTE": "100000",
        **settings,
    }
    if site.bundle:
        environment["SSL_CERT_FILE"] = str(site.bundle)
    # Not in the repository, which may contain a developer's .env.
    process = Process(
        [python_of(tree), "-m", "service", "serve"], site.folder / f"relay-{port}.log", environment, site.folder
    )
    return Contender(name, ClientTarget(port), process, scrape_port=internal)


def _relay_strict(site: UpstreamSite) -> Contender:
    return _relay(site, name=STRICT, RELAY_ALLOWED_MODELS="gpt-realtime,gpt-live-1")


def _relay_renew(site: UpstreamSite) -> Contender:
    return _relay(site, name=RENEW, RELAY_CONTINUITY="renew")


def python_of(tree: Path) -> str:
    """The Python that `make run` uses in a working tree."""
    for folder in (tree, REPOSITORY):
        if (found := folder / ".venv" / "run" / "bin" / "python").exists():
            return str(found)
    return sys.executable


def _haproxy(site: UpstreamSite) -> Contender:
    haproxy, port = program("haproxy"), free_port()
    configuration = site.folder / "haproxy.cfg"
    configuration.write_text(configurations.haproxy(port, site.upstream_port, site.bundle, KEY))
    command = [str(haproxy.path), "-db", "-f", str(configuration)]
    process = Process(command, site.folder / "haproxy.log", haproxy.environment, site.folder)
    return Contender("haproxy", ClientTarget(port), process)


def _nginx(site: UpstreamSite) -> Contender:
    nginx, port = program("nginx"), free_port()
    configuration = site.folder / "nginx.conf"
    configuration.write_text(configurations.nginx(site.folder, port, site.upstream_port, site.bundle, KEY))
    command = [str(nginx.path), "-p", str(site.folder), "-c", str(configuration), "-e", "stderr"]
    process = Process(command, site.folder / "nginx.log", nginx.environment, site.folder)
    return Contender("nginx", ClientTarget(port), process)


def _websockets(site: UpstreamSite) -> Contender:
    port = free_port()
    scheme, host = ("wss", "localhost") if site.is_tls else ("ws", "127.0.0.1")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "OPENAI_API_KEY": KEY}
    if site.bundle:
        environment["SSL_CERT_FILE"] = str(site.bundle)
    command = [
        sys.executable,
        "-m",
        "bench.peers.websockets_relay",
        str(port),
        f"{scheme}://{host}:{site.upstream_port}",
    ]
    process = Process(command, site.folder / "websockets.log", environment, site.folder)
    return Contender("websockets", ClientTarget(port), process)


def _litellm(site: UpstreamSite) -> Contender:
    if not _LITELLM.exists():
        raise ContenderUnavailable("the environment .venv/bench-litellm does not exist; `make bench` creates it")
    port = free_port()
    configuration = site.folder / "litellm.yaml"
    configuration.write_text(configurations.litellm(site.upstream_port, is_tls=site.is_tls, key=KEY))
    environment = {"PATH": os.environ["PATH"], "HOME": str(site.folder), **configurations.LITELLM_ENVIRONMENT}
    if site.bundle:
        environment["SSL_CERT_FILE"] = str(site.bundle)
    arguments = ["--config", str(configuration), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    process = Process([str(_LITELLM), *arguments], site.folder / "litellm.log", environment, site.folder)
    target = ClientTarget(port, headers={"Authorization": f"Bearer {configurations.LITELLM_MASTER_KEY}"})
    return Contender("litellm", target, process, forwards_verbatim=False)


STARTERS: Final[dict[str, Callable[[UpstreamSite], Contender]]] = {
    "direct": _direct,
    "relay": _relay,
    STRICT: _relay_strict,
    RENEW: _relay_renew,
    "haproxy": _haproxy,
    "nginx": _nginx,
    "websockets": _websockets,
    "litellm": _litellm,
}


def start_process(name: str, site: UpstreamSite) -> Contender:
    """Start a contender; `relay=FOLDER` is the relay of another working tree, to compare two."""
    kind, _, tree = name.partition("=")
    if tree:
        return _relay(site, name=name, tree=Path(tree).resolve())
    return STARTERS[kind](site)


def versions(names: list[str]) -> dict[str, str]:
    """The version that each contender reports."""
    return {name: _version(name) for name in names if name != "direct"}


def _version(name: str) -> str:
    try:
        if name in ("haproxy", "nginx"):
            found = program(name)
            return _first_version([str(found.path), "-v"], found.environment)
        if name == "websockets":
            code = "import websockets, uvloop; print(websockets.__version__, 'on uvloop', uvloop.__version__)"
            return _first_version([sys.executable, "-c", code], {}, whole=True)
        if name == "litellm":
            code = "from importlib.metadata import version; print(version('litellm'))"
            return _first_version([str(_LITELLM.with_name("python")), "-c", code], {})
        tree = Path(name.partition("=")[2] or REPOSITORY).resolve()
        code = (
            "import sys, aiohttp; from importlib.util import find_spec; "
            "from service.version import __version__ as v; "
            "loop = ' and uvloop' if find_spec('uvloop') else ''; "
            "print(f'{v} on Python {sys.version.split()[0]}, aiohttp {aiohttp.__version__}{loop}')"
        )
        return _first_version([python_of(tree), "-c", code], {"PYTHONPATH": str(tree)}, whole=True)
    except Exception as exc:  # noqa: BLE001 - a missing version must not stop the measurement
        return f"unknown ({type(exc).__name__})"


def _first_version(command: list[str], environment: dict[str, str], *, whole: bool = False) -> str:
    # The commands are written in _version.
    done = subprocess.run(command, check=True, capture_output=True, env=environment, timeout=60)  # noqa: S603
    text = (done.stdout + done.stderr).decode().strip()
    found = re.search(r"\d+(\.\d+)+\S*", text)
    return text if whole or not found else found.group()
