"""Who issued a certificate: read from its DER bytes, since Python tells it only of certificates that it trusts. Pure.

Only the names and dates of RFC 5280 section 4.1 are read; nothing is verified here.
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
_MAX_NAME: Final = 80

# Products that open TLS on its way, by words in the issuer's name. Vendors' documents and public bug reports show these.
# "Cloudflare" alone is no such word: it issues certificates for the public web as well.
_INSPECTORS: Final = (
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
    """Names and dates of a certificate; the names are printable and short."""

    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime

    @property
    def is_self_signed(self) -> bool:
        """Whether it names itself as its issuer."""
        return self.subject == self.issuer


def inspection_product(issuer: str) -> str | None:
    """The product that opens TLS on its way and issued a certificate, None if the name is of none that is known."""
    found = (name for name, pattern in _INSPECTORS if re.search(pattern, issuer, re.IGNORECASE))
    return next(found, None)


def parse_certificate(der: bytes) -> Certificate:
    """Read a certificate; raises ValueError if it is none."""
    try:
        fields = _children(_children(_content(der, _SEQUENCE))[0][1])
        if fields[0][0] == _EXPLICIT_0:  # the version, absent in version 1
            fields = fields[1:]
        _serial, _algorithm, issuer, validity, subject = fields[:5]
        begin, end = _children(validity[1])[:2]
        return Certificate(_name(subject[1]), _name(issuer[1]), _time(*begin), _time(*end))
    except (IndexError, UnicodeDecodeError) as exc:
        raise ValueError("not a certificate") from exc


def _content(data: bytes, tag: int) -> bytes:
    found = _children(data)
    if not found or found[0][0] != tag:
        raise ValueError("not a certificate")
    return found[0][1]


def _children(data: bytes) -> list[tuple[int, bytes]]:
    """The elements of a constructed value: tag and content of each (X.690 section 8.1)."""
    elements, at = [], 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + length > len(data):
            raise ValueError("an element is cut off")
        elements.append((tag, data[at : at + length]))
        at += length
    return elements


def _name(data: bytes) -> str:
    """Organization, unit and common name, in this order and each once."""
    parts: dict[bytes, str] = {}
    for _, relative in _children(data):
        for _, pair in _children(relative):
            (_, oid), (tag, value) = _children(pair)[:2]
            if oid in _NAME_OIDS:
                parts.setdefault(oid, _printable(value.decode(_ENCODINGS.get(tag, "latin-1"), "replace")))
    shown = dict.fromkeys(parts[oid] for oid in _NAME_OIDS if oid in parts)
    return ", ".join(shown) or "(no name)"


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:_MAX_NAME]


def _time(tag: int, value: bytes) -> datetime:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280 section 4.1.2.5.1: 50 to 99 are of the last century.
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
