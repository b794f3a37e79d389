"""A real redis-server on a free port, from Debian's package."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.certificates import Authority
from tools.debian import PackageUnavailable, program
from tools.ports import free_port

NAME: Final = "redis-server"
_READY: Final = b"Ready to accept connections"


class RedisServer:
    """A server that can be stopped, continued, killed and started again, on the same port and with the same data."""

    def __init__(self, folder: Path, *options: str, with_tls: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self.authority = Authority(folder) if with_tls else None
        self._options = (*options, *self._tls_options())
        self._process: subprocess.Popen[bytes] | None = None

    def _tls_options(self) -> tuple[str, ...]:
        if self.authority is None:
            return ()
        self.authority.write_server_files(self.folder / "server.pem", self.folder / "server.key")
        files = {"cert-file": "server.pem", "key-file": "server.key", "ca-cert-file": self.authority.bundle.name}
        named = [word for name, file in files.items() for word in (f"--tls-{name}", str(self.folder / file))]
        return ("--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no", *named)

    @property
    def url(self) -> str:
        """Its URL, without credentials."""
        return f"redis://127.0.0.1:{self.port}/0" if self.authority is None else f"rediss://localhost:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        binary = program(NAME)
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self._process = subprocess.Popen(
            [binary.path, *arguments, *self._options], env=binary.environment, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        lines = []
        for line in self._process.stdout:
            lines.append(line)
            if _READY in line:
                return
        raise AssertionError(b"".join(lines).decode())

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it; safe to call twice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def written(self) -> bytes:
        """What its append-only files hold."""
        return b"".join(path.read_bytes() for path in self.folder.glob("appendonlydir/*"))

    def forget(self) -> None:
        """Delete its data; it has to be stopped."""
        for path in self.folder.glob("appendonlydir/*"):
            path.unlink()


@contextmanager
def running_redis(folder: Path, *options: str, with_tls: bool = False) -> Iterator[RedisServer]:
    """Run a server; skips the test where there is none, or fails it if TEST_REQUIRE_REDIS is set."""
    server = RedisServer(folder, *options, with_tls=with_tls)
    try:
        try:
            server.start()
        except PackageUnavailable as exc:
            (pytest.fail if os.environ.get("TEST_REQUIRE_REDIS") else pytest.skip)(f"NO REDIS: {exc}")
        yield server
    finally:
        server.stop()
