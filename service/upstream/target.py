"""One upstream: its base URL, its credentials, and the URLs and headers of requests to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from aiohttp import encode_basic_auth
from yarl import URL

from service.realtime.events import Api
from service.realtime.keys import Secret
from service.upstream.proxy import HttpProxy
from service.version import __version__

Label = Literal["openai", "azure", "compatible", "simulator"]

Endpoint = Literal["realtime", "translation", "live", "attach"]
"""An endpoint of the provider: of the Realtime API, its translations, GPT-Live, and the sideband of a GPT-Live session."""

USER_AGENT: Final = f"realtime-relay/{__version__}"
_PATHS: Final[Mapping[Endpoint, str]] = {
    "realtime": "realtime",
    "translation": "realtime/translations",
    "live": "live/sessions",
    "attach": "live/sessions/{}/attach",
}
_AZURE_SUFFIXES: Final = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com")


@dataclass(frozen=True, slots=True)
class DialRequest:
    """What a client requests from upstream: which endpoint, and with which query, as decoded pairs."""

    query: tuple[tuple[str, str], ...] = ()
    endpoint: Endpoint = "realtime"
    live_session: str = ""  # the id of the GPT-Live session to attach to
    # The only header of a client that is sent upstream (see `web/request.py`).
    safety_identifier: str | None = None
    # Events of upstream that the relay reads beside those that it always does, and those that it only keeps, to continue
    # the session on another connection.
    further_types: frozenset[str] = frozenset()
    kept_types: frozenset[str] = frozenset()

    @property
    def promises_first_event(self) -> bool:
        """Whether the provider sends an event first: not for a sideband, a translation, or GPT-Live."""
        return self.endpoint == "realtime" and not self.has("call_id")

    @property
    def api(self) -> Api:
        """The API of the endpoint."""
        return Api.LIVE if self.endpoint in {"live", "attach"} else Api.REALTIME

    @property
    def names_a_call(self) -> bool:
        """Whether it joins a call that exists, so that a 404 means that call."""
        return self.endpoint == "attach" or self.has("call_id")

    @property
    def route(self) -> str:
        """Which of the provider's kinds of connection it is: for the memory of failures."""
        if self.endpoint != "realtime":
            return self.endpoint
        return "sideband" if self.has("call_id") else "conversation"

    @property
    def model(self) -> str:
        """The model, or an empty string."""
        return next((value for key, value in self.query if key == "model"), "")

    def has(self, name: str) -> bool:
        """Whether the query has this parameter."""
        return any(key == name for key, _ in self.query)


@dataclass(frozen=True, slots=True)
class Target:
    """One upstream. `base_url` has the form that the SDKs accept, `https://host/v1`."""

    base_url: str
    key: Secret | None = None
    organization: str | None = None
    project: str | None = None
    simulated: bool = False
    proxy: HttpProxy | None = None
    base_url_from: str | None = None  # where OPENAI_BASE_URL was read; None for the default
    label: Label = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", "simulator" if self.simulated else provider_of(self.base_url))

    def socket_url(self, request: DialRequest) -> URL:
        """The URL of a WebSocket, with scheme http(s): the dial sends the upgrade as an HTTP request."""
        path = _PATHS[request.endpoint].format(request.live_session)
        return (URL(self.base_url) / path).with_query(list(request.query))

    def model_url(self, model: str) -> URL:
        """The URL of a model's description, which needs access to the model."""
        return URL(self.base_url) / "models" / model

    def proxy_headers(self) -> dict[str, str] | None:
        """The credentials for the proxy, or None. They are sent with CONNECT only, never to the provider."""
        if self.proxy is None or self.proxy.user is None:
            return None
        password = self.proxy.password.reveal() if self.proxy.password is not None else ""
        return {"Proxy-Authorization": encode_basic_auth(self.proxy.user, password)}

    def headers(self) -> dict[str, str]:
        """The credentials and the user agent of a request. They never come from a client and are never logged."""
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
    """The provider behind a base URL: the `upstream` label, and the rules for the lint of keys."""
    host = (URL(base_url).host or "").lower().rstrip(".")
    if host == "openai.com" or host.endswith(".openai.com"):
        return "openai"
    return "azure" if host.endswith(_AZURE_SUFFIXES) else "compatible"
