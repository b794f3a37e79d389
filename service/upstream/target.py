"""One upstream: its address, its credentials, and what a request to it looks like."""

from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp import encode_basic_auth
from yarl import URL

from service.realtime.keys import Secret
from service.upstream.proxy import Proxy
from service.version import __version__

Label = Literal["openai", "azure", "compatible", "simulator"]

USER_AGENT: Final = f"realtime-relay/{__version__}"
_AZURE_SUFFIXES: Final = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")


@dataclass(frozen=True, slots=True)
class DialRequest:
    """What a client asked for: which socket, and the query to hand on, re-encoded pair by pair."""

    query: tuple[tuple[str, str], ...] = ()
    translation: bool = False
    # Headers of the client that the provider wants to see; an allow-list of one (see `web.upgrade`).
    safety_identifier: str | None = None

    @property
    def promises_first_event(self) -> bool:
        """Whether the provider sends an event by itself: not on a sideband, nor on a translation socket."""
        return not self.translation and not self.has("call_id")

    def has(self, name: str) -> bool:
        """Whether the query names this parameter."""
        return any(key == name for key, _ in self.query)


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream. `base_url` is as the SDKs take it, `https://host/v1`."""

    base_url: str
    key: Secret | None = None
    organization: str | None = None
    project: str | None = None
    simulated: bool = False
    proxy: Proxy | None = None
    label: Label = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", "simulator" if self.simulated else provider_of(self.base_url))

    def socket_url(self, route: DialRequest) -> URL:
        """The URL of a socket. http(s), not ws(s): proxies from the environment are looked up by that scheme."""
        path = "realtime/translations" if route.translation else "realtime"
        return (URL(self.base_url) / path).with_query(list(route.query))

    def model_url(self, model: str) -> URL:
        """Where the provider describes a model to those who may use it."""
        return URL(self.base_url) / "models" / model

    def proxy_headers(self) -> dict[str, str] | None:
        """The credentials for the proxy, if it has any; they are sent to it alone, with CONNECT."""
        if self.proxy is None or self.proxy.user is None:
            return None
        password = self.proxy.password.reveal() if self.proxy.password is not None else ""
        return {"Proxy-Authorization": encode_basic_auth(self.proxy.user, password)}

    def headers(self) -> dict[str, str]:
        """Credentials and identity; never logged, never taken from a client."""
        headers = {"User-Agent": USER_AGENT}
        if self.key is not None:
            if self.label == "azure":
                headers["api-key"] = self.key.reveal()
            else:
                headers["Authorization"] = f"Bearer {self.key.reveal()}"
        if self.organization:
            headers["OpenAI-Organization"] = self.organization
        if self.project:
            headers["OpenAI-Project"] = self.project
        return headers


def provider_of(base_url: str) -> Literal["openai", "azure", "compatible"]:
    """The provider that serves an address: the `upstream` label, and what keys are held against."""
    host = (URL(base_url).host or "").lower().rstrip(".")
    if host == "openai.com" or host.endswith(".openai.com"):
        return "openai"
    return "azure" if host.endswith(_AZURE_SUFFIXES) else "compatible"
