"""The URL at which the doctor connects to a relay. Pure."""

from typing import Final

from yarl import URL

_REALTIME_PATH: Final = "/v1/realtime"
_LIVE_PATH: Final = "/v1/live/sessions"


def is_live_url(url: URL) -> bool:
    """Whether a URL names the WebSocket of GPT-Live."""
    return url.path.rstrip("/").endswith("/live/sessions")


def websocket_url(url: URL, model: str, *, with_live: bool = False) -> URL:
    """The URL of the relay's WebSocket: adds the path where it is missing, and the model, which GPT-Live has in an event."""
    path = url.path.rstrip("/")
    if path in {"", "/v1"}:
        url = url.with_path(_LIVE_PATH if with_live else _REALTIME_PATH).with_query(url.query)
    elif with_live and path.endswith("/realtime"):
        url = url.with_path(f"{path.removesuffix('realtime')}live/sessions").with_query(url.query)
    url = url.with_scheme({"ws": "http", "wss": "https"}.get(url.scheme, url.scheme))
    if with_live:
        return url
    return url if {"model", "call_id", "intent"} & url.query.keys() else url.update_query(model=model)
