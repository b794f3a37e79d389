"""How a client sees a failure: as an HTTP status with a JSON body, or as an error event and a close code.

Both forms are made from the same row of the catalogue and carry the same error object.
"""

import asyncio
import json
import random
import secrets
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from service.access.budgets import Use
from service.failures import CATALOGUE, Failure
from service.realtime.scanner import Scanner
from service.web.request import OpeningHandshake
from service.wire.closing import PeerCloseReceiver, close_leg
from service.wire.leg import Leg
from service.wire.seam import answer_client

_PROVIDER_CLOSE_CODES: Final = range(3000, 5000)
"""The provider's private close codes (RFC 6455 section 7.4.2), which are passed on. Standard codes are replaced by those of
the catalogue, because clients decide by them whether to retry."""
_CLOSE_SECONDS: Final = 2.0
_ANY_SIZE: Final = 1 << 40  # of a message that is discarded


def error_object(
    failure: Failure, session_id: str, param: str | None = None, event_id: str | None = None
) -> dict[str, object]:
    """Return the `error` object: the shape of the provider's own errors, plus the fields of the catalogue.

    `param` and `event_id` name what in a client's event is the cause.
    """
    row = failure.row
    return {
        "type": "relay_error",
        "code": failure.reason,
        "message": row.sentence,
        "param": param or failure.param,
        "event_id": event_id,
        "remedy": failure.client_remedy,
        "retry": row.retry,
        "upstream_status": failure.wire_status,
        "upstream_code": failure.upstream_code,
        "session_id": session_id,
    }


def error_event(failure: Failure, session_id: str, param: str | None = None, event_id: str | None = None) -> bytes:
    """Return the payload of an `error` event."""
    return _event("error", error=error_object(failure, session_id, param, event_id))


def draining_event(seconds: float, session_id: str) -> bytes:
    """Return the payload of `relay.draining`, which announces that the session is closed in this many seconds."""
    row = CATALOGUE["relay_draining"]
    return _event(
        "relay.draining",
        closes_in_seconds=round(seconds, 1),
        message=row.sentence,
        remedy=row.remedy,
        session_id=session_id,
    )


def budget_event(use: Use, session_id: str) -> bytes:
    """Return the payload of `relay.budget_nearly_used`, which names the limit and its used share."""
    return _event(
        "relay.budget_nearly_used",
        limit=use.limit,
        used_ratio=round(use.ratio, 3),
        message="A budget of this client or its user is nearly used up. The session ends when it is used up.",
        session_id=session_id,
    )


def _event(event_type: str, **fields: object) -> bytes:
    event = {"type": event_type, "event_id": f"event_{secrets.token_hex(10)}", **fields}
    return json.dumps(event, separators=(",", ":")).encode()


def http_response(failure: Failure, session_id: str) -> web.Response:
    """Return the HTTP response that refuses an upgrade: the row's status, or 500 for a row that has none, and a JSON body.

    429 and 503 carry Retry-After. The connection is closed after a temporary failure: the next attempt can
    reach another instance.
    """
    row = failure.row
    headers = {"Cache-Control": "no-store"}
    match row.http_status:
        case 401:
            headers["WWW-Authenticate"] = 'Bearer realm="realtime-relay"'
        case 426:
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        case 402 if failure.retry_after_seconds is not None:
            headers["Retry-After"] = str(failure.retry_after_seconds)
        case 429 | 503:
            # Random, so that clients that were refused together do not retry together.
            headers["Retry-After"] = str(failure.retry_after_seconds or random.randint(1, 5))  # noqa: S311 - no secret
    response = web.json_response(
        {"error": error_object(failure, session_id)}, status=row.http_status or 500, headers=headers
    )
    if not row.is_definite:
        response.force_close()
    return response


def close_code_and_reason(failure: Failure) -> tuple[int, str]:
    """Return the close code and reason for a client: the provider's own where it defines them, else the row's."""
    row = failure.row
    code = failure.close_code
    if code is not None and code in _PROVIDER_CLOSE_CODES:
        return code, failure.close_reason or row.close_text
    return row.event_close_code or 1011, row.close_text


async def answer_with_error_event(
    request: web.Request, handshake: OpeningHandshake, failure: Failure, session_id: str
) -> None:
    """Refuse an upgrade with 101, one error event and a close code, for browsers.

    * Ordering: the dial has failed, or was not made, before the 101 is sent. The error event precedes the CLOSE frame.
    * Cancellation: aiohttp cancels the handler when the client disconnects. The closing handshake is a task of its own and
      goes on, for 2 s at most; then the socket is aborted.
    * Errors: none. A client that has disconnected before the 101 is ignored, and the request then has no `UPGRADE_RESPONSE`.
    """
    try:
        leg = await answer_client(request, handshake.key, handshake.subprotocol)
    except ConnectionError:
        return
    scanner = Scanner(masked=True, max_message_bytes=_ANY_SIZE)
    closing = close_with_events(leg, scanner, failure, [error_event(failure, session_id)])
    await asyncio.shield(asyncio.ensure_future(closing))


async def close_with_events(leg: Leg, scanner: Scanner, failure: Failure, events: Iterable[bytes]) -> None:
    """Send events and close a client's connection with the code of the failure; `scanner` is that of its bytes."""
    leg.start(PeerCloseReceiver(leg, scanner))
    for event in events:
        leg.send_event(event)
    code, reason = close_code_and_reason(failure)
    await close_leg(leg, code, reason, deadline=asyncio.get_running_loop().time() + _CLOSE_SECONDS)
