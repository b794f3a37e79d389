"""Rules of the network in which these tests run: set for one test, and gone after it."""

import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.network_namespace import FAR, NAME


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse to touch the rules of a network that others use: here there is no device but loopback."""
    # /proc/net/dev, not /sys/class/net: /sys shows the devices of the namespace in which it was mounted.
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    devices = {line.split(":")[0].strip() for line in lines}
    if items and devices != {"lo"}:
        pytest.exit(
            f"these tests need a network of their own, without {sorted(devices)}: make test-faults", returncode=2
        )


class Network:
    """What can be done to the packets of this namespace."""

    @contextmanager
    def rule(self, *words: str, table: str = "iptables", chain: str = "OUTPUT") -> Iterator[None]:
        """A rule for what is sent, which on loopback is all that is received, too.

        A datagram that is dropped when it is sent is an error to its sender; dropped on INPUT it is lost.
        """
        subprocess.run([table, "-w", "-I", chain, *words], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run([table, "-w", "-D", chain, *words], check=True, capture_output=True)

    @contextmanager
    def black_hole(self, port: int) -> Iterator[None]:
        """Nothing passes to or from a TCP port, and nobody is told."""
        with (
            self.rule("-p", "tcp", "--dport", str(port), "-j", "DROP"),
            self.rule("-p", "tcp", "--sport", str(port), "-j", "DROP"),
        ):
            yield

    @contextmanager
    def file(self, path: str, text: str) -> Iterator[None]:
        """Another content for a file of /etc, in this mount namespace only."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            subprocess.run(["mount", "--bind", file.name, path], check=True, capture_output=True)
            try:
                yield
            finally:
                subprocess.run(["umount", path], check=True, capture_output=True)


@pytest.fixture
def network() -> Network:
    """The network of this namespace."""
    return Network()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the relays here trust, by SSL_CERT_FILE."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    """A certificate for everybody at the far end."""
    return authority.server_context(NAME, *FAR)
