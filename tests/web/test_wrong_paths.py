"""Paths and methods that the relay does not serve: each answer names what the client can use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.web.live import PATHS as LIVE_PATHS
from service.web.realtime import TRANSLATION_PATHS
from service.web.unserved import (
    CLIENT_SECRET_PATHS,
    REALTIME_PATHS,
    WEBSOCKET_PATHS,
    nearest_path,
    path_not_found,
)
from tests.support.harness import open_raw, simulated_relay
from tests.web.test_invalid_requests import upgrade
from tests.web.test_unserved import check_refusal, rest, send

PATHS_AND_HINTS = {
    "/v1/v1/realtime?model=x": "Use /v1/realtime, ",
    "/v1/realtime/?model=x": "Use /v1/realtime, ",
    "//v1/realtime": "Use /v1/realtime, ",
    "/V1/Realtime": "Use /v1/realtime, ",
    "/v1/realtme": "Use /v1/realtime, ",
    "/voice/v1/realtime": "Use /v1/realtime, ",
    "/v1/realtime/translation": "Use /v1/realtime",
    "/v1%2Frealtime": "Use /v1/realtime, ",
    "/v1/realtime/calls": "no WebRTC calls",
    "/v1/realtime/transcription_sessions": "Send this request to the provider",
    "/v1/chat/completions": "chat completions",
    "/v1/models": "Send this request to the provider",
    "/v1/responses": "Send this request to the provider",
    "/metrics": "RELAY_INTERNAL_PORT",
    "/health": "Use /healthz, ",
    "/": "Connect a WebSocket to /v1/realtime",
    "/wp-login.php": "Connect a WebSocket to /v1/realtime",
}


@pytest.mark.parametrize(("path", "hint"), PATHS_AND_HINTS.items(), ids=PATHS_AND_HINTS.keys())
async def test_wrong_path_is_named(path: str, hint: str) -> None:
    """The remedy names the nearest path, or that the relay does not forward this API."""
    async with simulated_relay() as relay:
        status, error, received = await send(relay, upgrade(target=path))

        check_refusal(relay, "path_not_found", status, error, received)
        assert hint in error["remedy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/v1/realtime?model=x", "/v1/realtime/translations"])
async def test_method_other_than_get_is_named(method: str, path: str) -> None:
    """405 with Allow; a HEAD has no body."""
    async with simulated_relay() as relay:
        status, error, received = await send(relay, rest(path, method, "Content-Length: 0"))

        assert 405 == status
        assert b"Allow: GET\r\n" in received
        assert b"Server:" not in received
        assert error.get("code") == (None if method == "HEAD" else "method_not_allowed")
        assert [f"method {method}"] == [line["detail"] for line in relay.events("admission.refused")]


async def test_connect_is_refused_as_to_a_forward_proxy() -> None:
    """HTTPS_PROXY of the client names the relay."""
    async with simulated_relay() as relay:
        status, error, _ = await send(relay, rest("api.openai.com:443", "CONNECT"))

        assert (404, "path_not_found") == (status, error["code"])
        assert "Remove the relay from HTTP_PROXY" in error["remedy"]


@given(st.text(max_size=300))
def test_any_path_has_a_bounded_remedy(path: str) -> None:
    """The remedy and the nearest path are texts of the relay."""
    failure = path_not_found("GET", path)

    assert failure.remedy.isprintable()
    assert len(failure.remedy) < 500
    assert nearest_path(path) in {None, *WEBSOCKET_PATHS, CLIENT_SECRET_PATHS[0], "/livez", "/readyz", "/healthz"}


def test_hints_name_paths_that_the_relay_serves() -> None:
    """The paths of hints equal those of the routes."""
    assert {*REALTIME_PATHS, *TRANSLATION_PATHS, *LIVE_PATHS} == set(WEBSOCKET_PATHS)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1/live", "Use /v1/live/sessions,"),
        ("/openai/v1/live", "Use /v1/live/sessions,"),
        ("/openai/live/sessions", "Use /v1/live/sessions,"),
        ("/v1/v1/live/sessions", "Use /v1/live/sessions,"),
        ("/v1/live/sessions/", "Use /v1/live/sessions,"),
        ("/v1/live/session", "Use /v1/live/sessions,"),
        ("/v1/live/rtc_u1_x", "Use /v1/live/sessions,"),
        ("/gateway/v1/live/sessions/live_u1_x/attach", "Use /v1/live/sessions,"),
        ("/v1/live/sessions/live_u1_x/fork", "Send this request to the provider"),
        ("/v1/live/sessions/live_u1_x/hangup", "Send this request to the provider"),
        ("/live", "Use /livez,"),
    ],
)
def test_wrong_path_of_live_has_its_route(path: str, part: str) -> None:
    """A prefix, an older path, another dialect; what the relay does not forward is sent to the provider."""
    assert path_not_found("GET", path).remedy.startswith(part)


@pytest.mark.parametrize("path", ["/v1/v1/realtime?model=m", "/v1/realtime/ws?x=1", "/nothing?x=1"])
async def test_wrong_path_is_an_event_on_request(path: str) -> None:
    """A page that asks for it reads the reason and the nearest path; it is counted and logged once."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, f"{path}&on_failure=event", {"Origin": "http://localhost:3000"})
        event = await client.next_event()
        close = await client.until_close()
        await client.close()

        assert (101, "path_not_found") == (client.answer.status, event["error"]["code"])
        assert close is not None
        assert 4004 == close[0]
        assert "/v1/realtime" in event["error"]["remedy"]
        assert ["path_not_found"] == [line["reason"] for line in relay.events("admission.refused")]
        assert 1 == relay.metric("realtime_relay_admissions_total", result="path_not_found")
