"""Control over HTTP, for tests whose client is another process: behaviours of the next dials, drops, and records.

Off by default (`SimulatorOptions.control`): records contain what was said. It serves only peers on this machine that send the
header ``X-Simulator-Control``, which a web page cannot add to a request for another origin without a preflight.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from enum import Enum
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

from aiohttp import web

from service.realtime.names import is_loopback
from service.simulator.behaviour import Behaviour, End, Fault, Moment
from service.simulator.events import JSON, JSONObject, encode
from service.simulator.record import ConnectionRecord

HEADER: Final = "X-Simulator-Control"
_PREFIX = "/simulator/"


class Controlled(Protocol):
    """The simulator, as a program that controls it sees it."""

    @property
    def connections(self) -> Sequence[ConnectionRecord]:
        """The records of the connections, oldest first."""

    def set_dials(self, *behaviours: Behaviour, lane: str | None = None) -> None:
        """Set how the next dials behave."""

    async def drop_all(self, end: End, lane: str | None = None) -> int:
        """End every open connection, of a lane if one is given; return how many."""

    def end_call(self, call_id: str) -> None:
        """End a call."""


class _Verb(Enum):
    DIALS = "POST", "/simulator/dials"
    DROP = "POST", "/simulator/drop"
    END_CALL = "POST", "/simulator/end_call"
    RECORDS = "GET", "/simulator/records"


def is_control(request: web.Request) -> bool:
    """Whether a request is one of these."""
    return request.path.startswith(_PREFIX)


async def handle(request: web.Request, simulator: Controlled) -> web.Response:
    """Answer a control request."""
    peer = request.remote
    if HEADER not in request.headers or peer is None or not is_loopback(peer):
        return _response(HTTPStatus.FORBIDDEN, {"error": f"only programs on this machine, with the header {HEADER}"})
    try:
        verb = _Verb((request.method, request.path))
        body = json.loads(await request.text()) if request.method == "POST" else {}
        return _response(HTTPStatus.OK, await _run(verb, body, request.query.get("lane"), simulator))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return _response(HTTPStatus.BAD_REQUEST, {"error": f"{type(error).__name__}: {error}"})


async def _run(verb: _Verb, body: Mapping[str, Any], lane: str | None, simulator: Controlled) -> JSONObject:
    if verb is _Verb.DIALS:
        simulator.set_dials(*map(parse_behaviour, body["dials"]), lane=body.get("lane"))
        return {"dials": len(body["dials"])}
    if verb is _Verb.DROP:
        return {"dropped": await simulator.drop_all(End.parse(body["end"]), lane=body.get("lane"))}
    if verb is _Verb.END_CALL:
        simulator.end_call(body["call_id"])
        return {}
    records = [_record(record) for record in simulator.connections if lane in (None, record.lane)]
    return {"dials": cast("list[JSON]", records)}


def parse_behaviour(source: Mapping[str, Any]) -> Behaviour:
    """Parse a behaviour: its fields by name. Raises ValueError, TypeError or KeyError."""
    return Behaviour(**{**_known(Behaviour, source), "faults": tuple(map(_fault, source.get("faults", ())))})


def _fault(source: Mapping[str, Any]) -> Fault:
    parsed = {"moment": Moment(source["moment"]), "end": End.parse(source["end"])}
    return Fault(**{**_known(Fault, source), **parsed})


def _known(kind: type[Behaviour | Fault], source: Mapping[str, Any]) -> dict[str, Any]:
    names = {known.name for known in fields(kind)}
    if unknown := set(source) - names:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(sorted(names))}")
    return dict(source)


def _record(record: ConnectionRecord) -> JSONObject:
    return {
        "dial": record.dial,
        "lane": record.lane,
        "status": record.status,
        "session_id": record.session_id,
        "closed": record.closed,
        "close_code": record.close_code,
        "ended_by": record.ended_by,
        "conversation": None if record.conversation is None else record.conversation.as_json(),
    }


def _response(status: HTTPStatus, body: JSONObject) -> web.Response:
    return web.Response(status=status, text=encode(body), content_type="application/json")
