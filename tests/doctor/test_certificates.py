"""Parsing of certificates that are not trusted."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.doctor.certificates import interceptor_of, parse_certificate
from tests.support.certificates import create_self_signed


@pytest.fixture(scope="module")
def der(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A certificate made by openssl."""
    subject = "/C=DE/O=Acme Gmbh/OU=Küche/CN=proxy.acme.example"
    return create_self_signed(tmp_path_factory.mktemp("certificate"), subject, days=90).der()


def test_parse_certificate_reads_names_and_dates(der: bytes) -> None:
    """The name holds organization, unit and common name; the dates are in UTC."""
    certificate = parse_certificate(der)

    assert certificate.issuer.startswith("Acme Gmbh, ")
    assert certificate.issuer.endswith(", proxy.acme.example")
    assert certificate.is_self_signed
    assert timedelta(days=90) == certificate.not_after - certificate.not_before
    assert abs(datetime.now(UTC) - certificate.not_before) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("issuer", "product"),
    [
        ("Zscaler Inc., Zscaler Root CA", "Zscaler"),
        ("Netskope Inc, caadmin.netskope.com", "Netskope"),
        ("Palo Alto Networks, PAN-OS decryption", "Palo Alto Networks"),
        ("Fortinet, Certificate Authority, FGT60F", "Fortinet"),
        ("Blue Coat ProxySG", "Blue Coat"),
        ("Cisco, Cisco Umbrella Root CA", "Cisco"),
        ("Cloudflare, Inc., Gateway CA - Cloudflare Managed G1", "Cloudflare Gateway"),
        ("Cloudflare, Inc., Cloudflare Inc ECC CA-3", None),
        ("Google Trust Services, WE1", None),
        ("DigiCert Inc, DigiCert Global G2 TLS RSA SHA256 2020 CA1", None),
        ("Let's Encrypt, R11", None),
        ("Sectigo Limited, Sectigo RSA Domain Validation Secure Server CA", None),
        ("Amazon, Amazon RSA 2048 M02", None),
    ],
)
def test_interceptor_is_recognised_by_issuer(issuer: str, product: str | None) -> None:
    """Public certificate authorities are not products that intercept TLS."""
    assert product == interceptor_of(issuer)


@given(cut=st.integers(min_value=0, max_value=400), junk=st.binary(max_size=40))
def test_parse_certificate_raises_only_value_error(der: bytes, cut: int, junk: bytes) -> None:
    """Truncated, extended and corrupted certificates raise ValueError and nothing else."""
    for data in (der[:cut], der[:cut] + junk, junk, der[:cut] + junk + der[cut + len(junk) :]):
        with suppress(ValueError):
            parse_certificate(data)
