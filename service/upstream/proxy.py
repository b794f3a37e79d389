"""Whether the way to the provider leads through a proxy: RELAY_UPSTREAM_PROXY, or what the environment says. Pure.

Nothing is read from the environment unless RELAY_UPSTREAM_PROXY is `auto`: a variable that somebody set for other programs
must not silently decide where the provider's key travels.
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
"""In the order in which they are asked; curl's, too."""


class InvalidProxy(ValueError):
    """A text that is no URL of a proxy; `variable` is where it stands."""

    def __init__(self, variable: str) -> None:
        super().__init__(variable)
        self.variable = variable


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is asked to CONNECT. `origin` is the variable that named it; `url` has no credentials in it."""

    url: str
    origin: str
    user: str | None = None
    password: Secret | None = field(default=None, repr=False)


def choose_proxy(setting: str | None, host: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for a host, or None. `setting` is a URL, `auto` or None; raises NotAProxy."""
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
    """Whether NO_PROXY names a host, by the rules of the standard library: suffixes of names, or `*`."""
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return bool(excepted) and bool(proxy_bypass_environment(host, {"no": excepted}))


def parse_proxy(text: str, origin: str) -> Proxy:
    """`http://[user:password@]host:port`, or without the scheme as some environments write it; raises NotAProxy."""
    text = text.strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidProxy(origin) from None
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[A-Za-z0-9_.:-]{1,253}", host) or port == 0:
        raise InvalidProxy(origin)
    user = unquote(parts.username) if parts.username else None
    if parts.path.strip("/") or parts.query or parts.fragment or ":" in (user or ""):  # RFC 7617 section 2
        raise InvalidProxy(origin)
    shown = f"[{host}]" if ":" in host else host
    suffix = f":{port}" if port else ""
    password = Secret(unquote(parts.password)) if parts.password else None
    return Proxy(f"{parts.scheme}://{shown}{suffix}", origin, user, password)
