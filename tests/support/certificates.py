"""Certificates for tests, made when they are needed with the openssl program; none is kept in the repository."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "IP:127.0.0.1"
DAY = 86_400


def _openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@dataclass(frozen=True)
class Authority:
    """A private authority: its own certificate in `bundle`, and what it signs."""

    folder: Path
    name: str = "Test Authority"

    @property
    def bundle(self) -> Path:
        """What a client has to trust."""
        return self.folder / "ca.pem"

    def create(self) -> "Authority":
        """Make the authority's key and certificate."""
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", f"/O={self.name}/CN={self.name}", "-keyout", self.folder / "ca.key", "-out", self.bundle,
        )  # fmt: skip
        return self

    def server(
        self, subject: str = ADDRESS, *, is_expired: bool = False, oldest: ssl.TLSVersion | None = None
    ) -> ssl.SSLContext:
        """A server's context with a certificate for `subject`; `oldest` allows no version but this one."""
        stem = self.folder / f"{subject.replace(':', '_')}-{is_expired}"
        (extensions := stem.with_suffix(".ext")).write_text(f"subjectAltName={subject}\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=server",
            "-keyout", stem.with_suffix(".key"), "-out", stem.with_suffix(".csr"),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", stem.with_suffix(".csr"), "-CA", self.bundle, "-CAkey", self.folder / "ca.key",
            "-CAcreateserial", "-days", "-1" if is_expired else "2", "-extfile", extensions, "-out", stem.with_suffix(".pem"),
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        if oldest is not None:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = oldest
        return context
