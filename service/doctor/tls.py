"""The TLS handshake: whether it is trusted, who issued the certificate, and what answers if it is no TLS. Raises Broken.

A certificate that is not trusted is looked at a second time without verifying, on a connection of its own over which nothing
is sent, only to name who issued it.
"""

import asyncio
import os
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from yarl import URL

from service.doctor.certificates import Certificate, inspection_product, parse_certificate
from service.doctor.network import Route, abort_connection, open_connection, tls_context
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure, Phase
from service.upstream import translate

_LOOK_SECONDS: Final = 2.0
_EXPIRES_SOON_DAYS: Final = 14
_OTHER_STORES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


async def check_handshake(route: Route) -> Finding:
    """The TLS handshake, verified as a dial verifies it; says who issued the certificate."""
    try:
        async with asyncio.timeout(route.seconds):
            certificate, version = await _handshake(route, tls_context())
    except TimeoutError:
        raise await _hangs(route) from None
    except ssl.SSLCertVerificationError as exc:
        raise await _untrusted(route, exc) from None
    except ssl.SSLError as exc:
        raise await _no_tls(route, exc.reason or type(exc).__name__) from None
    except OSError as exc:
        raise route.broken(
            Failure("tls_failed", Phase.CONNECT, detail=type(exc).__name__),
            "The connection was cut in the handshake; firewalls that filter by server name do this.",
        ) from None
    if certificate is None:
        return Finding(version)
    return _judge(certificate, version)


def _judge(certificate: Certificate, version: str) -> Finding:
    days = (certificate.not_after - datetime.now(UTC)).days
    finding = f"{version}, trusted, issued by {certificate.issuer}, expires in {days} days"
    inspector = inspection_product(certificate.issuer)
    if inspector is not None:
        note = (
            f"That is {inspector}: a proxy opens TLS on the way and reads everything, the key included. Its certificate is "
            "trusted here; if WebSockets fail below, ask for an exception for this host."
        )
        return Finding(finding, [note], "warn")
    if days < _EXPIRES_SOON_DAYS:
        return Finding(finding, ["The certificate expires soon."], "warn")
    return Finding(finding)


async def _untrusted(route: Route, exc: ssl.SSLCertVerificationError) -> StepFailed:
    blind = tls_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    certificate = None
    with suppress(OSError, StepFailed, TimeoutError):
        async with asyncio.timeout(route.seconds):
            certificate, _ = await _handshake(route, blind)
    notes = [] if certificate is None else _who(certificate)
    return route.broken(
        Failure("tls_untrusted", Phase.CONNECT, detail=exc.verify_message or "verification failed"),
        *notes,
        *trust_store_notes(),
    )


def _who(certificate: Certificate) -> list[str]:
    inspector = inspection_product(certificate.issuer) or inspection_product(certificate.subject)
    notes = [f"The certificate is for {certificate.subject}, issued by {certificate.issuer}."]
    if inspector is not None:
        notes.append(
            f"That is {inspector}: a company proxy opens TLS on the way. Set SSL_CERT_FILE to a bundle with its root "
            "certificate, or ask for an exception for this host."
        )
    elif certificate.is_self_signed:
        notes.append("It is self-signed: a test server, or a proxy that opens TLS on the way.")
    now = datetime.now(UTC)
    if now < certificate.not_before:
        notes.append(
            f"It is valid from {certificate.not_before:%Y-%m-%d %H:%M} UTC; this machine's clock says {now:%Y-%m-%d %H:%M}."
        )
    elif now > certificate.not_after:
        notes.append(
            f"It expired {certificate.not_after:%Y-%m-%d %H:%M} UTC; this machine's clock says {now:%Y-%m-%d %H:%M}."
        )
    return notes


def trust_store_notes() -> list[str]:
    """Where trusted certificates come from, if there is something odd about it."""
    notes = []
    named = os.environ.get("SSL_CERT_FILE")
    if named and not Path(named).is_file():
        notes.append("SSL_CERT_FILE names a file that does not exist, so nothing is trusted.")
    paths = ssl.get_default_verify_paths()
    if not named and paths.cafile is None and paths.capath is None:
        notes.append("This system has no trust store; install ca-certificates.")
    others = [name for name in _OTHER_STORES if os.environ.get(name)]
    if others and not named:
        notes.append(f"{', '.join(others)} is set, but only SSL_CERT_FILE is read here.")
    return notes


async def _no_tls(route: Route, why: str) -> StepFailed:
    return route.broken(
        Failure("tls_failed", Phase.CONNECT, detail=why.replace("_", " ").lower()), *await _plain_notes(route)
    )


async def _hangs(route: Route) -> StepFailed:
    """A server of plain HTTP may wait for the end of a line that TLS never sends."""
    if notes := await _plain_notes(route):
        return route.broken(Failure("tls_failed", Phase.CONNECT, detail="the handshake is not answered"), *notes)
    return route.broken(translate.from_timeout(Phase.CONNECT), "TCP connected, but the TLS handshake hangs.")


async def _plain_notes(route: Route) -> list[str]:
    if route.proxy is not None or not await speaks_http(route.host, route.port):
        return []
    return [
        f"Port {route.port} speaks plain HTTP, not TLS: the URL should begin with http:// or ws://, or name another port."
    ]


async def _handshake(route: Route, context: ssl.SSLContext) -> tuple[Certificate | None, str]:
    _, writer = await open_connection(route)
    try:
        await writer.start_tls(context, server_hostname=route.host)
    except BaseException:
        writer.transport.abort()  # and no more: the stream is never told that it is closed, since TLS has its place by now
        raise
    try:
        tls = writer.get_extra_info("ssl_object")
        der = tls.getpeercert(binary_form=True)
        certificate = None
        with suppress(ValueError):
            certificate = parse_certificate(der or b"")
        return certificate, str(tls.version())
    finally:
        await abort_connection(writer)


# -- http where https is, and the other way round -----------------------------------------------------------------------


async def speaks_http(host: str, port: int) -> bool:
    """Whether a port answers plain HTTP."""
    return (
        await _first_bytes(host, port, f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    ) == b"HTTP/"


async def speaks_tls(host: str, port: int) -> bool:
    """Whether a port answers a TLS handshake, whoever its certificate is from."""
    context = tls_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LOOK_SECONDS):
            await _handshake(Route(URL.build(scheme="https", host=host, port=port)), context)
            return True
    return False


async def _first_bytes(host: str, port: int, question: bytes) -> bytes:
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(_LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(question)
                return await reader.readexactly(5)
            finally:
                await abort_connection(writer)
    return b""
