"""Scenarios that are not a refusal in words: HTTP answers instead of an upgrade, broken connections, early ends.

Bodies and headers of the HTTP answers follow the provider's guide "Error codes" and what clients reported of its edge.
"""

import asyncio
from http import HTTPStatus

from aiohttp import web

from service.simulator.events import JSONObject, Mistake, encode
from service.simulator.peer import Peer, wait_gone
from service.simulator.refusals import session_expired, too_many_requests, wrong_key
from service.simulator.scenarios import Scenario

_PORTAL = "<!doctype html><html><head><title>Sign in</title></head><body>Welcome to this network.</body></html>\n"
_EDGE_PAGE = (
    "<!doctype html><html><head><title>api.openai.com | 520: Web server is returning an unknown error</title></head>"
    "<body><h1>Error code 520</h1></body></html>\n"
)
_ELSEWHERE = "https://login.captive.invalid/"
_EDGE_UNKNOWN_ERROR = 520
_RST_AFTER_SECONDS = 0.02  # time for the 101 to be read: a reset in the same breath would hide it


def error_body(mistake: Mistake, status: int) -> JSONObject:
    """Write the body of a refusal over HTTP."""
    error: JSONObject = {
        "message": mistake.message,
        "type": mistake.kind,
        "param": mistake.param,
        "code": mistake.code,
    }
    return {"error": error, "status": status}


def http_answer(scenario: Scenario, key: str, model: str) -> web.Response | None:
    """Build the HTTP answer of a scenario, the same for a socket and for REST; None if it has none."""
    if scenario in (Scenario.HTTP_403, Scenario.HTTP_404):
        return web.Response(status=403 if scenario is Scenario.HTTP_403 else 404)
    if scenario is Scenario.REDIRECT:
        return web.Response(status=HTTPStatus.FOUND, headers={"Location": _ELSEWHERE})
    if scenario is Scenario.NO_UPGRADE:
        return web.Response(text=_PORTAL, content_type="text/html")
    if scenario is Scenario.HTTP_520_HTML:
        return web.Response(status=_EDGE_UNKNOWN_ERROR, reason="", text=_EDGE_PAGE, content_type="text/html")
    told = _told(scenario, key, model)
    if told is None:
        return None
    status, mistake, headers = told
    return json_answer(status, error_body(mistake, status), headers)


def json_answer(status: int, body: JSONObject, headers: dict[str, str] | None = None) -> web.Response:
    """Build an answer of compact JSON."""
    return web.Response(status=status, text=encode(body), content_type="application/json", headers=headers)


async def hang_before_101(transport: asyncio.Transport) -> None:
    """Answer nothing for as long as somebody waits."""
    await wait_gone(transport)
    transport.close()


async def break_after_101(peer: Peer, scenario: Scenario) -> bool:
    """Spoil a fresh upgrade; says whether the scenario is one of those that do."""
    if scenario is Scenario.DROP:
        peer.drop()
    elif scenario is Scenario.RESET:
        await asyncio.sleep(_RST_AFTER_SECONDS)
        peer.reset()
    elif scenario is Scenario.HANG:
        peer.mute()
    else:
        return False
    async for _ in peer.messages():
        pass
    return True


async def maybe_strike(peer: Peer, scenario: Scenario) -> None:
    """Let a scenario of the middle happen, once the client has sent enough."""
    if peer.record.messages_received != peer.options.mid_after_events:
        return
    if scenario is Scenario.DROP_MID:
        peer.drop()
    elif scenario is Scenario.RESET_MID:
        peer.reset()
    elif scenario is Scenario.STALL_MID:
        peer.mute()
    elif scenario is Scenario.GOING_AWAY_MID:
        await peer.close(1001)
    elif scenario is Scenario.INTERNAL_ERROR_MID:
        await peer.close(1011, "Internal server error")


async def run_expiry(peer: Peer, scenario: Scenario) -> None:
    """End a session at its cap."""
    await asyncio.sleep(seconds_of_session(peer, scenario))
    await peer.refuse(session_expired(silent=scenario is Scenario.EXPIRE_SILENT))


def seconds_of_session(peer: Peer, scenario: Scenario) -> float:
    """Say how long a session may last."""
    whole = peer.options.session_seconds
    soon = scenario in (Scenario.EXPIRE_SOON, Scenario.EXPIRE_SILENT)
    return min(peer.options.expire_after_seconds, whole) if soon else whole


def _told(scenario: Scenario, key: str, model: str) -> tuple[int, Mistake, dict[str, str]] | None:
    geo = Mistake(
        "unsupported_country_region_territory", "Country, region, or territory not supported", kind="request_forbidden"
    )
    quota = Mistake(
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        kind="insufficient_quota",
    )
    busy = "The engine is currently overloaded, please try again later"
    answers: dict[Scenario, tuple[int, Mistake, dict[str, str]]] = {
        Scenario.HTTP_401: (401, wrong_key(key), {}),
        Scenario.HTTP_403_GEO: (403, geo, {}),
        Scenario.HTTP_429: (429, too_many_requests(model), {"Retry-After": "7"}),
        Scenario.HTTP_429_QUOTA: (429, quota, {}),
        Scenario.HTTP_500: (500, _server_fault("The server had an error while processing your request"), {}),
        Scenario.HTTP_502: (502, _server_fault("Bad gateway."), {}),
        Scenario.HTTP_503: (503, _server_fault(busy), {"Retry-After": "30"}),
        Scenario.HTTP_504: (504, _server_fault("Gateway timeout."), {}),
    }
    return answers.get(scenario)


def _server_fault(message: str) -> Mistake:
    return Mistake(None, message, kind="server_error")
