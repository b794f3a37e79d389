"""Certificates for tests, created on demand; the repository contains none.

trustme issues them from an authority of the tests' own. It cannot create a self-signed server certificate with a given
subject, as the doctor's tests need; `create_self_signed` runs the openssl program for that.
"""

import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trustme

LOOPBACK: Final = ("127.0.0.1", "localhost")


class Authority:
    """A certificate authority. Clients that trust `bundle` accept the certificates that it issues."""

    def __init__(self, folder: Path, name: str = "Test Authority") -> None:
        self._ca = trustme.CA(organization_name=name)
        self.bundle = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.bundle)

    def server_context(
        self, *identities: str, is_expired: bool = False, only_version: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """A server's context with a certificate for these names and addresses, by default for loopback."""
        if is_expired:
            end = datetime.now(UTC) - timedelta(days=1)
            issued = self._ca.issue_cert(*(identities or LOOPBACK), not_before=end - timedelta(days=1), not_after=end)
        else:
            issued = self._ca.issue_cert(*(identities or LOOPBACK))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        if only_version is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = only_version
        return context

    def write_server_files(self, certificate: Path, key: Path) -> None:
        """Write a certificate for loopback, with its chain, and its key, for servers that read files."""
        issued = self._ca.issue_cert(*LOOPBACK)
        issued.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))


def untrusted_server_context() -> ssl.SSLContext:
    """A server's context with a certificate for loopback, of an authority that no client trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA(organization_name="Unknown Authority").issue_cert(*LOOPBACK).configure_cert(context)
    return context


@dataclass(frozen=True)
class SelfSigned:
    """A self-signed certificate and its key, in files."""

    certificate: Path
    key: Path

    def server_context(self) -> ssl.SSLContext:
        """A server's context with this certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def der(self) -> bytes:
        """The certificate in DER."""
        return ssl.PEM_cert_to_DER_cert(self.certificate.read_text())


def create_self_signed(folder: Path, subject: str, *names: str, days: int = 30) -> SelfSigned:
    """Create a certificate for loopback and `names`; `subject` is in the form of openssl's `-subj`."""
    pair = SelfSigned(folder / "certificate.pem", folder / "key.pem")
    alternatives = ",".join(["DNS:localhost", "IP:127.0.0.1", *(f"DNS:{name}" for name in names)])
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", str(days), "-subj", subject, "-addext", f"subjectAltName={alternatives}",
            "-out", str(pair.certificate), "-keyout", str(pair.key),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    return pair
