"""Remedies for a certificate that OpenSSL refuses, by its verification code. Pure but for one look at a file.

OpenSSL completes the chain to a trusted CA before it checks anything else. Only the codes of `_UNKNOWN_CA` therefore mean
that the CA is missing: with every other code SSL_CERT_FILE is right, and another CA bundle cannot help.
"""

import os
from collections.abc import Mapping
from typing import Final

VERIFY_CODE: Final = "verify_code"
"""The name of OpenSSL's code (`X509_V_ERR_*` in x509_vfy.h) in the evidence of a failure."""
_ROOT_IS_MISSING: Final = "2"
_UNKNOWN_CA: Final = frozenset({_ROOT_IS_MISSING, "18", "19", "20", "21"})
_VALIDITY: Final = frozenset({"9", "10"})
_NAMES: Final = frozenset({"62", "64"})
_STRICT: Final = {
    "80": "a server's certificate without a path length (pathlen) in basicConstraints",
    "81": "a CA certificate with keyCertSign in its keyUsage, which its path length requires",
    "82": "a server's certificate without keyCertSign in its keyUsage",
    "83": "certificates with the name of their issuer",
    "84": "a CA certificate with a subject name",
    "85": "a server's certificate, and those of intermediate CAs, with the extension authorityKeyIdentifier = keyid",
    "86": "a CA certificate with the extension subjectKeyIdentifier",
    "87": "a server's certificate whose subjectAltName is not empty",
    "88": "a server's certificate with a subject name, or with a critical subjectAltName",
    "89": "a CA certificate with basicConstraints = critical, CA:TRUE",
    "90": "certificates whose authorityKeyIdentifier is not critical",
    "91": "certificates whose subjectKeyIdentifier is not critical",
    "92": "a CA certificate with the extension keyUsage = critical, keyCertSign, cRLSign",
    "93": "certificates of X.509 version 3, which their extensions require",
}
"""What OpenSSL checks with X509_V_FLAG_X509_STRICT only, which Python sets by default since 3.13."""
_ALWAYS: Final = {
    "25": "a server's certificate from a CA whose path length (pathlen in basicConstraints) allows it",
    "26": "a server's certificate with serverAuth in its extendedKeyUsage, from a CA that may issue such certificates",
    "34": "certificates whose critical extensions OpenSSL knows, with authorityKeyIdentifier and subjectKeyIdentifier not "
    "critical",
    "47": "a certificate for {host} from a CA whose nameConstraints permit that name",
    "48": "a certificate for {host} from a CA whose nameConstraints do not exclude that name",
    "66": "a server's certificate with an RSA key of 2048 bits or more, or an EC key",
    "67": "a CA certificate with an RSA key of 2048 bits or more, or an EC key",
    "68": "CA and server certificates signed with SHA-256 or stronger",
    "79": "a CA certificate of X.509 version 3 with basicConstraints = critical, CA:TRUE, without which Python 3.12 and "
    "earlier accept only version 1 and keyCertSign in keyUsage",
    "94": "certificates whose EC key names its curve",
}
_BREAKS_RULES: Final = (
    "SSL_CERT_FILE is not the cause: the CA is found, but {rule}: {problem}. The administrator of that CA (of the company "
    "proxy, if one intercepts TLS) has to issue {right}."
)
_STRICT_RULE: Final = "its certificates break a rule of RFC 5280 that Python 3.13 and later enforce"
_ALWAYS_RULE: Final = "OpenSSL refuses its certificates"
_STRICT_ADVICE: Final = (
    " Until then, use Python 3.11 or 3.12, as the image of 'make image' does. OpenSSL reports the first problem only; "
    "'openssl verify -x509_strict -CAfile <CA> <certificate>' lists all."
)
_UNNAMED_RULE: Final = (
    "certificates that OpenSSL accepts ('openssl verify -x509_strict' names the certificate at fault)"
)


def evidence_of(exc: BaseException) -> dict[str, str]:
    """OpenSSL's verification code as evidence; empty for another exception."""
    code = getattr(exc, "verify_code", None)  # of ssl.SSLCertVerificationError
    return {VERIFY_CODE: str(code)} if code else {}


def is_ca_found(evidence: Mapping[str, str]) -> bool:
    """Whether the CA is trusted, and something else is wrong with a certificate."""
    return evidence.get(VERIFY_CODE, _ROOT_IS_MISSING) not in _UNKNOWN_CA


def is_rule_broken(evidence: Mapping[str, str]) -> bool:
    """Whether only new certificates help: the CA is trusted, the name and the dates fit."""
    return is_ca_found(evidence) and evidence[VERIFY_CODE] not in _VALIDITY | _NAMES


def remedy_of(evidence: Mapping[str, str], detail: str | None, environ: Mapping[str, str]) -> str | None:
    """The remedy as a template with facts of the target; None if the catalogue's is the best."""
    code = evidence.get(VERIFY_CODE)
    if code is None:
        return None
    if code in _VALIDITY:
        return (
            "Check the clock of the machine that runs the relay. If it is right, the certificate at the host in "
            "OPENAI_BASE_URL, or that of a proxy that intercepts TLS, has to be renewed."
        )
    if code in _NAMES:
        return (
            "Set OPENAI_BASE_URL to a name that the certificate of {host} contains, or correct the DNS entry of {host}."
        )
    if code in _UNKNOWN_CA:
        return _unknown_ca(code, environ)
    return _broken_rule(code, (detail or "").replace("{", "").replace("}", ""))


def remedy_of_proxy(
    evidence: Mapping[str, str], detail: str | None, environ: Mapping[str, str], setting: str
) -> str | None:
    """The same for the certificate of an https:// proxy; `setting` names where its URL was read."""
    if VERIFY_CODE not in evidence:
        return None
    remedy = remedy_of(evidence, (detail or "").rpartition(": ")[2], environ)
    if remedy is None:
        return f"Set SSL_CERT_FILE to a bundle that contains the CA of the proxy in {setting}, and restart the relay."
    return remedy.replace("OPENAI_BASE_URL", setting).replace("{host}", "the proxy")


def _unknown_ca(code: str, environ: Mapping[str, str]) -> str | None:
    file = environ.get("SSL_CERT_FILE", "")
    if not file:
        return None
    if not is_readable_file(file):
        return (
            "SSL_CERT_FILE is set, but the file that it names does not exist, is a folder or is not readable for the "
            "relay's user, so no certificate is trusted. Correct its path or its mode."
        )
    if code == _ROOT_IS_MISSING:
        return (
            "SSL_CERT_FILE is set, but its file contains only an intermediate CA of the certificate of {host}. Add the root "
            "CA to the file: Python before 3.13 requires it."
        )
    return (
        "SSL_CERT_FILE is set, but its certificates do not include the CA that issued the certificate of {host}. Add that "
        "root CA, and any intermediate CA that the server does not send, to the file. 'python -m service doctor' names the "
        "issuer."
    )


def _broken_rule(code: str, problem: str) -> str:
    text = _BREAKS_RULES.replace("{problem}", problem or f"verification code {code}")
    if code in _STRICT:
        return text.replace("{rule}", _STRICT_RULE).replace("{right}", _STRICT[code]) + _STRICT_ADVICE
    return text.replace("{rule}", _ALWAYS_RULE).replace("{right}", _ALWAYS.get(code, _UNNAMED_RULE))


def is_readable_file(path: str) -> bool:
    """Whether OpenSSL can read a file. Raises nothing: `Path.is_file` raises PermissionError before Python 3.14."""
    return os.path.isfile(path) and os.access(path, os.R_OK)  # noqa: PTH113 - see above
