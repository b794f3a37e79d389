"""Faults outside the Realtime protocol: HTTP responses instead of an upgrade, broken connections, early expiry.

Bodies and headers of the HTTP responses follow the provider's guide "Error codes" and clients' reports of its edge.
"""

import asyncio
from http import HTTPStatus

from aiohttp import web

from service.simulator.connection import Connection
from service.simulator.events import ApiError, JSONObject, encode
from service.simulator.refusals import invalid_key_error, rate_limit_error, session_expired
from service.simulator.scenarios import Scenario
from service.simulator.sockets import wait_for_disconnect

_CAPTIVE_PORTAL_PAGE = (
    "<!doctype html><html><head><title>Sign in</title></head><body>Welcome to this network.</body></html>\n"
)
_EDGE_PAGE = (
    "<!doctype html><html><head><title>api.openai.com | 520: Web server is returning an unknown error</title></head>"
    "<body><h1>Error code 520</h1></body></html>\n"
)
_REDIRECT_LOCATION = "https://login.captive.invalid/"
_EDGE_UNKNOWN_ERROR = 520
_RST_DELAY_SECONDS = 0.02  # an immediate RST could discard the 101 before the client has read it


def error_body(error: ApiError, status: int) -> JSONObject:
    """Return the JSON body of an HTTP error."""
    fields: JSONObject = {
        "message": error.message,
        "type": error.error_type,
        "param": error.param,
        "code": error.code,
    }
    return {"error": fields, "status": status}


def scenario_http_response(scenario: Scenario, key: str, model: str) -> web.Response | None:
    """Return the HTTP response of a scenario, the same for upgrade requests and REST; None if it has none."""
    if scenario in (Scenario.HTTP_403, Scenario.HTTP_404):
        return web.Response(status=403 if scenario is Scenario.HTTP_403 else 404)
    if scenario is Scenario.REDIRECT:
        return web.Response(status=HTTPStatus.FOUND, headers={"Location": _REDIRECT_LOCATION})
    if scenario is Scenario.NO_UPGRADE:
        return web.Response(text=_CAPTIVE_PORTAL_PAGE, content_type="text/html")
    if scenario is Scenario.HTTP_520_HTML:
        return web.Response(status=_EDGE_UNKNOWN_ERROR, reason="", text=_EDGE_PAGE, content_type="text/html")
    response = _json_error(scenario, key, model)
    if response is None:
        return None
    status, error, headers = response
    return json_response(status, error_body(error, status), headers)


def json_response(status: int, body: JSONObject, headers: dict[str, str] | None = None) -> web.Response:
    """Return an HTTP response with a compact JSON body."""
    return web.Response(status=status, text=encode(body), content_type="application/json", headers=headers)


async def hang_until_disconnect(transport: asyncio.Transport) -> None:
    """Send nothing until the client disconnects."""
    await wait_for_disconnect(transport)
    transport.close()


async def fail_after_upgrade(connection: Connection, scenario: Scenario) -> bool:
    """Run a scenario that breaks the connection right after the 101; return whether this scenario is one."""
    if scenario is Scenario.DROP:
        connection.drop()
    elif scenario is Scenario.RESET:
        await asyncio.sleep(_RST_DELAY_SECONDS)
        connection.reset()
    elif scenario is Scenario.HANG:
        connection.stop_responding()
    else:
        return False
    async for _ in connection.messages():
        pass
    return True


async def inject_mid_session_fault(connection: Connection, scenario: Scenario) -> None:
    """Run the fault of a ``*-mid`` scenario when the client has sent exactly `fault_after_messages` messages."""
    if connection.record.messages_received != connection.options.fault_after_messages:
        return
    if scenario is Scenario.DROP_MID:
        connection.drop()
    elif scenario is Scenario.RESET_MID:
        connection.reset()
    elif scenario is Scenario.STALL_MID:
        connection.stop_responding()
    elif scenario is Scenario.GOING_AWAY_MID:
        await connection.close(1001)
    elif scenario is Scenario.INTERNAL_ERROR_MID:
        await connection.close(1011, "Internal server error")


async def close_at_expiry(connection: Connection, scenario: Scenario) -> None:
    """Close the session at its maximum duration."""
    await asyncio.sleep(session_lifetime_seconds(connection, scenario))
    connection.record.ended_by = connection.record.ended_by or "expiry"
    await connection.refuse(session_expired(close_only=scenario is Scenario.EXPIRE_SILENT))


def session_lifetime_seconds(connection: Connection, scenario: Scenario) -> float:
    """Return the maximum duration of a session."""
    limit = connection.behaviour.session_seconds or connection.options.session_seconds
    expires_early = scenario in (Scenario.EXPIRE_SOON, Scenario.EXPIRE_SILENT)
    return min(connection.options.expire_after_seconds, limit) if expires_early else limit


def _json_error(scenario: Scenario, key: str, model: str) -> tuple[int, ApiError, dict[str, str]] | None:
    unsupported_country = ApiError(
        "unsupported_country_region_territory",
        "Country, region, or territory not supported",
        error_type="request_forbidden",
    )
    quota = ApiError(
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details. For more information on this "
        "error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
        error_type="insufficient_quota",
    )
    overloaded = "The engine is currently overloaded, please try again later"
    responses: dict[Scenario, tuple[int, ApiError, dict[str, str]]] = {
        Scenario.HTTP_401: (401, invalid_key_error(key), {}),
        Scenario.HTTP_403_GEO: (403, unsupported_country, {}),
        Scenario.HTTP_429: (429, rate_limit_error(model), {"Retry-After": "7"}),
        Scenario.HTTP_429_QUOTA: (429, quota, {}),
        Scenario.HTTP_500: (500, _server_error("The server had an error while processing your request"), {}),
        Scenario.HTTP_502: (502, _server_error("Bad gateway."), {}),
        Scenario.HTTP_503: (503, _server_error(overloaded), {"Retry-After": "30"}),
        Scenario.HTTP_504: (504, _server_error("Gateway timeout."), {}),
    }
    return responses.get(scenario)


def _server_error(message: str) -> ApiError:
    return ApiError(None, message, error_type="server_error")
