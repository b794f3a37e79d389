"""How a failure looks to a client: an HTTP status with a JSON body, or an error event and a close code.

Both are made from the catalogue's row and say the same.
"""

import asyncio
import json
import random
import secrets
from typing import Final

from aiohttp import web

from service.failures import CATALOGUE, Failure, Retry
from service.realtime.scanner import Scanner
from service.web.request import Handshake
from service.wire.closing import CloseReader, close_leg
from service.wire.seam import answer_client

_OWN_CODES: Final = range(3000, 5000)
"""Close codes of the provider's own; the standard ones follow the catalogue, which knows what may be tried again."""
_FAREWELL_SECONDS: Final = 2.0


def error_object(failure: Failure, session_id: str) -> dict[str, object]:
    """The error, in the shape of the provider's own errors and with what the catalogue adds."""
    row = failure.row
    return {
        "type": "relay_error",
        "code": failure.reason,
        "message": row.sentence,
        "param": None,
        "event_id": None,
        "remedy": row.remedy,
        "retry": row.retry,
        "upstream_status": failure.wire_status,
        "upstream_code": failure.upstream_code,
        "session_id": session_id,
    }


def error_event(failure: Failure, session_id: str) -> bytes:
    """The payload of an `error` event."""
    event = {"type": "error", "event_id": f"event_{secrets.token_hex(10)}", "error": error_object(failure, session_id)}
    return json.dumps(event, separators=(",", ":")).encode()


def ending_event(reason: str, session_id: str) -> bytes:
    """The `error` event that tells of the end of an open session."""
    return error_event(Failure(reason), session_id)


def draining_event(seconds: float, session_id: str) -> bytes:
    """The payload of the event that tells an open session of a drain: when it will be closed, and what to do."""
    row = CATALOGUE["relay_draining"]
    event = {
        "type": "relay.draining",
        "event_id": f"event_{secrets.token_hex(10)}",
        "closes_in_seconds": round(seconds, 1),
        "message": row.sentence,
        "remedy": row.remedy,
        "session_id": session_id,
    }
    return json.dumps(event, separators=(",", ":")).encode()


def http_response(failure: Failure, session_id: str) -> web.Response:
    """The refusal of an upgrade."""
    row = failure.row
    headers = {"Cache-Control": "no-store"}
    match row.http_status:
        case 401:
            headers["WWW-Authenticate"] = 'Bearer realm="realtime-relay"'
        case 426:
            headers |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        case 429 | 503:
            # A little apart, so that those who were refused together do not come back together.
            headers["Retry-After"] = str(failure.retry_after_seconds or random.randint(1, 5))  # noqa: S311 - no secret
    response = web.json_response(
        {"error": error_object(failure, session_id)}, status=row.http_status or 500, headers=headers
    )
    if row.retry is not Retry.NEVER:
        response.force_close()
    return response


def close_words(failure: Failure) -> tuple[int, str]:
    """Close code and reason for a browser; the provider's own code is kept, with its reason if it has the known shape."""
    row = failure.row
    code = failure.close_code
    if code is not None and code in _OWN_CODES:
        return code, failure.close_reason or row.close_text
    return row.close_code or 1011, row.close_text


def is_told_by_event(failure: Failure, *, wanted: bool) -> bool:
    """Whether a failure goes by event: where the client wants it and the reason has a close code."""
    return wanted and CATALOGUE[failure.reason].close_code is not None


async def tell_by_event(request: web.Request, handshake: Handshake, failure: Failure, session_id: str) -> None:
    """Answer the upgrade only to say why it came to nothing. The client may be gone; nobody is to know then."""
    try:
        leg = await answer_client(request, handshake.key, handshake.subprotocol)
    except ConnectionError:
        return
    leg.start(CloseReader(leg, Scanner(masked=True, max_message_bytes=1 << 40)))
    leg.send_event(error_event(failure, session_id))
    code, reason = close_words(failure)
    deadline = asyncio.get_running_loop().time() + _FAREWELL_SECONDS
    # A task of its own: the handler is cancelled when the client hangs up, and the socket has to be closed even so.
    await asyncio.shield(asyncio.ensure_future(close_leg(leg, code, reason, deadline=deadline)))
