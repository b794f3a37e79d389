"""Chooses the proxy for the provider: from RELAY_UPSTREAM_PROXY, or from the environment. Pure.

The environment counts only if RELAY_UPSTREAM_PROXY is `auto`: a variable that was set for other programs must not decide
which host the provider's key is sent through.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # public, but missing in typeshed

from service.realtime.keys import Secret

AUTO: Final = "auto"
PROXY_SETTING: Final = "RELAY_UPSTREAM_PROXY"
PROXY_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""In the order in which they are read, which is that of curl."""
_SOCKS: Final = (
    "this is a SOCKS proxy, which the relay does not support; use the HTTP port of that proxy, if it has one"
)


class InvalidProxy(ValueError):
    """A value is not the URL of a proxy. `variable` names the setting or environment variable that holds it.

    `cause` states what it is instead, if that is known; it holds nothing of the value.
    """

    def __init__(self, variable: str, cause: str = "") -> None:
        super().__init__(variable)
        self.variable = variable
        self.cause = cause


@dataclass(frozen=True, slots=True)
class HttpProxy:
    """An HTTP proxy for CONNECT. `origin` names the setting or variable it was read from; `url` has no credentials."""

    url: str
    origin: str
    user: str | None = None
    password: Secret | None = field(default=None, repr=False)

    @property
    def address(self) -> tuple[str | None, int | None]:
        """Host and port, the scheme's default if the URL has none."""
        parts = urlsplit(self.url)
        return parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def choose_proxy(setting: str | None, host: str, environ: Mapping[str, str]) -> HttpProxy | None:
    """The proxy for a host, or None for a direct connection; raises InvalidProxy.

    `setting` is RELAY_UPSTREAM_PROXY: a URL, `auto`, or None where it is off.
    """
    if setting is None:
        return None
    if setting != AUTO:
        return parse_proxy(setting, PROXY_SETTING)
    for name in PROXY_VARIABLES:
        value = environ.get(name, "").strip()
        if value:
            return None if bypasses_proxy(host, environ) else parse_proxy(value, name)
    return None


def bypasses_proxy(host: str, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY excludes a host, by the rules of the standard library: suffixes of names, or `*`."""
    no_proxy = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return bool(no_proxy) and bool(proxy_bypass_environment(host, {"no": no_proxy}))


def parse_proxy(text: str, origin: str) -> HttpProxy:
    """Parse `http://[user:password@]host:port`; the scheme may be missing. Raises InvalidProxy."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidProxy(origin) from None
    if parts.scheme.startswith("socks"):
        raise InvalidProxy(origin, _SOCKS)
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", host) or port == 0:
        raise InvalidProxy(origin)
    user = unquote(parts.username) if parts.username else None
    if parts.path.strip("/") or parts.query or parts.fragment or ":" in (user or ""):  # RFC 7617 section 2
        raise InvalidProxy(origin)
    authority = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    password = Secret(unquote(parts.password)) if parts.password else None
    return HttpProxy(f"{parts.scheme}://{authority}", origin, user, password)
