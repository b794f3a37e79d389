"""Whether a client's session outlives its upstream connection, and how the client learns it."""

import dataclasses

from aiohttp import web

from service.realtime.continuity.kept import KEEP_FROM_UPSTREAM
from service.relay.continuity.pool import ContinuityPool
from service.upstream.target import DialRequest
from service.web.attempts import ConnectionAttempt
from service.web.request import asks_for_continuity, wants_continuity


def with_continuity(
    request: web.Request, attempt: ConnectionAttempt, dial_request: DialRequest, pool: ContinuityPool | None
) -> DialRequest:
    """The request for a session with continuity, if the client is to have it and there is memory for it.

    Raises Failure with bad_request for a mode that does not exist, or that the API cannot have.
    """
    default = pool is not None and pool.options.mode == "renew"
    if not wants_continuity(request, dial_request.endpoint, default=default):
        return dial_request
    if pool is not None and pool.options.mode != "off" and pool.has_room:
        attempt.continuity = True
        return dataclasses.replace(dial_request, kept_types=KEEP_FROM_UPSTREAM)
    attempt.lacks_room = pool is not None and pool.options.mode != "off"
    if asks_for_continuity(request):
        attempt.continuity = False
    return dial_request


def continuity_header(attempt: ConnectionAttempt) -> dict[str, str]:
    """What the client learns with its 101. A client that has not asked and has no continuity learns nothing."""
    return {} if attempt.continuity is None else {"Relay-Continuity": "renew" if attempt.continuity else "off"}
