"""From the text of a setting to its value. Pure; each raises NotAccepted, whose words hold nothing of the value."""

import ipaddress
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from service.access.tokens import ClientToken
from service.realtime.keys import Secret
from service.realtime.names import MODEL_NAME, is_loopback
from service.settings.envfiles import PROFILE
from service.upstream import proxy

Parser = Callable[[str], object]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2: it travels as a subprotocol, too
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]{1,253}")


class NotAccepted(ValueError):
    """The text is not a value of this setting."""


def secret(text: str) -> Secret:
    """As it is, blanks and quotes included: the lint speaks of them."""
    return Secret(text)


def one_of(*choices: str) -> Parser:
    """One of a few words, in any case."""

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in choices:
            raise NotAccepted
        return word

    return parse


def boolean(text: str) -> bool:
    """True or false, as people write it."""
    word = text.strip().lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise NotAccepted


def integer(least: int, most: int) -> Parser:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        digits = text.strip().replace("_", "")
        if not re.fullmatch(r"[0-9]{1,18}", digits) or not least <= int(digits) <= most:
            raise NotAccepted
        return int(digits)

    return parse


def number(least: float, most: float) -> Parser:
    """A number within bounds."""

    def parse(text: str) -> float:
        digits = text.strip()
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", digits) or not least <= float(digits) <= most:
            raise NotAccepted
        return float(digits)

    return parse


port = integer(0, 65_535)


def host(text: str) -> str:
    """An address to listen on."""
    value = text.strip().removeprefix("[").removesuffix("]")
    if not _HOST.fullmatch(value):
        raise NotAccepted
    return value


def header_value(text: str) -> str:
    """One word that may stand in a header or a URL."""
    value = text.strip()
    if not re.fullmatch(r"[!-~]{1,200}", value):
        raise NotAccepted
    return value


def model(text: str) -> str:
    """A name as providers and gateways form them, "provider/model" included; it becomes part of a URL."""
    value = text.strip()
    if not MODEL_NAME.fullmatch(value):
        raise NotAccepted
    return value


def profile(text: str) -> str:
    """A word that may be part of a file's name."""
    value = text.strip()
    if not PROFILE.fullmatch(value):
        raise NotAccepted
    return value


def base_url(text: str) -> str:
    """The provider's address, with http(s) as its scheme and without a slash at its end."""
    if re.match(r"[^/]*//[^/?#]*@", text):
        raise NotAccepted("credentials belong in OPENAI_API_KEY")
    parts, name = _split(text.strip())
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme.lower(), parts.scheme.lower())
    if scheme not in {"http", "https"}:
        raise NotAccepted
    if parts.query or parts.fragment:
        raise NotAccepted("the query comes from the caller")
    if scheme == "http" and not is_loopback(name):
        raise NotAccepted("the key would travel in clear text")
    path = parts.path.rstrip("/")
    if "realtime" in path.split("/"):
        raise NotAccepted("without /realtime at its end, which the relay adds")
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def upstream_proxy(text: str) -> Secret | None:
    """`auto`, `off`, or the URL of a proxy, which may hold a password."""
    value = text.strip()
    if value.lower() in {"off", proxy.AUTO}:
        return Secret(proxy.AUTO) if value.lower() == proxy.AUTO else None
    try:
        proxy.parse_proxy(value, proxy.PROXY_SETTING)
    except proxy.InvalidProxy:
        raise NotAccepted from None
    return Secret(value)


def client_tokens(text: str) -> tuple[ClientToken, ...]:
    """Tokens, named or numbered, no two alike."""
    tokens: list[ClientToken] = []
    for number_, entry in enumerate((part.strip() for part in text.split(",") if part.strip()), 1):
        name, colon, value = entry.partition(":")
        if not colon:
            name, value = f"token-{number_}", entry
        if not _NAME.fullmatch(name):
            raise NotAccepted(f"the name of entry {number_} is not a word")
        if not _TOKEN.fullmatch(value):
            raise NotAccepted(f"entry {number_} has a character that cannot travel as a subprotocol")
        tokens.append(ClientToken(name, Secret(value)))
    if not tokens:
        raise NotAccepted("no token")
    if len({token.name for token in tokens}) < len(tokens) or len({token.secret for token in tokens}) < len(tokens):
        raise NotAccepted("two entries are alike")
    return tuple(tokens)


def origins(text: str) -> tuple[str, ...]:
    """Origins as browsers write them: lower case, no default port, no path."""
    return tuple(_origin(part) for part in _parts(text))


def _origin(text: str) -> str:
    if text == "*":
        return text
    parts, name = _split(text)
    if not _SCHEME.fullmatch(parts.scheme) or parts.path.strip("/") or parts.query or parts.fragment:
        raise NotAccepted
    shown = f"[{name}]" if ":" in name else name
    standard = {"http": 80, "https": 443}.get(parts.scheme.lower())
    suffix = "" if parts.port in {None, standard} else f":{parts.port}"
    return f"{parts.scheme.lower()}://{shown}{suffix}"


def _split(text: str) -> tuple[SplitResult, str]:
    """A URL and its host. urlsplit drops line breaks and takes most characters in a host; here they are mistakes."""
    if re.search(r"[\s\\\x00-\x1f\x7f]", text):
        raise NotAccepted
    try:
        parts = urlsplit(text)
        name, number_ = parts.hostname or "", parts.port
    except ValueError:
        raise NotAccepted from None
    if "@" in parts.netloc or not _HOST.fullmatch(name) or number_ == 0:
        raise NotAccepted
    return parts, name


def names(text: str) -> tuple[str, ...]:
    """Words in a list."""
    return tuple(header_value(part) for part in _parts(text))


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks."""
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in _parts(text))
    except ValueError:
        raise NotAccepted from None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
