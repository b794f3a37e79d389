"""The value of RELAY_STORE_URL. Pure."""

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from service.realtime.keys import Secret
from service.realtime.names import url_host

_HOST: Final = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
_DEFAULT_PORT: Final = 6379


class InvalidStoreUrl(ValueError):
    """The text is no URL of a store. The message holds nothing of it."""


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A Redis or Valkey server. `user` and `password` are None where the URL has none."""

    host: str
    port: int = _DEFAULT_PORT
    database: int = 0
    user: str | None = None
    password: Secret | None = field(default=None, repr=False)
    is_tls: bool = False

    def __str__(self) -> str:
        """The URL without credentials."""
        scheme = "rediss" if self.is_tls else "redis"
        return f"{scheme}://{url_host(self.host)}:{self.port}/{self.database}"


def parse_store_url(text: str) -> StoreUrl | None:
    """None for `memory:`, else the server; raises InvalidStoreUrl."""
    text = text.strip()
    if text.partition(":") == ("memory", ":", ""):
        return None
    if re.search(r"[\s\\\x00-\x1f\x7f]", text):
        raise InvalidStoreUrl("it holds a space or a control character")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidStoreUrl("host or port is malformed; write a special character of the password as %XX") from None
    if parts.scheme not in {"redis", "rediss"}:
        raise InvalidStoreUrl("the scheme is another one")
    if not _HOST.fullmatch(host) or port == 0:
        raise InvalidStoreUrl("host or port is malformed; write a special character of the password as %XX")
    if parts.query or parts.fragment:
        raise InvalidStoreUrl("it has a query or a fragment; write ? and # in a password as %3F and %23")
    if not re.fullmatch(r"/?|/[0-9]{1,3}", parts.path):
        raise InvalidStoreUrl("its path is not the number of a database")
    return StoreUrl(
        host,
        port or _DEFAULT_PORT,
        int(parts.path.strip("/") or 0),
        unquote(parts.username) if parts.username else None,
        Secret(unquote(parts.password)) if parts.password else None,
        parts.scheme == "rediss",
    )
