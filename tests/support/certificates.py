"""Certificates for tests, created on demand; the repository contains none.

trustme issues them from an authority of the tests' own, whose certificates follow RFC 5280. For a self-signed certificate
with a given subject, and for a CA that breaks the rules, the openssl program runs.
"""

import ssl
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


_PROPER_CA: Final = {
    "basicConstraints": "critical,CA:TRUE",
    "keyUsage": "critical,keyCertSign,cRLSign",
    "subjectKeyIdentifier": "hash",
    "authorityKeyIdentifier": "none",
}
_PROPER_LEAF: Final = {
    "basicConstraints": "CA:FALSE",
    "subjectKeyIdentifier": "hash",
    "authorityKeyIdentifier": "keyid",
    "subjectAltName": "IP:127.0.0.1,DNS:localhost",
}


@dataclass(frozen=True)
class Chain:
    """A company CA and its certificate for loopback. None in `ca` or `leaf` removes an extension, a text replaces it."""

    ca: Mapping[str, str | None] = field(default_factory=dict)
    leaf: Mapping[str, str | None] = field(default_factory=dict)
    ca_options: Sequence[str] = ()
    leaf_options: Sequence[str] = ()
    """Options of `openssl req` that replace the kind of key, or the subject."""

    def create(self, folder: Path) -> tuple[Path, ssl.SSLContext]:
        """The file of the CA, and a server's context, which accepts any key."""
        sections = {"ca": {**_PROPER_CA, **self.ca}, "leaf": {**_PROPER_LEAF, **self.leaf}}
        text = "[req]\nprompt = no\ndistinguished_name = dn\n[dn]\nO = Acme\n"
        for section, extensions in sections.items():
            text += f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in extensions.items() if value)
        (folder / "openssl.cnf").write_text(text)
        _openssl_req(folder, "ca", *self.ca_options)
        _openssl_req(folder, "leaf", "-subj", "/CN=localhost", *self.leaf_options, "-CA", "ca.pem", "-CAkey", "ca.key")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(folder / "leaf.pem", folder / "leaf.key")
        return folder / "ca.pem", context


def _openssl_req(folder: Path, section: str, *options: str) -> None:
    key = () if "-newkey" in options else ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    command = ["openssl", "req", "-x509", "-nodes", "-days", "30", "-config", "openssl.cnf", "-extensions", section]
    command += [*key, "-out", f"{section}.pem", "-keyout", f"{section}.key", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)


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
