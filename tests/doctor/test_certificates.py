"""Reading a certificate's names without trusting it."""

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.doctor.certificates import inspection_product, parse_certificate
from tests.support.certificates import create_self_signed


@pytest.fixture(scope="module")
def der(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A certificate as openssl makes it."""
    return create_self_signed(
        tmp_path_factory.mktemp("pair"), "/C=DE/O=Acme Gmbh/OU=Küche/CN=proxy.acme.example", days=90
    ).der()


def test_names_and_dates(der: bytes) -> None:
    """Organization, unit and common name are read, and the dates in UTC."""
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
def test_inspectors_are_known_by_name(issuer: str, product: str | None) -> None:
    """Products that open TLS are recognised; authorities of the public web are not taken for one."""
    assert product == inspection_product(issuer)


@given(cut=st.integers(min_value=0, max_value=400), junk=st.binary(max_size=40))
def test_anything_else_is_refused(der: bytes, cut: int, junk: bytes) -> None:
    """Reading either returns or raises ValueError, whatever the peer sends."""
    for data in (der[:cut], der[:cut] + junk, junk, der[:cut] + junk + der[cut + len(junk) :]):
        with suppress(ValueError):
            parse_certificate(data)
