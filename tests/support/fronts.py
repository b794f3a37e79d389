"""The TLS fronts that the project ships: HAProxy of the compose profile `tls`, and nginx of the documents."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.certificates import Authority
from tests.support.harness import eventually
from tools.debian import program
from tools.ports import free_port

ROOT: Final = Path(__file__).resolve().parents[2]
HAPROXY_TEXT: Final = (ROOT / "compose/tls/haproxy.cfg").read_text(encoding="utf-8")
NGINX_TEXT: Final = re.findall(
    r"^```nginx\n(.*?)^```$", (ROOT / "docs/clients.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)[0]


@dataclass(frozen=True, slots=True)
class Front:
    """A running front: its port, the authority that clients must trust, a context that does, its process."""

    port: int
    bundle: Path
    context: ssl.SSLContext
    pid: int

    def open_files(self) -> int:
        """The descriptors of the process and its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split()
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (self.pid, *children))


@asynccontextmanager
async def running_front(
    name: str, folder: Path, relay_port: int, changes: Mapping[str, str] | None = None
) -> AsyncIterator[Front]:
    """Run `haproxy` or `nginx` in front of a relay; `changes` replaces parts of its file. Raises PackageUnavailable."""
    binary = program(name)
    authority = Authority(folder)
    authority.write_server_files(folder / "relay.pem", folder / "relay.pem.key")
    port = free_port()
    configuration = folder / f"{name}.conf"
    text = _haproxy(folder, port, relay_port) if name == "haproxy" else _nginx(folder, port, relay_port)
    configuration.write_text(_replaced(text, changes or {}), encoding="utf-8")
    arguments = (
        ["-db", "-f", str(configuration)]
        if name == "haproxy"
        else ["-p", str(folder), "-c", str(configuration), "-e", "stderr"]
    )
    with (folder / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            binary.path, *arguments, env=binary.environment | {"RELAY_ACCESS": "tokens"}, stdout=log, stderr=log
        )
    context = ssl.create_default_context(cafile=str(authority.bundle))
    try:
        await eventually(lambda: _accepts(port), 30)
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
        writer.close()  # a worker has answered it, so that all processes run
        yield Front(port, authority.bundle, context, process.pid)
    finally:
        process.terminate()
        await process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _replaced(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def _haproxy(folder: Path, port: int, relay_port: int) -> str:
    """The shipped file with other addresses, without Docker's resolver and the port of the health check."""
    text = HAPROXY_TEXT[: HAPROXY_TEXT.index("frontend health")]
    changes = {
        "/run/secrets/tls/relay.pem": f"{folder}/relay.pem",
        "bind :8443": f"bind 127.0.0.1:{port}",
        "relay:8080": f"127.0.0.1:{relay_port}",
        " resolvers docker init-addr libc,none": "",
    }
    return _replaced(text, changes)


def _nginx(folder: Path, port: int, relay_port: int) -> str:
    """The documented server with other addresses, in nginx' default configuration."""
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/relay.pem": f"{folder}/relay.pem",
        "/etc/ssl/relay.key": f"{folder}/relay.pem.key",
        "127.0.0.1:8080": f"127.0.0.1:{relay_port}",
    }
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    return (
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\n  access_log off;\n{paths}{_replaced(NGINX_TEXT, changes)}}}\n"
    )
