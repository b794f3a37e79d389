"""Parses names and dates of a certificate from its DER bytes. Pure.

Python's ssl returns the issuer of trusted certificates only. Nothing is verified here; RFC 5280 section 4.1 has the fields.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_COMMON_NAME: Final = bytes.fromhex("550403")
_ORGANIZATION: Final = bytes.fromhex("55040a")
_UNIT: Final = bytes.fromhex("55040b")
_NAME_OIDS: Final = (_ORGANIZATION, _UNIT, _COMMON_NAME)
_SEQUENCE, _EXPLICIT_0, _UTC_TIME = 0x30, 0xA0, 0x17
_ENCODINGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii", 0x14: "latin-1", 0x1E: "utf-16-be"}
_MAX_NAME_LENGTH: Final = 80

# Products that intercept TLS, by the issuer that their certificates name. Source: vendors' documents and public bug reports.
# "Cloudflare" alone is not one of them: it also issues certificates for the public web.
_INTERCEPTORS: Final = (
    ("Zscaler", r"zscaler"),
    ("Netskope", r"netskope|goskope"),
    ("Palo Alto Networks", r"palo ?alto|pan-os|globalprotect|prisma access"),
    ("Fortinet", r"forti(net|gate|guard)|\bFG[T\d]"),
    ("Blue Coat", r"blue ?coat|proxysg|symantec web security"),
    ("Cisco", r"cisco|umbrella|ironport"),
    ("Check Point", r"check ?point"),
    ("Sophos", r"sophos"),
    ("Forcepoint", r"forcepoint|websense"),
    ("Skyhigh (McAfee)", r"mcafee|skyhigh|trellix"),
    ("Cloudflare Gateway", r"cloudflare.*gateway|gateway ca - cloudflare"),
    ("Cato Networks", r"cato networks"),
    ("iboss", r"\biboss\b"),
    ("Menlo Security", r"menlo security"),
    ("Barracuda", r"barracuda"),
    ("SonicWall", r"sonicwall"),
    ("WatchGuard", r"watchguard"),
    ("Kaspersky", r"kaspersky"),
    ("ESET", r"\beset\b"),
    ("Avast or AVG", r"\bavast\b|\bavg\b"),
    ("Bitdefender", r"bitdefender"),
    ("Squid", r"\bsquid\b"),
    ("mitmproxy", r"mitmproxy"),
    ("Charles", r"charles proxy"),
    ("Fiddler", r"fiddler"),
    ("Burp Suite", r"portswigger"),
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Names and dates of a certificate. The names are printable and of bounded length."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime

    @property
    def is_self_signed(self) -> bool:
        """Whether subject and issuer are the same. The signature is not checked."""
        return self.subject == self.issuer


def interceptor_of(issuer: str) -> str | None:
    """The product that intercepts TLS with certificates of this issuer, None if no such product is known."""
    products = (product for product, pattern in _INTERCEPTORS if re.search(pattern, issuer, re.IGNORECASE))
    return next(products, None)


def parse_certificate(der: bytes) -> Certificate:
    """Parse a DER certificate; raises ValueError for anything else."""
    try:
        fields = _children(_children(_content(der, _SEQUENCE))[0][1])
        if fields[0][0] == _EXPLICIT_0:  # the version, which version 1 omits
            fields = fields[1:]
        _serial, _algorithm, issuer, validity, subject = fields[:5]
        begin, end = _children(validity[1])[:2]
        return Certificate(_name(subject[1]), _name(issuer[1]), _time(*begin), _time(*end))
    except (IndexError, UnicodeDecodeError) as exc:
        raise ValueError("not a certificate") from exc


def _content(data: bytes, tag: int) -> bytes:
    elements = _children(data)
    if not elements or elements[0][0] != tag:
        raise ValueError("not a certificate")
    return elements[0][1]


def _children(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and content of each element of a constructed value (X.690 section 8.1)."""
    elements, offset = [], 0
    while offset < len(data):
        tag, length, offset = data[offset], data[offset + 1], offset + 2
        if length & 0x80:
            width = length & 0x7F
            length, offset = int.from_bytes(data[offset : offset + width], "big"), offset + width
        if offset + length > len(data):
            raise ValueError("an element is truncated")
        elements.append((tag, data[offset : offset + length]))
        offset += length
    return elements


def _name(data: bytes) -> str:
    """Organization, unit and common name, in this order and without duplicates."""
    parts: dict[bytes, str] = {}
    for _, relative_name in _children(data):
        for _, pair in _children(relative_name):
            (_, oid), (tag, value) = _children(pair)[:2]
            if oid in _NAME_OIDS:
                parts.setdefault(oid, _printable(value.decode(_ENCODINGS.get(tag, "latin-1"), "replace")))
    unique = dict.fromkeys(parts[oid] for oid in _NAME_OIDS if oid in parts)
    return ", ".join(unique) or "(no name)"


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_MAX_NAME_LENGTH]


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280 section 4.1.2.5.1: the years 50 to 99 are 1950 to 1999.
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
