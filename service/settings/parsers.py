"""Parsers from the text of a setting to its value. Pure; each raises NotAccepted, whose text holds nothing of the value."""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, Generic, Literal, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit, urlunsplit

from service.access.clients import OPEN_ACCESS_CLIENT
from service.access.hosts import parse_allowed_host
from service.access.origins import parse_origin
from service.access.tokens import ClientToken
from service.realtime.keys import Secret
from service.realtime.names import MODEL_NAME, is_loopback
from service.settings.envfiles import PROFILE
from service.store.url import InvalidStoreUrl, StoreUrl, parse_store_url
from service.upstream import proxy

_T = TypeVar("_T")

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2: it is also sent as a subprotocol
_OPERATOR_TOKEN: Final = re.compile(r"[!-~]{16,200}")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]{1,253}|[0-9A-Fa-f:.]{2,45}%[A-Za-z0-9_.-]{1,32}")
_MAX_LABEL: Final = 63
_SWITCHES: Final = frozenset({"on", "yes", "true", "1", "no", "false", "0", "none"})


class NotAccepted(ValueError):
    """The text is not a value of the setting."""


@dataclass(frozen=True, slots=True)
class SettingParser(Generic[_T]):
    """A parser, and a description of what it accepts: `accepts`, and for numbers the meaning of 0 in `zero`."""

    parse: Callable[[str], _T]
    accepts: str
    zero: str = ""

    def __call__(self, text: str) -> _T:
        """The value of a text; raises NotAccepted."""
        return self.parse(text)


def accepting(accepts: str) -> Callable[[Callable[[str], _T]], SettingParser[_T]]:
    """Make a function a parser that describes itself by `accepts`."""
    return lambda parse: SettingParser(parse, accepts)


# -- words and numbers ------------------------------------------------------------------------------------------------


def one_of(literal: object) -> SettingParser[Any]:
    """One word of a `Literal` type, in any case."""
    choices = get_args(literal)

    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in choices:
            raise NotAccepted
        return word

    return SettingParser(parse, f"{', '.join(choices[:-1])} or {choices[-1]}")


@accepting("true or false")
def boolean(text: str) -> bool:
    """True or false, in the spellings that are in use."""
    word = text.strip().lower()
    if word in {"true", "1", "yes", "on"}:
        return True
    if word in {"false", "0", "no", "off"}:
        return False
    raise NotAccepted


def integer(minimum: int, maximum: int, *, zero: str = "") -> SettingParser[int]:
    """A whole number within bounds, both included."""

    def parse(text: str) -> int:
        digits = text.strip().replace("_", "")
        if not re.fullmatch(r"[0-9]{1,18}", digits) or not minimum <= int(digits) <= maximum:
            raise NotAccepted
        return int(digits)

    return SettingParser(parse, f"{minimum} to {maximum}", zero)


def number(minimum: float, maximum: float, *, zero: str = "") -> SettingParser[float]:
    """A decimal number within bounds, both included."""

    def parse(text: str) -> float:
        digits = text.strip()
        if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", digits) or not minimum <= float(digits) <= maximum:
            raise NotAccepted
        return float(digits)

    return SettingParser(parse, f"{minimum} to {maximum}", zero)


port: Final = integer(0, 65_535, zero="selects any free port")


@accepting("up to 200 printable ASCII characters without spaces")
def header_value(text: str) -> str:
    """A value that can be sent in a header or a URL."""
    value = text.strip()
    if not re.fullmatch(r"[!-~]{1,200}", value):
        raise NotAccepted
    return value


@accepting("a model name")
def model(text: str) -> str:
    """A name as providers and gateways form them, "provider/model" included; it becomes part of a URL."""
    value = text.strip()
    if not MODEL_NAME.fullmatch(value):
        raise NotAccepted
    return value


@accepting("up to 40 letters, digits, dots, underscores and hyphens")
def profile(text: str) -> str:
    """A name that can be part of a file's name."""
    value = text.strip()
    if not PROFILE.fullmatch(value):
        raise NotAccepted
    return value


@accepting("the path of a file")
def path(text: str) -> Path:
    """A path, which need not exist."""
    value = text.strip()
    if not value or "\0" in value:
        raise NotAccepted
    return Path(value)


@accepting("off, stdout, or the path of a file")
def records(text: str) -> Literal["off", "stdout"] | Path:
    """Where records go."""
    value = text.strip()
    match value:
        case "off" | "stdout":
            return value
    return path(text)


# -- secrets ----------------------------------------------------------------------------------------------------------


@accepting("the key as the provider shows it")
def secret(text: str) -> Secret:
    """The text unchanged, spaces and quotes included: the lint of the key reports them."""
    return Secret(text)


@accepting("comma-separated tokens, each 'token' or 'name:token', of letters, digits and !#$%&'*+-.^_`|~")
def client_tokens(text: str) -> tuple[ClientToken, ...]:
    """Tokens with unique names and values; a token without a name is numbered. An empty text is no token."""
    if not text:
        return ()
    tokens: list[ClientToken] = []
    for position, entry in enumerate(_entries(text), 1):
        name, colon, value = entry.partition(":")
        if not colon:
            name, value = f"token-{position}", entry
        if not _NAME.fullmatch(name):
            raise NotAccepted(f"the name of entry {position} is not a word")
        if name == OPEN_ACCESS_CLIENT:
            raise NotAccepted(f"the name of entry {position} is the one that the relay gives clients without a token")
        if re.search(r"\s", value):
            raise NotAccepted(f"entry {position} has a space or line break; separate entries with commas, on one line")
        if not _TOKEN.fullmatch(value):
            raise NotAccepted(f"entry {position} has a character that cannot be sent as a subprotocol")
        tokens.append(ClientToken(name, Secret(value)))
    if not tokens:
        raise NotAccepted("no token")
    if len({token.name for token in tokens}) < len(tokens) or len({token.secret for token in tokens}) < len(tokens):
        raise NotAccepted("two entries have the same name or token")
    return tuple(tokens)


