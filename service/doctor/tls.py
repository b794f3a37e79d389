"""The step TLS: whether the certificate is trusted and who issued it, or what the port speaks instead. Raises StepFailed.

A certificate that is not trusted is fetched once more without verification, only to name its issuer: on a separate
connection, over which nothing is sent.
"""

import asyncio
import os
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from yarl import URL

from service.deadlines import Deadline
from service.doctor.certificates import Certificate, interceptor_of, parse_certificate
from service.doctor.network import Route, abort_connection, open_connection, tls_context
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure, Phase
from service.upstream import certificates, translate

_PROTOCOL_PROBE_SECONDS: Final = 2.0
_MIN_DAYS_LEFT: Final = 14
_VARIABLES_OF_OTHERS: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


async def check_handshake(route: Route) -> Finding:
    """Do the TLS handshake, verified as a dial verifies it, and name the issuer of the certificate."""
    try:
        async with Deadline(route.timeout_seconds):
            certificate, version = await _handshake(route, tls_context())
    except TimeoutError:
        raise await _no_answer(route) from None
    except ssl.SSLCertVerificationError as exc:
        raise await _untrusted(route, exc) from None
    except ssl.SSLError as exc:
        detail = (exc.reason or type(exc).__name__).replace("_", " ").lower()
        notes = await _plain_http_notes(route)
        raise route.step_failed(Failure("tls_failed", Phase.CONNECT, detail=detail), *notes) from None
    except OSError as exc:
        raise route.step_failed(
            Failure("tls_failed", Phase.CONNECT, detail=type(exc).__name__),
            "The connection was closed during the TLS handshake. Firewalls that filter by server name do this; allow "
            f"{route.host} in the firewall.",
        ) from None
    if certificate is None:
        return Finding(version)
    return _judge_trusted(route, certificate, version)


def _judge_trusted(route: Route, certificate: Certificate, version: str) -> Finding:
    days = (certificate.not_after - datetime.now(UTC)).days
    text = f"{version}, trusted, issued by {certificate.issuer}, expires in {days} days"
    interceptor = interceptor_of(certificate.issuer)
    if interceptor is not None:
        note = (
            f"{interceptor} intercepts TLS on this route and can read all traffic, the key included. Its certificate is "
            f"trusted here. If a step below fails, exclude {route.host} from interception."
        )
        return Finding(text, [note], "warn")
    if days < _MIN_DAYS_LEFT:
        return Finding(text, ["The certificate expires soon."], "warn")
    return Finding(text)


async def _untrusted(route: Route, exc: ssl.SSLCertVerificationError) -> StepFailed:
    unverified = tls_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    certificate = None
    with suppress(OSError, StepFailed, TimeoutError):
        async with Deadline(route.timeout_seconds):
            certificate, _ = await _handshake(route, unverified)
    failure = translate.from_certificate_error(exc)
    is_ca_found = certificates.is_ca_found(failure.evidence)
    notes = [] if certificate is None else _untrusted_notes(route, certificate, is_ca_found=is_ca_found)
    error = route.step_failed(failure, *notes, *([] if is_ca_found else trust_store_notes()))
    if certificates.is_rule_broken(failure.evidence):  # also on the way to a relay, where no target chooses the remedy
        remedy = certificates.remedy_of(failure.evidence, failure.detail, os.environ) or ""
        error.remedy = remedy.format_map({"host": route.host})
    return error


def _untrusted_notes(route: Route, certificate: Certificate, *, is_ca_found: bool) -> list[str]:
    interceptor = interceptor_of(certificate.issuer) or interceptor_of(certificate.subject)
    notes = [f"The certificate is for {certificate.subject}, issued by {certificate.issuer}."]
    if interceptor is not None and is_ca_found:
        notes.append(f"{interceptor} intercepts TLS on this route, and its CA is trusted here.")
    elif interceptor is not None:
        notes.append(
            f"{interceptor} intercepts TLS on this route. Set SSL_CERT_FILE to a bundle that contains its root certificate, "
            f"or exclude {route.host} from interception."
        )
    elif certificate.is_self_signed and not is_ca_found:
        notes.append("It is self-signed. Test servers and proxies that intercept TLS use such certificates.")
    now = datetime.now(UTC)
    clock = f"the clock of this machine shows {now:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_before:
        notes.append(f"It is not valid before {certificate.not_before:%Y-%m-%d %H:%M} UTC; {clock}.")
    elif now > certificate.not_after:
        notes.append(f"It expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC; {clock}.")
    return notes


def trust_store_notes() -> list[str]:
    """Problems with the source of trusted certificates."""
    notes = []
    file = os.environ.get("SSL_CERT_FILE")
    if file and not certificates.is_readable_file(file):
        notes.append(
            "SSL_CERT_FILE names a file that does not exist or is not readable, so no certificate is trusted. Correct its "
            "path or its mode."
        )
    paths = ssl.get_default_verify_paths()
    if not file and paths.cafile is None and paths.capath is None:
        notes.append("This system has no trusted certificates. Install the package ca-certificates.")
    others = [name for name in _VARIABLES_OF_OTHERS if os.environ.get(name)]
    if others and not file:
        notes.append(f"{', '.join(others)} is set, but the relay reads SSL_CERT_FILE only. Set SSL_CERT_FILE as well.")
    return notes


async def _no_answer(route: Route) -> StepFailed:
    # A plain HTTP server may wait for the end of a line, which no TLS handshake contains.
    if notes := await _plain_http_notes(route):
        return route.step_failed(Failure("tls_failed", Phase.CONNECT, detail="no answer to the TLS handshake"), *notes)
    return route.step_failed(
        translate.from_timeout(Phase.CONNECT), "The TCP connection is open, but the TLS handshake is not answered."
    )


async def _plain_http_notes(route: Route) -> list[str]:
    if route.proxy is not None or not await speaks_http(route.host, route.port):
        return []
    return [f"Port {route.port} speaks plain HTTP, not TLS. Use http:// or ws:// in the URL, or another port."]


async def _handshake(route: Route, context: ssl.SSLContext) -> tuple[Certificate | None, str]:
    _, writer = await open_connection(route)
    try:
        await writer.start_tls(context, server_hostname=route.host)
    except BaseException:
        # Without waiting: start_tls has replaced the protocol, so the stream never learns that it is closed.
        writer.transport.abort()
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


# -- plain HTTP or TLS ------------------------------------------------------------------------------------------------


async def speaks_http(host: str, port: int) -> bool:
    """Whether a port answers a plain HTTP request."""
    request = f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
        async with Deadline(_PROTOCOL_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                return await reader.readexactly(5) == b"HTTP/"
            finally:
                await abort_connection(writer)
    return False


async def speaks_tls(host: str, port: int) -> bool:
    """Whether a port answers a TLS handshake, with any certificate."""
    context = tls_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    route = Route(URL.build(scheme="https", host=host, port=port), _PROTOCOL_PROBE_SECONDS)
    with suppress(OSError, TimeoutError):
        async with Deadline(_PROTOCOL_PROBE_SECONDS):
            await _handshake(route, context)
            return True
    return False
