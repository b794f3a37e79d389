"""Firewall rules and files of the namespaces in which these tests run, each for the duration of one block."""

import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.network_namespace import PROVIDER_NAME, REMOTE_ADDRESSES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse to change the firewall of a machine: the namespace of these tests has only the loopback device."""
    # /proc/net/dev, not /sys/class/net: /sys shows the devices of the namespace in which it was mounted.
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()[2:]
    devices = {line.split(":")[0].strip() for line in lines}
    if items and devices != {"lo"}:
        pytest.exit(
            f"these tests need a network namespace without {sorted(devices)}; run `make test-faults`", returncode=2
        )


class LocalNetwork:
    """Faults of this namespace's loopback network."""

    @contextmanager
    def rule(self, *options: str, table: str = "iptables", chain: str = "OUTPUT") -> Iterator[None]:
        """A firewall rule for sent packets, which on loopback are also the received ones.

        Dropping a datagram in OUTPUT returns an error to its sender; dropping it in INPUT loses it silently.
        """
        subprocess.run([table, "-w", "-I", chain, *options], check=True, capture_output=True)
        try:
            yield
        finally:
            subprocess.run([table, "-w", "-D", chain, *options], check=True, capture_output=True)

    @contextmanager
    def black_hole(self, port: int) -> Iterator[None]:
        """Drop all packets to and from a TCP port, without a notice to either side."""
        with (
            self.rule("-p", "tcp", "--dport", str(port), "-j", "DROP"),
            self.rule("-p", "tcp", "--sport", str(port), "-j", "DROP"),
        ):
            yield

    @contextmanager
    def replaced_file(self, path: str, text: str) -> Iterator[None]:
        """Other content for a file of /etc, in this mount namespace only."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            subprocess.run(["mount", "--bind", file.name, path], check=True, capture_output=True)
            try:
                yield
            finally:
                subprocess.run(["umount", path], check=True, capture_output=True)


@pytest.fixture
def network() -> LocalNetwork:
    """The loopback network of this namespace."""
    return LocalNetwork()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that the relays trust through SSL_CERT_FILE."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    """A server context that is valid for the provider's name and all remote addresses."""
    return authority.server_context(PROVIDER_NAME, *REMOTE_ADDRESSES)