@accepting("a token of 16 to 200 printable ASCII characters without spaces")
def operator_token(text: str) -> Secret:
    """A token that fits into the header Authorization and cannot be guessed, without the line break at the end of a file."""
    token = text.strip()
    if not _OPERATOR_TOKEN.fullmatch(token):
        raise NotAccepted("it can be guessed, or has a character that cannot be sent in a header")
    return Secret(token)


# -- addresses --------------------------------------------------------------------------------------------------------


@accepting("an address or host name of this machine")
def host(text: str) -> str:
    """An address to listen on."""
    value = text.strip().removeprefix("[").removesuffix("]")
    if not _HOST.fullmatch(value):
        raise NotAccepted
    if ":" in value:
        _check_ipv6(value)
    elif not all(0 < len(label) <= _MAX_LABEL for label in value.removesuffix(".").split(".")):
        raise NotAccepted
    return value


def _check_ipv6(value: str) -> None:
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        raise NotAccepted("the port is a setting of its own") from None
    if address.is_link_local or address.scope_id is not None:
        raise NotAccepted(
            "a link-local address belongs to one network interface, and the relay takes no interface: set another address of "
            "that interface, as 'ip addr' lists them, or :: for all"
        )
    if address.is_multicast:
        raise NotAccepted("a multicast address accepts no connections")


@accepting("an https:// URL without a query; http:// only to loopback")
def base_url(text: str) -> str:
    """The provider's address, with http(s) as its scheme and without a slash at its end."""
    if re.match(r"[^/]*//[^/?#]*@", text):
        raise NotAccepted("credentials belong in OPENAI_API_KEY")
    parts, name = _split(text.strip())
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme.lower(), parts.scheme.lower())
    if scheme not in {"http", "https"}:
        raise NotAccepted
    if parts.query or parts.fragment:
        raise NotAccepted("the client's request supplies the query")
    if scheme == "http" and not is_loopback(name):
        raise NotAccepted("http:// would send the key in clear text")
    path = parts.path.rstrip("/")
    if "realtime" in path.split("/"):
        raise NotAccepted("the relay appends /realtime itself")
    return urlunsplit((scheme, parts.netloc, path, "", ""))


@accepting("off, auto, or a URL http://[user:password@]host:port")
def upstream_proxy(text: str) -> Secret | None:
    """`auto`, None for `off`, or the URL of a proxy, which can hold a password."""
    value = text.strip()
    if value.lower() in {"off", proxy.AUTO}:
        return Secret(proxy.AUTO) if value.lower() == proxy.AUTO else None
    if value.lower() in _SWITCHES:  # each is also a host name
        raise NotAccepted("auto uses HTTPS_PROXY, off no proxy")
    try:
        proxy.parse_proxy(value, proxy.PROXY_SETTING)
    except proxy.InvalidProxy as exc:
        raise NotAccepted(exc.cause) from None
    return Secret(value)


@accepting("memory:, or a URL redis[s]://[user:password@]host[:port][/database]")
def store_url(text: str) -> StoreUrl | None:
    """None for a store in memory, or the server, with a password if the URL has one."""
    try:
        return parse_store_url(text)
    except InvalidStoreUrl as exc:
        raise NotAccepted(str(exc)) from None


@accepting("comma-separated origins (scheme://host[:port], file://, null), or *")
def origins(text: str) -> tuple[str, ...]:
    """Origins as browsers send them: lower case, no default port, no path."""
    return tuple(_origin(entry) for entry in _entries(text))


@accepting("comma-separated host names, each with or without a port, such as *.example.com")
def hosts(text: str) -> tuple[str, ...]:
    """Host names as clients send them: lower case, `*.` in front for all names below one."""
    entries = tuple(parse_allowed_host(entry) for entry in _entries(text))
    if None in entries:
        raise NotAccepted
    return tuple(filter(None, entries))


@accepting("comma-separated model names")
def names(text: str) -> tuple[str, ...]:
    """Names in a list."""
    return tuple(header_value(entry) for entry in _entries(text))


@accepting("comma-separated addresses or networks")
def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks in a list."""
    try:
        return tuple(_network(entry) for entry in _entries(text))
    except ValueError:
        raise NotAccepted from None


def _network(text: str) -> IPv4Network | IPv6Network:
    """A network; an IPv4-mapped one as IPv4, in which form addresses are compared."""
    network = ipaddress.ip_network(text.strip("[]"), strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:  # noqa: PLR2004 - ::ffff:0:0/96
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def _origin(text: str) -> str:
    origin = text if text == "*" else parse_origin(text)
    if origin is None:
        raise NotAccepted
    return origin


def _split(text: str) -> tuple[SplitResult, str]:
    """A URL and its host. urlsplit drops line breaks and accepts most characters in a host; here they are mistakes."""
    if re.search(r"[\s\\\x00-\x1f\x7f]", text):
        raise NotAccepted
    try:
        parts = urlsplit(text)
        name, port_number = parts.hostname or "", parts.port
    except ValueError:
        raise NotAccepted from None
    if "@" in parts.netloc or not _HOST.fullmatch(name) or port_number == 0:
        raise NotAccepted
    return parts, name


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]
